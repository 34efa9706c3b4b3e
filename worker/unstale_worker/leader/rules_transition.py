"""Invalidations that are repeated after a change of the rules. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from unstale.protocol.messages import PublishedRules

ALL_KNOW_AFTER: Final = 15.0
"""Seconds after which every agent that stores values knows new rules: it hears of them within a second, or is
detached after `max_silence` (5 s) and stores nothing."""


class RulesTransition:
    """Values that agents without the new rules may have stored while or after the owned keys were dropped.

    - Recovery: a key that only the new rules own could be stored without a lease until the new rules were in
      force, also behind the scan that dropped the keys.
    - A key that only the old rules own could be stored with their TTL by an agent that had not heard of the
      new rules yet. The published rules say since when such keys have no owner, so another leader knows too.
    - A key whose TTL became shorter was stored with the old one, or is by an agent that has not heard of it.

    Example:
        >>> transition = RulesTransition()
        >>> transition.lost([("a:*", 1_800_000_000.0)], now=1_800_000_001.0, at=10.0)
        >>> sorted(transition.due(10.0)), sorted(transition.due(10.0 + ALL_KNOW_AFTER))
        ([], ['a:*'])
    """

    def __init__(self) -> None:
        self._patterns: list[tuple[float, frozenset[str]]] = []
        self._lives: list[tuple[float, tuple[str, ...]]] = []

    def recovered(self, old: PublishedRules, new: PublishedRules, *, at: float) -> None:
        """Note that a recovery put ``new`` rules in the place of ``old`` ones, at ``at`` (monotonic)."""
        if added := set(new.patterns) - set(old.patterns):
            self._patterns.append((at, frozenset(added)))

    def lost(self, former: Iterable[tuple[str, float]], *, now: float, at: float) -> None:
        """Note when patterns lost their owner, as the published rules say; ``now`` is Unix time at ``at``.

        Of one that is long past nothing is left to do. Clocks of two machines may differ a little.
        """
        lately = frozenset(pattern for pattern, since in former if abs(now - since) < 2 * ALL_KNOW_AFTER)
        if lately:
            self._patterns.append((at + ALL_KNOW_AFTER, lately))

    def shortened(self, globs: Sequence[str], *, at: float) -> None:
        """Note that keys that match ``globs`` have another TTL since ``at``."""
        if globs:
            self._lives += [(at, tuple(globs)), (at + ALL_KNOW_AFTER, tuple(globs))]

    @property
    def all_shortened(self) -> bool:
        """True if no glob is left whose keys are still to be shortened."""
        return not self._lives

    def due(self, now: float) -> frozenset[str]:
        """Return the patterns to invalidate at ``now``, each once."""
        if not self._patterns:
            return frozenset()
        ready = [patterns for due, patterns in self._patterns if due <= now]
        self._patterns = [pair for pair in self._patterns if pair[0] > now]
        return frozenset().union(*ready)

    def lives_due(self, now: float) -> tuple[str, ...]:
        """Return the globs of keys whose TTL to shorten at ``now``, each once."""
        if not self._lives:
            return ()
        ready = [glob for due, globs in self._lives if due <= now for glob in globs]
        self._lives = [pair for pair in self._lives if pair[0] > now]
        return tuple(dict.fromkeys(ready))
