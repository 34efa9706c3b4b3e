"""Makes values new before they expire, in the background, so that nobody waits when they do."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import Rulebook
from unstale.freshness.tracker import Follower, Trust
from unstale.near_cache.in_flight import Mark
from unstale.near_cache.local_state import NearTier
from unstale.protocol import codec
from unstale.reading.single_flight import Load, Loader, call
from unstale.redis_tier.tier import RedisTier

logger = logging.getLogger("unstale")

MOST_RUNNING: Final = 100
"""Loads ahead at once in one process; a hit beyond them starts none, and the next one may."""
MOST_SHARE: Final = 0.9
GIVE_UP: Final = 0.5
"""Share of the time left at which a value that another began to make new is begun again."""


class Ahead:
    """One load ahead a key and process, and one between all instances as long as its loader lives.

    While a value is made new it stands where it stood, readable as ever: what is loaded replaces it only if
    no invalidation removed it meanwhile. A loader that fails costs nothing but a log line; the value then
    expires, and the next reader loads it.

    Attributes:
        loads: Loaders run.
        failures: Loaders that raised.
    """

    def __init__(
        self,
        tier: RedisTier | None,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._tier, self._near, self._follower, self._rulebook = tier, near, follower, rulebook
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        self.loads = 0
        self.failures = 0

    def consider(
        self, key: str, loader: Loader, *, share: float, ttl: float | None, negative_ttl: float | None
    ) -> None:
        """Begin to make ``key`` new if less than ``share`` of its life is left; returns at once."""
        if not 0 < share <= MOST_SHARE:
            raise ValueError(f"refresh_ahead is {share!r}: expected a share of the life, 0 to {MOST_SHARE}")
        entry = self._near.followed.peek(key)
        whole = self._rulebook.ttl(key) if ttl is None else ttl
        if entry is not None and codec.is_nothing(entry.data):
            whole = self._rulebook.bounded(whole, negative_ttl)
        if (
            entry is None
            or entry.expires - self._clock() >= whole * share
            or key in self._running
            or len(self._running) >= MOST_RUNNING
            or self._follower.trust is Trust.DETACHED
        ):
            return
        task = asyncio.create_task(
            self._run(key, loader, whole * share, ttl, negative_ttl), name="unstale-ahead"
        )
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def close(self) -> None:
        """Cancel every load ahead."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(
        self, key: str, loader: Loader, margin: float, ttl: float | None, negative_ttl: float | None
    ) -> None:
        marks = self._near.marks
        mark = marks.open(key)
        try:
            with contextlib.suppress(RedisUnavailable):
                if self._tier is None:
                    await self._load(key, loader, mark, Load(key, None, primary=True), ttl, negative_ttl)
                else:
                    await self._renew(self._tier, key, loader, mark, margin, ttl, negative_ttl)
        except Exception as error:
            self.failures += 1
            logger.warning("%r could not be made new ahead of its expiry: %s", key, type(error).__name__)
            logger.debug("the loader's error", exc_info=error)
        finally:
            marks.close(mark)

    async def _renew(
        self,
        tier: RedisTier,
        key: str,
        loader: Loader,
        mark: Mark,
        margin: float,
        ttl: float | None,
        negative_ttl: float | None,
    ) -> None:
        found, life = await tier.read_with_life(key)
        if found is None or not codec.is_value(found) or life is None:
            return  # gone, or being loaded: the next reader sees to it
        if life >= margin:
            self._keep(key, found, mark, life)  # another instance was faster
            return
        if codec.is_being_renewed(found) and life > margin * GIVE_UP:
            return
        wanted = codec.being_renewed(found, secrets.randbits(64))
        claim = await tier.take_ahead(key, found, wanted)
        if claim is None or not claim.live:
            return
        load = Load(key, claim.need_lsn, claim.primary, claim.database)
        data, seconds = await self._load(key, loader, None, load, ttl, negative_ttl)
        refreshed = self._rulebook.refreshed(key)
        if await tier.fill(key, wanted, data, seconds=seconds, refreshed=refreshed):
            self._keep(key, data, mark, seconds)

    async def _load(
        self,
        key: str,
        loader: Loader,
        mark: Mark | None,
        load: Load,
        ttl: float | None,
        negative_ttl: float | None,
    ) -> tuple[bytes, float]:
        """The new value and its life; with a mark it is kept here at once, as there is no Redis."""
        self.loads += 1
        data = codec.encode(key, await call(loader, load))
        seconds = self._rulebook.ttl_of_load(key, ttl, negative_ttl, negative=codec.is_nothing(data))
        if mark is not None:
            self._keep(key, data, mark, seconds)
        return data, seconds

    def _keep(self, key: str, data: bytes, mark: Mark, seconds: float) -> None:
        now = self._clock()
        if mark.clean and now < self._near.followed.trusted_until:
            self._near.followed.put(key, data, expires=now + seconds)

    def __repr__(self) -> str:
        return f"<Ahead {len(self._running)} running, {self.loads} loads>"
