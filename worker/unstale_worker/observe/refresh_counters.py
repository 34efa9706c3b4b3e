"""Counters of the refreshes of one process."""

from dataclasses import dataclass


@dataclass(slots=True)
class RefreshCounters:
    """Totals since the start of the process.

    Attributes:
        filled: Values refreshed.
        overtaken: Loads that a newer change overtook; their keys became due again.
        failed: Attempts that failed.
        dead: Keys that became dead letters.
        dispatched: Keys made ready for Python loaders.
    """

    filled: int = 0
    overtaken: int = 0
    failed: int = 0
    dead: int = 0
    dispatched: int = 0
