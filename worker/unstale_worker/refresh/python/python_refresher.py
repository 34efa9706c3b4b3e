"""Refreshes one key with a Python loader, from its lease to its fill."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog

from unstale.companion.pools import ConnectionPool
from unstale.companion.refresh_context import Refresh, RefreshLoader
from unstale.errors import RedisUnavailable
from unstale.protocol import codec
from unstale.runtime import failpoints
from unstale.runtime.cancellation import pass_on_cancellation
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.python.openai_backoff import pause_for
from unstale_worker.refresh.redis.lease_keeper import kept
from unstale_worker.refresh.redis.refresh_set import RefreshQueue, Verdict, new_lease
from unstale_worker.refresh.retry_policy import Attempts
from unstale_worker.rules.refresh import RefreshSpec

log = structlog.get_logger("unstale.refresh")

Lifetime = Callable[[str, RefreshSpec, bytes], float]
ERROR_CHARACTERS: Final = 200
"""Most characters of a loader's own message that are kept."""
FILL_FOR: Final = 10.0
"""Seconds for which a loaded value is held while Redis does not answer."""
FILL_PAUSE: Final = 0.2


class Jobs:
    """Calls Python loaders; whoever spreads the work calls `refresh` once for each job.

    A job never raises for what its loader does: the outcome is in Redis, and what has to be done again is due
    again there. So a job that is run twice, or never ends, costs time and nothing else.

    Example:
        >>> jobs = Jobs(queue, {spec.template.text: function}, pool, attempts, lifetime, tally)
        >>> await jobs.refresh(spec, "user:42:greeting_instructions")
    """

    def __init__(
        self,
        queue: RefreshQueue,
        loaders: Mapping[str, RefreshLoader],
        pool: ConnectionPool,
        attempts: Attempts,
        lifetime: Lifetime,
        tally: Tally,
    ) -> None:
        self._queue, self._loaders, self._pool = queue, loaders, pool
        self._attempts, self._lifetime, self._tally = attempts, lifetime, tally
        self._running: set[asyncio.Task[bytes]] = set()
        self._stopping = False

    @property
    def running(self) -> int:
        """Loaders that run now."""
        return len(self._running)

    async def refresh(self, spec: RefreshSpec, key: str) -> None:
        """Make ``key`` new if that is still wanted and nobody else does it; raises `RedisUnavailable`."""
        loader = self._loaders.get(spec.template.text)
        if loader is None or self._stopping:
            await self._queue.postpone([key], seconds=1.0 if loader is None else 0.0)
            return
        if (paused := await self._queue.paused(str(spec.loader))) > 0:
            await self._queue.postpone([key], seconds=paused)
            return
        lease = new_lease()
        if failpoints.on:
            await failpoints.reach("jobs.before_take")
        (verdict,) = await self._queue.take([key], lease)
        if verdict is not Verdict.TAKEN:
            return
        if failpoints.on:
            await failpoints.reach("jobs.after_take")
        async with kept(self._queue, [key], lease):
            await self._load(spec, key, lease, loader)

    async def _load(self, spec: RefreshSpec, key: str, lease: bytes, loader: RefreshLoader) -> None:
        task = asyncio.create_task(self._value(spec, key, loader), name=f"refresh {spec.template.text}")
        self._running.add(task)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await self._ended(task)
            with suppress(RedisUnavailable):
                await self._queue.postpone([key], seconds=0.0, lease=lease)
            raise
        finally:
            self._running.discard(task)
        if task.cancelled():
            if self._stopping:
                await self._queue.postpone([key], seconds=0.0, lease=lease)
            else:
                await self._failed(spec, key, lease, "the loader was cancelled from inside")
            return
        error = task.exception()
        if error is None:
            stored = await self._fill(spec, key, lease, task.result())
            self._tally.filled += stored
            self._tally.overtaken += not stored
        elif (pause := pause_for(error)) is not None:
            log.warning(
                "a model refused for its rate; its loader pauses", loader=str(spec.loader), seconds=pause
            )
            await self._queue.pause(str(spec.loader), seconds=pause)
            if failpoints.on:
                await failpoints.reach("jobs.before_postpone")
            await self._queue.postpone([key], seconds=pause, lease=lease)
        elif isinstance(error, TimeoutError) and not str(error):
            await self._failed(spec, key, lease, f"the loader took longer than {spec.timeout:g} s")
        else:
            await self._failed(spec, key, lease, f"{type(error).__name__}: {str(error)[:ERROR_CHARACTERS]}")

    async def _value(self, spec: RefreshSpec, key: str, loader: RefreshLoader) -> bytes:
        async with asyncio.timeout(spec.timeout):
            value = await loader(Refresh(key, spec.fields(key), self._pool))
        return codec.encode(key, value)

    async def _fill(self, spec: RefreshSpec, key: str, lease: bytes, value: bytes) -> int:
        """Store a value that may have been dear; the lease is kept while Redis does not answer."""
        until = asyncio.get_running_loop().time() + FILL_FOR
        while True:
            try:
                if failpoints.on:
                    await failpoints.reach("jobs.before_fill")
                stored = await self._queue.fill(
                    [(key, value, self._lifetime(key, spec, value))], lease, again=spec.debounce
                )
                if failpoints.on:
                    await failpoints.reach("jobs.after_fill")
                return stored
            except RedisUnavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(FILL_PAUSE)

    async def _failed(self, spec: RefreshSpec, key: str, lease: bytes, error: str) -> None:
        if failpoints.on:
            await failpoints.reach("jobs.before_failed")
        failure = await self._attempts.failed(self._queue, spec, key, lease, error)
        if failure is not None:
            self._tally.failed += 1
            self._tally.dead += failure.dead

    async def stop(self) -> None:
        """End the loaders that run, at once; their keys are due again for another process."""
        self._stopping = True
        for task in list(self._running):
            await self._ended(task)
        pass_on_cancellation()

    async def _ended(self, task: "asyncio.Task[bytes]") -> None:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.5)

    def __repr__(self) -> str:
        return f"<Jobs running={self.running}>"
