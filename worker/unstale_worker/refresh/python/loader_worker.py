"""The loaders of one process: found, given clients, and called for the jobs it takes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from docket import Docket

from unstale.companion.pools import ConnectionPool
from unstale.errors import RedisUnavailable
from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.python import docket_queue
from unstale_worker.refresh.python.docket_worker import working
from unstale_worker.refresh.python.python_loader import make_importable, resolve
from unstale_worker.refresh.python.python_refresher import Jobs
from unstale_worker.refresh.redis.refresh_set import VISIBILITY, RefreshQueue
from unstale_worker.refresh.redis.ttl import Lifetimes
from unstale_worker.refresh.retry_policy import Attempts
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec

REDIS_PAUSE: Final = 0.2
"""Seconds until a job is begun again while Redis does not answer."""


class OwnWorker:
    """Takes jobs of Python loaders in this process; raises `RuleError` for a loader it cannot find.

    Example:
        >>> own = OwnWorker(settings, rules, rules.refreshes, Tally())
        >>> async with own.docket() as docket, own.working(docket, queue, grace=10.0) as task:
        ...     await task
    """

    def __init__(
        self, settings: WorkerSettings, rules: Rules, specs: Sequence[RefreshSpec], tally: Tally
    ) -> None:
        make_importable(rules)
        self._settings, self._specs, self._tally = settings, tuple(specs), tally
        self._lifetimes = Lifetimes.of(rules, settings)
        self._loaders = {spec.template.text: resolve(spec, file=rules.file) for spec in specs}
        self._jobs: Jobs | None = None
        self.name = docket_queue.worker_name()

    @property
    def running(self) -> int:
        """Loaders that run now."""
        return 0 if self._jobs is None else self._jobs.running

    @asynccontextmanager
    async def docket(self) -> AsyncIterator[Docket]:
        """The queue, with every loader registered."""
        async with docket_queue.open_docket(self._settings) as docket:
            docket_queue.register(docket, self._specs, self._refresh)
            yield docket

    @asynccontextmanager
    async def working(
        self, docket: Docket, queue: RefreshQueue, *, grace: float
    ) -> AsyncIterator["asyncio.Task[None]"]:
        """Take jobs inside; see `crew.working`. The pool is closed afterwards."""
        async with ConnectionPool(self._settings) as pool:
            # Importing a client library takes a second of a core: now, and not at the first change.
            await pool.warm()
            jobs = self._jobs = Jobs(
                queue, self._loaders, pool, Attempts.of(self._settings), self._lifetimes.seconds, self._tally
            )
            async with working(
                docket, jobs, queue,
                name=self.name,
                concurrency=self._settings.refresh_concurrency,
                takeover=self._settings.refresh_takeover,
                grace=grace,
            ) as task:  # fmt: skip
                yield task

    async def _refresh(self, spec: RefreshSpec, key: str) -> None:
        """One job; it may be begun again, as nothing of it is lost and nothing done twice."""
        assert self._jobs is not None
        until = asyncio.get_running_loop().time() + VISIBILITY
        while True:
            try:
                await self._jobs.refresh(spec, key)
                return
            except RedisUnavailable:  # pydocket's connection may be up again before ours is
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(REDIS_PAUSE)

    def __repr__(self) -> str:
        return f"<OwnWorker {self.name} loaders={len(self._loaders)} running={self.running}>"
