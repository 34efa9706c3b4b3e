"""Counters of the refreshes of one process."""

from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class RefreshCounters:
    """Totals since the start of the process.

    Attributes:
        filled: Values refreshed.
        unchanged: Values stored again without a load, as their inputs were unchanged, by refresh.
        calls: Calls of Python loaders, by refresh.
        tokens: Tokens of language models, by refresh, direction (``in``, ``out``) and whether they were spent
            or saved.
        over_budget: Refreshes without a call, as a budget was used up, by refresh.
        overtaken: Loads that a newer change overtook; their keys became due again.
        failed: Attempts that failed.
        dead: Keys that became dead letters.
        dispatched: Keys made ready for Python loaders.
    """

    filled: int = 0
    unchanged: dict[tuple[str, ...], float] = field(default_factory=dict)
    calls: dict[tuple[str, ...], float] = field(default_factory=dict)
    tokens: dict[tuple[str, ...], float] = field(default_factory=dict)
    over_budget: dict[tuple[str, ...], float] = field(default_factory=dict)
    overtaken: int = 0
    failed: int = 0
    dead: int = 0
    dispatched: int = 0

    def copy(self) -> "RefreshCounters":
        """Return a copy that does not change any more."""
        return replace(
            self,
            unchanged=dict(self.unchanged),
            calls=dict(self.calls),
            tokens=dict(self.tokens),
            over_budget=dict(self.over_budget),
        )
