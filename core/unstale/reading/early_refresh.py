"""Early refresh: load values in the background before they expire, so that no reader has to wait."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.protocol import codec
from unstale.reading import load_chain
from unstale.reading.loader import Loader
from unstale.reading.options import ReadOptions
from unstale.reading.read_path import ReadPath

logger = logging.getLogger("unstale")

MOST_RUNNING: Final = 100
"""Early refreshes in progress at a time in one process. A hit beyond the limit starts none."""
MOST_SHARE: Final = 0.9
"""Largest ``refresh_ahead``: the last share of a value's life, in which it is refreshed early."""


class EarlyRefresh:
    """Starts early refreshes: at most one per key in this process, and one load per key in all instances.

    If the loader fails, that is logged; the value expires, and the next reader loads it.

    Attributes:
        running: The refreshes in progress, by key.
        failures: Loaders that raised.
    """

    def __init__(
        self,
        path: ReadPath,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._path, self._local, self._freshness, self._rules = path, local, freshness, rules
        self._clock = clock
        self.running: dict[str, asyncio.Task[None]] = {}
        self.failures = 0

    def consider(self, key: str, loader: Loader, options: ReadOptions) -> None:
        """Start a refresh if the near value is in the last share of its life; return at once.

        Raises ValueError if the share is not above 0 and at most `MOST_SHARE`.
        """
        share = options.refresh_ahead
        if not 0 < share <= MOST_SHARE:
            raise ValueError(f"refresh_ahead is {share!r}: expected a share of the life, 0 to {MOST_SHARE}")
        entry = self._local.near.peek(key)
        whole = self._rules.ttl(key) if options.ttl is None else options.ttl
        if entry is not None and codec.is_nothing(entry.data):
            whole = self._rules.bounded(whole, options.negative_ttl)
        if (
            entry is None
            or entry.expires - self._clock() >= whole * share
            or key in self.running
            or len(self.running) >= MOST_RUNNING
            or not self._freshness.believes_redis
        ):
            return
        task = asyncio.create_task(self._run(key, loader, options, whole * share), name="unstale-early")
        self.running[key] = task
        task.add_done_callback(lambda _: self.running.pop(key, None))

    async def close(self) -> None:
        """Cancel all refreshes."""
        tasks = list(self.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: str, loader: Loader, options: ReadOptions, margin: float) -> None:
        load_chain.enter(())  # no load waits for it
        try:
            await self._path.refresh(key, loader, options, margin=margin)
        except RedisUnavailable:
            pass  # the value expires, and the next reader loads it
        except Exception as error:
            self.failures += 1
            logger.warning("early refresh of %r failed: %s", key, type(error).__name__)
            logger.debug("the loader's error", exc_info=error)

    def __repr__(self) -> str:
        return f"<EarlyRefresh {len(self.running)} running, {self.failures} failures>"
