"""Answer with a spare value: the loader failed (``stale_if_error``) or is slow (``soft_timeout``).

Only a reader whose load has begun comes here, so a hit costs nothing more. A spare value is answered only
while attached: otherwise nothing bounds how old it is. It is never stored in the near cache.
"""

import logging
from typing import Final, Literal, NamedTuple, TypeAlias

from unstale.errors import CacheClosed, LoadCycle, RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.reading.options import ReadOptions
from unstale.reading.result import FAILED, SLOW, ReadResult
from unstale.reading.stale_answers import note
from unstale.redis_tier.shared_tier import SharedTier
from unstale.sealing.sealer import Sealer

logger = logging.getLogger("unstale")

Why: TypeAlias = Literal["slow", "failed"]
OWN_ERRORS: Final = (CacheClosed, LoadCycle)
"""Errors of a read that are not its loader's failure."""


class Terms(NamedTuple):
    """The older answers that one read allows.

    Attributes:
        soft: Seconds after which an older value is answered while the load goes on; None: never.
        bound: Most seconds since that value was current.
    """

    soft: float | None
    bound: float


class OlderValues:
    """Finds spare values, within what the read and the rules allow."""

    def __init__(
        self, tier: SharedTier, freshness: Freshness, rules: KnownRules, sealer: Sealer | None = None
    ) -> None:
        self._tier, self._freshness, self._rules, self._sealer = tier, freshness, rules, sealer

    def terms(self, key: str, options: ReadOptions) -> Terms | None:
        """Return what a read of ``key`` allows; None if it takes no older value."""
        if not options.allows_stale or not self._tier.shared:
            return None
        bound = self._rules.stale_if_error(key, options.stale_if_error, options.tags)
        if bound <= 0:
            return None
        return Terms(self._rules.soft_timeout(key, options.soft_timeout), bound)

    async def answer(
        self, key: str, terms: Terms, why: Why, error: Exception | None = None
    ) -> ReadResult | None:
        """Return the spare value of ``key`` if it may be answered."""
        if isinstance(error, OWN_ERRORS) or not self._usable(terms):
            return None
        try:
            spare = await self._tier.read_spare(key)
        except RedisUnavailable:
            return None
        if spare is None or spare.age > terms.bound or not self._usable(terms):
            return None
        data = spare.data if self._sealer is None else await self._sealer.opened(key, spare.data)
        if data is None:
            return None
        if why == FAILED:
            self._rules.warn_once(
                key,
                "the loader of %r failed (%s): answered the value that was current %.0f s ago, as "
                "stale_if_error allows",
                key,
                type(error).__name__,
                spare.age,
            )
            logger.debug("the loader's error", exc_info=error)
        note(key, "stale_if_error" if why == FAILED else "soft_timeout", spare.age)
        return ReadResult(data, FAILED if why == FAILED else SLOW)

    def failed_later(self, key: str, error: BaseException) -> None:
        """Log the failure of a load whose readers were all answered before it ended."""
        self._rules.warn_once(
            key,
            "the load of %r failed after soft_timeout (%s), when its readers were answered with an older "
            "value",
            key,
            type(error).__name__,
        )
        logger.debug("the loader's error", exc_info=error)

    def _usable(self, terms: Terms) -> bool:
        """Return True if this process hears of changes, no later than the bound allows."""
        return self._freshness.attached and self._freshness.staleness <= terms.bound

    def __repr__(self) -> str:
        return f"<OlderValues {self._freshness!r}>"
