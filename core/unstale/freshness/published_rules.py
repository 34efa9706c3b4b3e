"""The published rules as this agent knows them: which keys they own, and how long a value may live."""

import logging
import random
from collections import OrderedDict
from typing import Final

from unstale.errors import MessageError
from unstale.protocol.messages import PublishedRules
from unstale.redis_tier.shared_tier import SharedTier

logger = logging.getLogger("unstale")

REMEMBERED: Final = 10_000
"""Keys whose owner and TTL are remembered, so that a read does not match patterns again."""


class KnownRules:
    """The published rules, read when following begins and whenever a watermark names others."""

    def __init__(
        self,
        tier: SharedTier,
        *,
        default_ttl: float,
        jitter: float,
        negative_ttl: float | None = None,
    ) -> None:
        self._tier = tier
        self._default_ttl = default_ttl
        self._jitter = jitter
        self.negative_ttl = negative_ttl
        """Seconds a value that is None may live at most; None: as long as any other."""
        self._rules = PublishedRules()
        self._known: OrderedDict[str, tuple[bool, float | None, float | None]] = OrderedDict()
        self._warned: set[str] = set()
        self.loaded = False
        """True once the rules, or that there are none, were read from Redis."""

    @property
    def hash(self) -> str:
        """Hash of the rules known here; a watermark with another one means: load."""
        return self._rules.hash

    async def load(self) -> None:
        """Read the rules from Redis; raises `RedisUnavailable`. Unreadable ones are logged and ignored."""
        if not self._tier.shared:
            return  # an embedded worker hands its rules to `adopt`
        try:
            rules = await self._tier.rules()
        except MessageError as error:
            logger.warning("the published rules cannot be read, the known ones stay in force: %s", error)
            return
        if rules is not None:  # an emptied Redis is no reason to forget which keys are owned
            self.adopt(rules)
        self.loaded = True

    def adopt(self, rules: PublishedRules) -> None:
        """Put these rules in force."""
        self._rules, self.loaded = rules, True
        self._known.clear()

    def owns(self, key: str) -> bool:
        """Return True if a rule owns ``key``."""
        return self._look_up(key)[0]

    def refreshed(self, key: str) -> bool:
        """Return True if ``key`` is refreshed when it changes."""
        return bool(self._rules.refresh) and self._look_up(key)[2] is not None

    def serves_stale(self, key: str) -> bool:
        """Return True if the value from before a change of ``key`` may be served while it is refreshed."""
        return bool(self._rules.refresh) and bool(self._look_up(key)[2])

    @property
    def keeps_stale(self) -> bool:
        """True if values from before a change are kept, of any key, or if no rules are known."""
        return not self.loaded or any(seconds for _, seconds in self._rules.refresh)

    def ttl(self, key: str) -> float:
        """Return the seconds a value may live: those of the first ``[ttl]`` pattern, else ``default_ttl``."""
        ttl = self._look_up(key)[1]
        return self._default_ttl if ttl is None else ttl

    def ttl_of_load(
        self, key: str, ttl: float | None, negative_ttl: float | None = None, *, negative: bool = False
    ) -> float:
        """Return the TTL of a loaded value: shortened at random, so that values do not expire together.

        A value that is None (``negative``) lives for ``negative_ttl`` at most, or for the setting's.
        """
        if ttl is None:
            self._warn_of_default(key)
            ttl = self.ttl(key)
        if negative:
            ttl = self.bounded(ttl, negative_ttl)
        return ttl * (1 - self._jitter * random.random())

    def bounded(self, seconds: float, negative_ttl: float | None = None) -> float:
        """Return the seconds a value that is None may live, out of those that another value might."""
        most = self.negative_ttl if negative_ttl is None else negative_ttl
        return seconds if most is None else min(seconds, most)

    def ttl_of_set(self, key: str, ttl: float | None) -> float:
        """Return the TTL of a value that was set: exactly what was asked for."""
        if ttl is None:
            self._warn_of_default(key)
            return self.ttl(key)
        return ttl

    def _warn_of_default(self, key: str) -> None:
        owned, ttl, _ = self._look_up(key)
        if not owned and ttl is None and self.loaded:
            self.warn_once(
                key,
                "no rule owns %r and no [ttl] names it: it is kept for %g s, and no change of the "
                "database removes it before; add a rule, or pass ttl=",
                key,
                self._default_ttl,
            )

    def warn_once(self, key: str, sentence: str, *args: object) -> None:
        """Log a warning about ``key``, once for all keys that differ from it only in their digits."""
        shape = sentence[:20] + "".join("#" if c.isdigit() else c for c in key)
        if shape not in self._warned and len(self._warned) < REMEMBERED:
            self._warned.add(shape)
            logger.warning(sentence, *args)

    def _look_up(self, key: str) -> tuple[bool, float | None, float | None]:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (
                self._rules.owns(key),
                self._rules.ttl_of(key),
                self._rules.refresh_of(key),
            )
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    def __repr__(self) -> str:
        return f"<KnownRules {len(self._rules.patterns)} patterns, hash {self.hash[:8] or 'none'}>"
