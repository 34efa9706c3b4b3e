"""The leader's side of refreshes: claims keys that are due and hands each to its loader."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from unstale.runtime import failpoints
from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.python.loader_worker import LoaderWorker
from unstale_worker.refresh.python.stand_in import StandIn
from unstale_worker.refresh.redis.refresh_set import CLAIM_MOST, Claimed
from unstale_worker.refresh.redis.store import RefreshStore, open_store
from unstale_worker.refresh.sql.pending_keys import PendingKeys
from unstale_worker.refresh.sql.sql_worker import SqlWorker
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader, RefreshSpec
from unstale_worker.runtime.retry import retry

log = structlog.get_logger("unstale.refresh")

LOOK_EVERY: Final = 0.25
"""Seconds after which due keys are looked for without a hint: not every change comes through this worker."""


class Refresher:
    """Refreshes keys while its worker leads. Everything that matters is in Redis.

    Keys of ``row`` and ``sql`` loaders are refreshed here. Keys of Python loaders are made ready for the
    refresh workers. While there is none, a child process calls the loaders.

    Example:
        >>> refresher = Refresher(settings, rules, counters, session="4f2a:7", failed=print)
        >>> task = asyncio.create_task(refresher.run())
        >>> refresher.hint()
    """

    def __init__(
        self,
        settings: WorkerSettings,
        rules: Rules,
        tally: RefreshCounters,
        *,
        session: str,
        failed: Callable[[str], None],
    ) -> None:
        self._settings, self._rules, self._tally = settings, rules, tally
        self._session, self._failed = session, failed
        self._python = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
        self._sql = [spec for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader)]
        self._pending = {spec.template.text: PendingKeys() for spec in self._sql}
        self._stand_in = StandIn(settings, rules, self._loader_worker)
        self._lost: set[str] = set()
        self._suspects: set[str] = set()
        self._hinted = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Refresher {self._session} pending={sum(map(len, self._pending.values()))}>"

    def hint(self) -> None:
        """Look for due keys now."""
        self._hinted.set()

    async def run(self) -> None:
        """Work until cancelled; errors are counted, logged and survived."""
        if not self._rules.refreshes:
            return
        async with open_store(self._settings, self._rules) as store, asyncio.TaskGroup() as group:
            group.create_task(self._repeat(lambda: self._claim(store)), name="refresh claims")
            if self._sql:
                group.create_task(self._repeat(lambda: self._refresh_sql(store)), name="sql refreshes")
            if self._python:
                group.create_task(self._repeat(lambda: self._stand_in.run(store)), name="refresh stand-in")

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await retry(work, failed=self._note, logger=log)

    def _note(self, error: Exception) -> None:
        self._failed(str(error) or type(error).__name__)

    async def _refresh_sql(self, store: RefreshStore) -> None:
        outcomes = Outcomes.of(self._settings, self._rules, store.leases, self._tally)
        worker = SqlWorker(
            self._settings,
            self._sql,
            self._pending,
            self._session,
            self._lost.update,
            self._failed,
            self._suspects,
        )
        await worker.run(outcomes)

    def _loader_worker(self, specs: Sequence[RefreshSpec]) -> LoaderWorker:
        return LoaderWorker(self._settings, self._rules, specs, self._tally, failed=self._note)

    # --- claiming -------------------------------------------------------------------------------

    async def _claim(self, store: RefreshStore) -> None:
        """Claim keys that are due and hand them to their loaders, until cancelled."""
        longest = max(spec.debounce for spec in self._rules.refreshes)
        if adopted := await store.keys.adopt(after=longest + LOOK_EVERY):
            log.info("took over refreshes of an earlier leader", keys=adopted)
        while True:
            self._hinted.clear()
            if self._lost:
                lost = list(self._lost)
                await store.leases.postpone(lost, seconds=LOOK_EVERY)
                self._lost.difference_update(lost)
            claimed = await store.keys.claim()
            await self._hand_over(claimed, store)
            if len(claimed.keys) < CLAIM_MOST:
                await self._wait(LOOK_EVERY if claimed.next_due is None else claimed.next_due)

    async def _hand_over(self, claimed: Claimed, store: RefreshStore) -> None:
        """Give each key to its loader; a key without a refresh leaves the set."""
        unknown: list[str] = []
        found: dict[str, list[str]] = {}
        for key in claimed.keys:
            spec = self._rules.refresh_of(key)
            keys = unknown if spec is None else found.setdefault(spec.template.text, [])
            keys.append(key)
        for pattern, pending in self._pending.items():
            pending.put(found.get(pattern, ()))
        await store.keys.forget(unknown)
        ready = [(spec, found[spec.template.text]) for spec in self._python if spec.template.text in found]
        if ready and failpoints.on:
            await failpoints.reach("coordinator.before_ready")
        for spec, keys in ready:
            await store.reservations.make_ready(spec, keys, now=claimed.now)
            self._tally.dispatched += len(keys)
        if ready:
            self._stand_in.hint()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LOOK_EVERY, max(0.001, seconds))):
                await self._hinted.wait()
