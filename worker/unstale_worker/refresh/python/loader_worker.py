"""Reserves ready keys of Python loaders, and refreshes each in a task of its own."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from unstale.errors import RedisUnavailable, UnstaleError
from unstale.runtime import failpoints
from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.python.loader_calls import LoaderCalls
from unstale_worker.refresh.python.loader_process import LoaderFailed
from unstale_worker.refresh.python.python_refresher import PythonRefresher
from unstale_worker.refresh.redis.reservations import RESERVE_MOST, Reservation
from unstale_worker.refresh.redis.store import RefreshStore
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.log_throttle import LogThrottle
from unstale_worker.runtime.retry import retry

log = structlog.get_logger("unstale.refresh")

POLL: Final = 0.05
"""Seconds after which ready keys are looked for again: another process makes them ready, or frees a slot."""
LAST_REPLY: Final = 0.3
"""Seconds for which a stopping worker waits for the reply to its last reservation."""
LOG_EVERY: Final = 30.0
"""Seconds after which the log repeats that refreshes of this process were interrupted."""


class LoaderWorker:
    """The Python loaders that one process reserves keys for; a child process calls them.

    Args:
        settings: How many loaders run at the same time, and where their clients connect.
        rules: The rules that name the loaders.
        specs: The refreshes with a Python loader.
        tally: What is counted.
        failed: Takes each error that is survived.

    Example:
        >>> worker = LoaderWorker(settings, rules, specs, RefreshCounters(), failed=print)
        >>> async with open_store(settings, rules) as store:
        ...     await worker.run(store, stop=stop, grace=10.0)
    """

    def __init__(
        self,
        settings: WorkerSettings,
        rules: Rules,
        specs: Sequence[RefreshSpec],
        tally: RefreshCounters,
        *,
        failed: Callable[[Exception], object],
    ) -> None:
        self._settings, self._rules, self._tally, self._failed = settings, rules, tally, failed
        self._specs = frozenset(spec.template.text for spec in specs)
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._throttle = LogThrottle(every=LOG_EVERY)
        self.name = f"{socket.gethostname()}#{os.getpid()}#{secrets.token_hex(4)}"

    def hint(self) -> None:
        """Look for ready keys now."""
        self._wake.set()

    async def run(
        self,
        store: RefreshStore,
        *,
        stop: asyncio.Event,
        grace: float,
        started: Callable[[], object] = lambda: None,
    ) -> None:
        """Call loaders until ``stop`` is set or the caller is cancelled.

        Afterwards no more keys are reserved, and loaders that run may end within ``grace`` seconds. The keys
        of the others are due again at once. ``started`` is called when the first key can be reserved.
        """
        self._stopping = False
        async with LoaderCalls(self._settings, self._rules) as calls:
            with suppress(LoaderFailed):  # each call tries again, and tells
                await calls.start()
            outcomes = Outcomes.of(self._settings, self._rules, store.leases, self._tally)
            refresher = PythonRefresher(outcomes, store.reservations, store.budgets, calls)
            reserving = asyncio.create_task(
                retry(lambda: self._reserve(store, refresher), failed=self._failed, logger=log),
                name="refresh reservations",
            )
            stopping = asyncio.create_task(stop.wait())
            started()
            try:
                await asyncio.wait([reserving, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stopping = True
                self._wake.set()
                await cancelled(stopping)
                try:
                    # What it reserves at this moment is not lost: it ends after the reply.
                    await asyncio.wait([reserving], timeout=LAST_REPLY)
                    await self._drain(grace)
                finally:
                    await cancelled(reserving)
                    await self._end()

    # --- reserving ------------------------------------------------------------------------------

    async def _reserve(self, store: RefreshStore, refresher: PythonRefresher) -> None:
        """Reserve ready keys and start their refreshes, until told to stop."""
        while not self._stopping:
            pass_on_cancellation()
            self._wake.clear()
            free = min(self._settings.refresh_concurrency - len(self._running), RESERVE_MOST)
            reserved = await store.reservations.reserve(free, of=self._specs) if free > 0 else []
            if reserved and failpoints.on:
                await failpoints.reach("loader_worker.after_reserve")
            for reservation in reserved:
                task = asyncio.create_task(self._refresh(store, refresher, reservation), name="refresh")
                self._running.add(task)
                task.add_done_callback(self._ended)
            if free <= 0 or len(reserved) < free:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._wake.wait()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._wake.set()

    async def _refresh(
        self, store: RefreshStore, refresher: PythonRefresher, reservation: Reservation
    ) -> None:
        """Refresh one key; whatever fails, the key is due again after the takeover time at the latest."""
        called = True
        try:
            # A leader with other rules may have made it ready.
            if self._stopping or self._rules.refresh_of(reservation.key) is not reservation.spec:
                called = False
                await store.leases.postpone([reservation.key], seconds=0.0)
                return
            called = await refresher.refresh(reservation)
        except RedisUnavailable as error:
            self._failed(error)
            if self._throttle.allows(str(error)):
                log.warning("refreshes were interrupted; their keys are due again", error=str(error))
        except Exception as error:
            self._failed(error)
            log.exception("unexpected error in a refresh; its key is due again")
        finally:
            with suppress(UnstaleError):
                await store.reservations.release(reservation, called=called)

    # --- stopping -------------------------------------------------------------------------------

    async def _drain(self, grace: float) -> None:
        if self._running and grace > 0:
            await asyncio.wait(self._running, timeout=grace)
        if self._running:
            log.warning("loaders did not end in time; their keys are due again", loaders=len(self._running))

    async def _end(self) -> None:
        """Cancel the refreshes that run; each makes its key due again."""
        running = list(self._running)
        for task in running:
            task.cancel()
        for task in running:
            await cancelled(task)

    def __repr__(self) -> str:
        return f"<LoaderWorker {self.name} loaders={len(self._specs)} running={len(self._running)}>"
