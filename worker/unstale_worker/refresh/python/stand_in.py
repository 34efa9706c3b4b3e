"""Calls Python loaders in the leader for as long as there is no refresh worker."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale.settings import WorkerSettings
from unstale_worker.refresh.python.loader_calls import mistakes
from unstale_worker.refresh.python.loader_worker import LoaderWorker
from unstale_worker.refresh.redis.store import RefreshStore
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader, RefreshSpec

log = structlog.get_logger("unstale.refresh")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks for refresh workers."""
LEADER_GRACE: Final = 0.0
"""Seconds for which loaders in a leader may go on when it stops: the next leader takes their keys over."""


class StandIn:
    """The leader's own loader worker, which runs only while no refresh worker is heard of.

    Args:
        make: Builds the loader worker for the refreshes whose loaders are there.
    """

    def __init__(
        self, settings: WorkerSettings, rules: Rules, make: Callable[[Sequence[RefreshSpec]], LoaderWorker]
    ) -> None:
        self._settings, self._rules, self._make = settings, rules, make
        self._worker: LoaderWorker | None = None

    def hint(self) -> None:
        """Keys were made ready."""
        if self._worker is not None:
            self._worker.hint()

    async def run(self, store: RefreshStore) -> None:
        """Stand in until cancelled; returns at once if this machine has none of the loaders."""
        if self._worker is None:
            wrong = await mistakes(self._settings, self._rules)
            for mistake in wrong:
                log.warning("a loader cannot be called by this leader", problem=str(mistake.error))
            # A module that ends or blocks its process does so in every one: its keys become dead letters.
            missing = {mistake.spec.template.text for mistake in wrong if mistake.missing}
            specs = [spec for spec in self._rules.refreshes if isinstance(spec.loader, PythonLoader)]
            there = [spec for spec in specs if spec.template.text not in missing]
            if missing:
                log.warning(
                    "only `unstale worker --role refresh` may have these loaders; until then their keys are "
                    "only invalidated",
                    refreshes=sorted(missing),
                )
            if not there:
                return
            self._worker = self._make(there)
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
