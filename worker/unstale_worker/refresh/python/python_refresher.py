"""Refreshes one key with a Python loader, from its lease to its fill."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import structlog

from unstale.companion.pools import ConnectionPool
from unstale.companion.refresh_context import Refresh, RefreshLoader
from unstale.errors import RedisUnavailable
from unstale.protocol import codec
from unstale.runtime import failpoints
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.python.openai_backoff import pause_for
from unstale_worker.refresh.redis.lease_keeper import extended
from unstale_worker.refresh.redis.leases import Acquired
from unstale_worker.refresh.redis.reservations import Reservation, Reservations

log = structlog.get_logger("unstale.refresh")

ERROR_CHARACTERS: Final = 200
"""Most characters of a loader's own message that are kept."""
FILL_FOR: Final = 10.0
"""Seconds for which a loaded value is kept while Redis does not answer."""
FILL_PAUSE: Final = 0.2
"""Seconds between two attempts to store it."""
CANCEL_AGAIN: Final = 0.5
"""Seconds after which a loader that goes on is cancelled again."""


class PythonRefresher:
    """Calls Python loaders.

    A loader's error is not raised: its outcome is in Redis, and a key that must be loaded again is due again
    there. So a refresh that runs twice, or never ends, costs time and nothing else.

    Example:
        >>> refresher = PythonRefresher(outcomes, reservations, {spec.template.text: function}, pool)
        >>> called = await refresher.refresh(reservation)
    """

    def __init__(
        self,
        outcomes: Outcomes,
        reservations: Reservations,
        loaders: Mapping[str, RefreshLoader],
        pool: ConnectionPool,
    ) -> None:
        self._outcomes, self._leases, self._reservations = outcomes, outcomes.leases, reservations
        self._loaders, self._pool = loaders, pool

    async def refresh(self, reservation: Reservation) -> bool:
        """Refresh a reserved key if it is still wanted; returns True if the loader was called.

        Cancelled, it ends the loader, and the key is due again at once. Raises `RedisUnavailable`.
        """
        key, lease = reservation.key, reservation.lease
        if failpoints.on:
            await failpoints.reach("python_refresher.before_acquire")
        (result,) = await self._leases.acquire([key], lease)
        if result is not Acquired.YES:
            return False
        if failpoints.on:
            await failpoints.reach("python_refresher.after_acquire")
        every = min(self._leases.extend_every, self._reservations.takeover / 3)
        async with extended(lambda: self._extend(reservation), every=every):
            await self._load(reservation)
        return True

    async def _extend(self, reservation: Reservation) -> None:
        await asyncio.gather(
            self._leases.extend([reservation.key], reservation.lease, visibility=self._reservations.takeover),
            self._reservations.hold(reservation),
        )

    async def _load(self, reservation: Reservation) -> None:
        spec, key, lease = reservation.spec, reservation.key, reservation.lease
        task = asyncio.create_task(self._value(reservation), name=f"refresh {spec.template.text}")
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=CANCEL_AGAIN)
            with suppress(RedisUnavailable):
                await self._leases.postpone([key], seconds=0.0, lease=lease)
            raise
        if task.cancelled():
            await self._failed(reservation, "the loader was cancelled from inside")
            return
        error = task.exception()
        if error is None:
            await self._fill(reservation, task.result())
        elif (pause := pause_for(error)) is not None:
            log.warning(
                "a model's rate limit was reached; its loader pauses", loader=str(spec.loader), seconds=pause
            )
            await self._reservations.pause(str(spec.loader), seconds=pause)
            if failpoints.on:
                await failpoints.reach("python_refresher.before_postpone")
            await self._leases.postpone([key], seconds=pause, lease=lease)
        elif isinstance(error, TimeoutError) and not str(error):
            await self._failed(reservation, f"the loader took longer than {spec.timeout:g} s")
        else:
            await self._failed(reservation, f"{type(error).__name__}: {str(error)[:ERROR_CHARACTERS]}")

    async def _value(self, reservation: Reservation) -> bytes:
        spec, key = reservation.spec, reservation.key
        loader = self._loaders[spec.template.text]
        async with asyncio.timeout(spec.timeout):
            value = await loader(Refresh(key, spec.fields(key), self._pool))
        return codec.encode(key, value)

    async def _fill(self, reservation: Reservation, value: bytes) -> None:
        """Store a value that may have been expensive; the lease is kept while Redis does not answer."""
        until = asyncio.get_running_loop().time() + FILL_FOR
        while True:
            try:
                if failpoints.on:
                    await failpoints.reach("python_refresher.before_fill")
                await self._outcomes.fill(reservation.spec, {reservation.key: value}, reservation.lease)
                if failpoints.on:
                    await failpoints.reach("python_refresher.after_fill")
                return
            except RedisUnavailable:
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(FILL_PAUSE)

    async def _failed(self, reservation: Reservation, error: str) -> None:
        if failpoints.on:
            await failpoints.reach("python_refresher.before_failed")
        await self._outcomes.failed(reservation.spec, reservation.key, reservation.lease, error)

    def __repr__(self) -> str:
        return f"<PythonRefresher loaders={len(self._loaders)}>"
