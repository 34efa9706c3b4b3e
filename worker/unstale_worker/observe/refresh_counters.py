"""Counters of the refreshes of one process."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RefreshCounters:
    """Totals since the start of the process.

    Attributes:
        filled: Values refreshed.
        unchanged: Values stored again without a load, as their inputs were unchanged, by refresh.
        overtaken: Loads that a newer change overtook; their keys became due again.
        failed: Attempts that failed.
        dead: Keys that became dead letters.
        dispatched: Keys made ready for Python loaders.
    """

    filled: int = 0
    unchanged: dict[tuple[str, ...], float] = field(default_factory=dict)
    overtaken: int = 0
    failed: int = 0
    dead: int = 0
    dispatched: int = 0
