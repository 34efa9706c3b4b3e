"""Patterns to invalidate once more after the rules have changed. Pure."""

from typing import Final

from unstale.protocol.messages import PublishedRules

ALL_KNOW_AFTER: Final = 15.0
"""Seconds after which every agent that stores values knows new rules: it hears of them within a second, or is
detached after `max_silence` (5 s) and stores nothing."""


class RulesTransition:
    """Values that agents without the new rules may have stored while the owned keys were dropped.

    A key that only the new rules own could be stored without a lease until the new rules were in force, also
    behind the scan that dropped the keys. A key that only the old rules own could be stored with their TTL by
    an agent that had not heard of the new rules yet.

    Example:
        >>> transition = RulesTransition()
        >>> transition.began(PublishedRules(patterns=("a:*",)), PublishedRules(patterns=("b:*",)), at=10.0)
        >>> sorted(transition.due(10.0)), sorted(transition.due(10.0 + ALL_KNOW_AFTER))
        (['b:*'], ['a:*'])
    """

    def __init__(self) -> None:
        self._pending: list[tuple[float, frozenset[str]]] = []

    def began(self, old: PublishedRules, new: PublishedRules, *, at: float) -> None:
        """Note that ``new`` rules took the place of ``old`` ones at ``at`` (monotonic seconds)."""
        added, lost = set(new.patterns) - set(old.patterns), set(old.patterns) - set(new.patterns)
        later = ((at, frozenset(added)), (at + ALL_KNOW_AFTER, frozenset(lost)))
        self._pending += [(due, patterns) for due, patterns in later if patterns]

    def due(self, now: float) -> frozenset[str]:
        """Return the patterns to invalidate at ``now``, each once."""
        if not self._pending:
            return frozenset()
        ready = [patterns for due, patterns in self._pending if due <= now]
        self._pending = [pair for pair in self._pending if pair[0] > now]
        return frozenset().union(*ready)
