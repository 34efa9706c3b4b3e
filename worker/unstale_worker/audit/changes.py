"""Follows the outbox without applying it: which keys changed, and which changes are not applied yet."""

import time
from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis

from unstale.errors import ConfigurationError
from unstale.protocol.messages import Snapshot
from unstale.protocol.names import Names
from unstale.protocol.tags import is_record
from unstale_worker.audit.agenda import Agenda
from unstale_worker.audit.contents import Contents, read_contents
from unstale_worker.leader.planning import plan_page
from unstale_worker.redis.state import Standing, StoredState, standing_after_read
from unstale_worker.rules import Plan, PythonLoader, Rules, TableName
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.sources import Page
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.tracing.explain import captured_texts, read_row

MOST_OPEN: Final = 100_000
"""Transactions that are remembered until they are applied."""


class Changes:
    """Puts changed keys on the agenda, and knows since when each change is open.

    The auditor has a position of its own, so neither the worker nor Redis chooses what is compared.

    Attributes:
        seen: Outbox entries read.
        unauditable: Changed keys that no ``row`` or ``sql`` loader of the rules file makes.
        resets: How often the position was given up: another database, or a purge beyond it.
    """

    def __init__(
        self, redis: Redis, names: Names, rules: Rules, source: OutboxSource, agenda: Agenda
    ) -> None:
        self._redis, self._names, self._rules, self._source = redis, names, rules, source
        self._agenda = agenda
        self._after: StoredState | None = None
        self._open: dict[int, float] = {}
        self._epoch = ""
        self.seen = self.unauditable = self.resets = 0

    def forget(self) -> None:
        """Forget which changes are open: Postgres may have taken back some of them in a crash."""
        self._open.clear()

    async def follow(self) -> Contents:
        """Read what is new, then the state of Redis; raises `Unavailable`."""
        fresh: set[int] = set()
        if self._after is None:
            self._after = _position(await self._source.read(None))
        cursor = None
        while True:
            page = await self._source.read(self._after.position, cursor)
            if standing_after_read(self._after, page) is not Standing.READY:
                self._after = None
                self._open.clear()
                self.resets += 1
                break
            fresh.update(page.xids)
            await self._note(page)
            if not page.more:
                self._after = _position(page)
                break
            cursor = page.cursor
        contents = await read_contents(self._redis, self._names)
        self._opened(fresh, contents)
        return contents

    def seen_at(self, xid: int) -> float | None:
        """Return the time of Redis at which this change was first seen here; it committed before."""
        return self._open.get(xid)

    def oldest(self) -> float | None:
        """Return that time of the oldest change that is not applied."""
        return min(self._open.values(), default=None)

    def _opened(self, fresh: Iterable[int], contents: Contents) -> None:
        if contents.state.epoch != self._epoch:  # a failover, whose clock may be another
            self._epoch = contents.state.epoch
            self._open = dict.fromkeys(self._open, contents.now_ms)
        for xid in fresh:
            if len(self._open) < MOST_OPEN:
                self._open.setdefault(xid, contents.now_ms)
        if contents.refusal(contents.state.rules) is None:  # the position is readable
            position = Snapshot.parse(contents.state.position)
            self._open = {xid: at for xid, at in self._open.items() if not position.includes(xid)}

    async def _note(self, page: Page) -> None:
        if not page.entries:
            return
        self.seen += len(page.entries)
        tables = {}
        for watch, version, _ in page.entries:
            if (watch, version) not in tables:
                written = await self._source.watch_version(watch, version)
                tables[watch, version] = str(TableName(written.schema, written.table)) if written else "?"
        plan = await plan_page(page, self._rules, self._source)
        await self._source.run_queries(self._rules, plan)
        now = time.monotonic()
        for key, cause in plan.keys.items():
            if is_record(key):
                continue
            if auditable(self._rules, key) is None:
                self.unauditable += 1
            else:
                self._agenda.changed(key, tables[page.entries[cause][:2]], now)
        if plan.patterns:
            for key, table in self._agenda.matching(plan.patterns):
                self._agenda.changed(key, table, now)


async def keys_of_rows(
    rules: Rules, source: OutboxSource, table: TableName, rows: Iterable[str]
) -> list[str]:
    """Return the auditable keys that a change of each of ``rows`` (JSON objects) would remove."""
    columns = rules.tables[table.schema, table.name].keys
    plan, flat, count = Plan(), [], 0
    for text in rows:
        try:
            flat += captured_texts(read_row(text), columns)
        except ConfigurationError:  # a column of a type that is no part of a key
            continue
        count += 1
    if count:
        rules.plan(table.schema, table.name, columns, flat, plan, [0] * count)
        await source.run_queries(rules, plan)
    return [key for key in plan.keys if auditable(rules, key) is not None]


def auditable(rules: Rules, key: str) -> RefreshSpec | None:
    """Return the refresh whose loader makes the value of ``key`` with SQL, or None."""
    spec = rules.refresh_of(key)
    return None if spec is None or isinstance(spec.loader, PythonLoader) else spec


def _position(page: Page) -> StoredState:
    return StoredState("", position=page.position, database=page.database, flushed=page.flushed)
