"""Calls Python loaders in the leader for as long as there is no refresh worker."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from unstale.errors import RuleError
from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale_worker.refresh.redis.store import RefreshStore
from unstale_worker.runtime.daemon_call import call_in_daemon_thread

if TYPE_CHECKING:
    from unstale_worker.refresh.python.loader_worker import LoaderWorker

log = structlog.get_logger("unstale.refresh")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for refresh workers."""
LEADER_GRACE: Final = 0.0
"""Seconds for which loaders in a leader may go on when it stops: the next leader takes their keys over."""


class StandIn:
    """The leader's own loader worker, which runs only while no refresh worker is heard of.

    Args:
        make: Finds the loaders; runs in a thread, as it imports modules.
    """

    def __init__(self, make: Callable[[], "LoaderWorker"]) -> None:
        self._make = make
        self._worker: LoaderWorker | None = None

    def hint(self) -> None:
        """Keys were made ready."""
        if self._worker is not None:
            self._worker.hint()

    async def run(self, store: RefreshStore) -> None:
        """Stand in until cancelled; returns at once if this process cannot find the loaders."""
        if self._worker is None:
            try:
                self._worker = await call_in_daemon_thread(self._make, name="unstale-loaders")
            except RuleError as error:
                log.warning("Python loaders run only in `unstale worker --role refresh`", problem=str(error))
                return
        while True:
            while await store.presence.any():
                pass_on_cancellation()
                await asyncio.sleep(LOOK_EVERY)
            log.info("no refresh worker is heard of: this leader calls the loaders")
            await self._until_one_comes(self._worker, store)

    async def _until_one_comes(self, worker: "LoaderWorker", store: RefreshStore) -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(worker.run(store, stop=stop, grace=LEADER_GRACE))
        try:
            while not task.done() and not await store.presence.any():
                await asyncio.wait([task], timeout=LOOK_EVERY)
        except BaseException:
            await cancelled(task)
            raise
        if not task.done():
            log.info("a refresh worker is heard of: this leader leaves the loaders to it")
        stop.set()
        await task

    def __repr__(self) -> str:
        return f"<StandIn {self._worker}>"
