"""Refreshes one key with a Python loader, from its lease to its fill."""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from unstale.errors import RedisUnavailable
from unstale.runtime import failpoints
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.python.loader_calls import LoaderCalls
from unstale_worker.refresh.python.loader_process import Loaded, LoaderFailed
from unstale_worker.refresh.redis.budgets import Budgets, OverBudgetError, Spent
from unstale_worker.refresh.redis.lease_keeper import extended
from unstale_worker.refresh.redis.leases import Acquired
from unstale_worker.refresh.redis.reservations import Reservation, Reservations
from unstale_worker.refresh.used import Used
from unstale_worker.runtime.log_throttle import LogThrottle

log = structlog.get_logger("unstale.refresh")

FILL_FOR: Final = 10.0
"""Seconds for which a loaded value is kept while Redis does not answer."""
LOG_EVERY: Final = 60.0
"""Seconds after which the log repeats that a refresh's inputs cannot be read."""
FILL_PAUSE: Final = 0.2
"""Seconds between two attempts to store it."""


class PythonRefresher:
    """Calls Python loaders.

    A loader's error is not raised: its outcome is in Redis, and a key that must be loaded again is due again
    there. So a refresh that runs twice, or never ends, costs time and nothing else.

    Example:
        >>> refresher = PythonRefresher(outcomes, reservations, budgets, calls)
        >>> called = await refresher.refresh(reservation)
    """

    def __init__(
        self, outcomes: Outcomes, reservations: Reservations, budgets: Budgets, calls: LoaderCalls
    ) -> None:
        self._outcomes, self._leases, self._reservations = outcomes, outcomes.leases, reservations
        self._budgets, self._calls = budgets, calls
        self._throttle = LogThrottle(every=LOG_EVERY)

    async def refresh(self, reservation: Reservation) -> bool:
        """Refresh a reserved key if it is still wanted; returns True if the loader may have been called.

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
            return await self._load(reservation)

    async def _extend(self, reservation: Reservation) -> None:
        await asyncio.gather(
            self._leases.extend([reservation.key], reservation.lease, visibility=self._reservations.takeover),
            self._reservations.hold(reservation),
        )

    async def _load(self, reservation: Reservation) -> bool:
        spec, key, lease = reservation.spec, reservation.key, reservation.lease
        try:
            with self._outcomes.span(spec, [key]):
                loaded = await self._loaded(reservation)
        except asyncio.CancelledError:
            with suppress(RedisUnavailable):
                await self._leases.postpone([key], seconds=0.0, lease=lease)
            raise
        except OverBudgetError as over:
            await self._outcomes.over_budget(spec, key, lease, over)
            return False
        except LoaderFailed as failure:
            if failure.pause is None:
                await self._failed(reservation, str(failure))
            else:
                await self._paused(reservation, failure.pause)
        else:
            if loaded.value is not None:
                await self._fill(reservation, loaded.value, loaded)
            return loaded.value is not None
        return True

    async def _loaded(self, reservation: Reservation) -> Loaded:
        """Call the loader; its value is None if the kept one was stored again instead."""
        spec, key = reservation.spec, reservation.key
        known = await self._leases.fingerprint(key)
        loaded = await self._call(reservation, known)
        if loaded.problem is not None and self._throttle.allows(spec.template.text):
            log.warning(
                "the inputs of a refresh cannot be read, so its loader is called",
                refresh=spec.template.text, error=loaded.problem,
            )  # fmt: skip
        if loaded.value is not None or loaded.fingerprint is None:
            return loaded
        if await self._outcomes.store_again(spec, key, reservation.lease, loaded.fingerprint):
            return loaded
        return await self._call(reservation, None)

    async def _call(self, reservation: Reservation, known: str | None) -> Loaded:
        """Call the loader within its budgets, and count what it used."""
        spec, key, used = reservation.spec, reservation.key, Used()
        spent: list[Spent] = []

        async def spend() -> None:
            spent.append(await self._budgets.spend(spec, key))
            if failpoints.on:
                await failpoints.reach("python_refresher.after_spend")

        try:
            loaded = await self._calls.call(
                spec, key, known, spend=spend if spec.budgets else None, used=used
            )
        finally:
            with suppress(RedisUnavailable):
                await self._outcomes.count(spec, used)
        if spent and not used.calls:
            with suppress(RedisUnavailable):
                await self._budgets.give_back(spent[-1])
        return loaded._replace(tokens=(used.tokens_in, used.tokens_out))

    async def _paused(self, reservation: Reservation, seconds: float) -> None:
        """Let every process leave the loader alone for a while; that is no failure."""
        loader = str(reservation.spec.loader)
        log.warning("a model's rate limit was reached; its loader pauses", loader=loader, seconds=seconds)
        await self._reservations.pause(loader, seconds=seconds)
        if failpoints.on:
            await failpoints.reach("python_refresher.before_postpone")
        await self._leases.postpone([reservation.key], seconds=seconds, lease=reservation.lease)

    async def _fill(self, reservation: Reservation, value: bytes, loaded: Loaded) -> None:
        """Store a value that may have been expensive; the lease is kept while Redis does not answer."""
        until = asyncio.get_running_loop().time() + FILL_FOR
        while True:
            try:
                if failpoints.on:
                    await failpoints.reach("python_refresher.before_fill")
                await self._outcomes.fill(
                    reservation.spec, {reservation.key: value}, reservation.lease,
                    fingerprint=loaded.fingerprint, tokens=loaded.tokens,
                )  # fmt: skip
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
        return f"<PythonRefresher {self._calls}>"
