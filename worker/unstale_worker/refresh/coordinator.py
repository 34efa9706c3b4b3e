"""The leader's side: claims what is due and sees that it is made new."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

import structlog

from unstale.errors import RuleError
from unstale.redis_tier.connections import Connections as RedisConnections
from unstale.redis_tier.multiplexer import Lane
from unstale.runtime.cancellation import insistently, pass_on_cancellation
from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.python.dispatch import run_jobs
from unstale_worker.refresh.redis.pending_keys import Waiting
from unstale_worker.refresh.redis.refresh_set import CLAIM_MOST, RefreshQueue
from unstale_worker.refresh.redis.ttl import Lifetimes
from unstale_worker.refresh.sql.sql_worker import load_here
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.runtime.daemon_call import aside
from unstale_worker.runtime.retry import retry

log = structlog.get_logger("unstale.refresh")

LOOK_AGAIN: Final = 0.25
"""Seconds after which the set is looked at without a hint: direct invalidations come without one."""
LOOK_FOR_OTHERS: Final = 1.0
"""Seconds between two looks for refresh workers; while there is none, the leader calls the loaders itself."""
LEADER_GRACE: Final = 0.0
"""Seconds that loaders in a leader may still run when it stops: the next leader takes them up."""


def open_queue(settings: WorkerSettings, *, rules: str) -> tuple[Lane, RefreshQueue]:
    """The refresh set over a connection of its own, to be closed by the caller; ``rules`` is their hash."""
    timeout = settings.redis_timeout
    connections = RedisConnections(settings.redis_url.get_secret_value(), timeout=timeout)
    lane = Lane(connections, timeout=timeout, clock=time.monotonic)
    return lane, RefreshQueue(lane, settings.names, lease_ttl=settings.lease_ttl, rules=rules)


class Refresher:
    """Makes keys new while its worker leads. Everything that matters stands in Redis.

    Example:
        >>> refresher = Refresher(settings, rules, Tally(), session="4f2a:7", failed=counters.failed)
        >>> task = asyncio.create_task(refresher.run())
        >>> refresher.hint()
    """

    def __init__(
        self,
        settings: WorkerSettings,
        rules: Rules,
        tally: Tally,
        *,
        session: str,
        failed: Callable[[str], None],
    ) -> None:
        self._settings, self._rules, self._tally = settings, rules, tally
        self._session, self._failed = session, failed
        self._lines = {spec.template.text: Waiting() for spec in rules.refreshes}
        self._python = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
        self._sql = [spec for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader)]
        self._lifetime = Lifetimes.of(rules, settings).seconds
        self._lost: set[str] = set()
        self._hinted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Refresher {self._session} waiting={sum(map(len, self._lines.values()))}>"

    def hint(self) -> None:
        """Something may be due."""
        self._hinted.set()

    async def run(self) -> None:
        """Work until cancelled; errors are counted, logged and survived."""
        if not self._rules.refreshes:
            return
        lane, queue = open_queue(self._settings, rules=self._rules.hash)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(lambda: self._claim(queue)), name="refresh claims")
                if self._sql:
                    group.create_task(self._repeat(lambda: self._load_here(queue)), name="refresh batches")
                if self._python:
                    group.create_task(self._repeat(lambda: self._spread(queue)), name="refresh jobs")
        finally:
            await lane.close()

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def failed(error: Exception) -> None:
            self._failed(str(error) or type(error).__name__)

        await retry(work, failed=failed, logger=log)

    # --- claiming -------------------------------------------------------------------------------

    async def _claim(self, queue: RefreshQueue) -> None:
        """Claim what is due and put it into its line, for ever."""
        longest = max(spec.debounce for spec in self._rules.refreshes)
        if adopted := await queue.adopt(after=longest + LOOK_AGAIN):
            log.info("took over refreshes of an earlier leader", keys=adopted)
        while True:
            self._hinted.clear()
            if self._lost:
                lost = list(self._lost)
                await queue.postpone(lost, seconds=LOOK_AGAIN)
                self._lost.difference_update(lost)
            claimed = await queue.claim()
            await queue.forget(self._sort(claimed.keys))
            if len(claimed.keys) < CLAIM_MOST:
                pause = LOOK_AGAIN if claimed.next_due is None else min(LOOK_AGAIN, claimed.next_due)
                await self._wait(pause)

    def _sort(self, keys: Iterable[str]) -> list[str]:
        """Put each key into the line of its refresh; returns those that no refresh is for."""
        orphans: list[str] = []
        lines: dict[str, list[str]] = {}
        for key in keys:
            spec = self._rules.refresh_of(key)
            if spec is None:
                orphans.append(key)
            else:
                lines.setdefault(spec.template.text, []).append(key)
        for name, own in lines.items():
            self._lines[name].put(own)
        return orphans

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.001, seconds)):
                await self._hinted.wait()

    # --- loading --------------------------------------------------------------------------------

    async def _load_here(self, queue: RefreshQueue) -> None:
        await load_here(
            self._settings, self._sql, self._lines, queue,
            session=self._session, lifetime=self._lifetime, tally=self._tally, lost=self._lost.update,
            failed=self._failed,
        )  # fmt: skip

    async def _spread(self, queue: RefreshQueue) -> None:
        """Give the keys of Python loaders to refresh workers, and stand in while there is none."""
        from unstale_worker.refresh.python import docket_queue  # pydocket takes a third of a second to import

        async with AsyncExitStack() as stack:
            docket = await stack.enter_async_context(docket_queue.open_docket(self._settings))
            docket_queue.register(docket, self._python, docket_queue.nothing)
            async with asyncio.TaskGroup() as group:
                for spec in self._python:
                    line = self._lines[spec.template.text]
                    jobs = run_jobs(spec, line, docket, queue, self._tally, self._lost.update)
                    group.create_task(insistently(jobs))
                group.create_task(insistently(self._stand_in(queue)), name="refresh stand-in")

    async def _stand_in(self, queue: RefreshQueue) -> None:
        """Call the loaders in this process for as long as no refresh worker is heard of."""
        from unstale_worker.refresh.python import docket_queue
        from unstale_worker.refresh.python.loader_worker import OwnWorker

        try:
            own = await aside(
                lambda: OwnWorker(self._settings, self._rules, self._python, self._tally),
                name="unstale-loaders",
            )
        except RuleError as error:
            log.warning("loaders run in `unstale worker --role refresh` only", problem=str(error))
            return
        async with own.docket() as docket:
            while True:
                while await docket_queue.others(docket, name=own.name):
                    pass_on_cancellation()
                    await asyncio.sleep(LOOK_FOR_OTHERS)
                log.info("no refresh worker is heard of: this leader calls the loaders")
                async with own.working(docket, queue, grace=LEADER_GRACE) as task:
                    while not task.done() and not await docket_queue.others(docket, name=own.name):
                        await asyncio.wait([task], timeout=LOOK_FOR_OTHERS)
                if task.done() and not task.cancelled():
                    task.result()
