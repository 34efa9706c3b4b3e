"""Compares cached values with the database: Redis first, then one snapshot that holds values and changes.

A value in Redis was loaded before it was read here, so from an older snapshot than the one taken next. If the
two differ, a transaction between the two snapshots made the difference. Either the position that Redis had
together with the value lacks it: then its invalidation is still to come. Or the position has it: then the
value should have been removed, and the difference is a violation. No clock takes part.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from redis.asyncio import Redis

from unstale.errors import DatabaseUnavailable
from unstale.protocol import codec
from unstale.protocol.globs import matches
from unstale.protocol.names import Names
from unstale.protocol.sealed import SEALED
from unstale.sealing.sealer import Sealer
from unstale_worker.audit.contents import Contents, read_contents
from unstale_worker.audit.judging import Compared, Outcome, Pending, judge, same
from unstale_worker.fanout.queries import run_queries
from unstale_worker.leader.planning import plan_page
from unstale_worker.redis.state import Standing, StoredState, standing_after_read
from unstale_worker.refresh.sql.sql_loading import Statements, check, load
from unstale_worker.rules import Rules, TableName
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS
from unstale_worker.sources import Page
from unstale_worker.sources.outbox import OutboxSource, read_page
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session

ENTRIES: Final = 5_000
"""Outbox entries in one read."""
MOST_PAGES: Final = 20
"""Reads of the outbox for one comparison. A worker that is further behind is away, and nothing is judged."""
LOCKED: Final = (
    "it is compressed or encrypted and cannot be opened here: give the audit the worker's UNSTALE_VALUE_KEYS"
)


class Comparer:
    """Compares the keys of one ``row`` or ``sql`` loader at a time.

    Args:
        redis: Where the values are.
        names: Unstale's own keys there.
        rules: The rules, which the worker must have too.
        source: The outbox, for the meaning of its entries.
        connections: Opens the session that reads values and changes in one snapshot.
        sealer: Opens compressed and encrypted values.
    """

    def __init__(
        self,
        redis: Redis,
        names: Names,
        rules: Rules,
        source: OutboxSource,
        connections: PostgresConnections,
        sealer: Sealer | None = None,
    ) -> None:
        self._redis, self._names, self._rules, self._source = redis, names, rules, source
        self._connections, self._sealer = connections, sealer
        self._connection: asyncpg.Connection | None = None
        # As behind a pooler: each attempt of a load is a savepoint, so that a key that Postgres refuses does
        # not end the snapshot of the others.
        self._statements = Statements(pooled=True)

    async def compare(self, spec: RefreshSpec, keys: Sequence[str]) -> list[Compared]:
        """Compare ``keys`` of one refresh; raises `Unavailable`."""
        contents = await read_contents(self._redis, self._names, keys)
        refusal = contents.refusal(self._rules.hash)
        results: list[Compared] = []
        present: list[str] = []
        for key in keys:
            value = contents.values.get(key)
            if value is None or not codec.is_value(value):
                results.append(Compared(key, Outcome.ABSENT, now_ms=contents.now_ms))
            elif refusal is not None:
                results.append(Compared(key, Outcome.REFUSED, refusal, now_ms=contents.now_ms))
            elif (opened := await self._opened(key, value)) is None:
                results.append(Compared(key, Outcome.REFUSED, LOCKED, now_ms=contents.now_ms))
            else:
                contents.values[key] = opened
                present.append(key)
        return results + (await self._judged(spec, present, contents) if present else [])

    async def _opened(self, key: str, value: bytes) -> bytes | None:
        if not value.startswith(SEALED):
            return value
        return None if self._sealer is None else await self._sealer.opened(key, value)

    async def check(self, specs: Sequence[RefreshSpec]) -> list[str]:
        """Run each loader for no key; return what is wrong with them. Raises `DatabaseUnavailable`."""
        async with self._snapshot() as connection:
            found = [await check(connection, self._statements, spec) for spec in specs]
        return [problem for problem in found if problem is not None]

    async def close(self) -> None:
        """Close the session."""
        connection, self._connection = self._connection, None
        await end_session(connection)

    async def _judged(self, spec: RefreshSpec, keys: Sequence[str], contents: Contents) -> list[Compared]:
        values, at = contents.values, contents.now_ms
        async with self._snapshot() as connection:
            loaded = await load(connection, self._statements, spec, keys)
            pending = Pending()
            if any(not same(values[key], found) for key, found in loaded.values.items()):
                pending = await self._pending(connection, contents.state)
        results = []
        for key in keys:
            if key not in loaded.values:
                reason = loaded.failures.get(key, "its loader takes too long")
                results.append(Compared(key, Outcome.REFUSED, reason, now_ms=at))
                continue
            found = judge(key, values[key], loaded.values[key], pending, at)
            if found.outcome is Outcome.WRONG:
                missed = contents.uncaptured & {str(table) for table in tables_of(self._rules, key)}
                if missed:
                    reason = f"{min(missed)} was not captured, and its keys are being invalidated"
                    found = Compared(key, Outcome.REFUSED, reason, now_ms=at)
            results.append(found)
        return results

    async def _pending(self, connection: asyncpg.Connection, state: StoredState) -> Pending:
        """Plan what is in this snapshot and not in the position, as the worker will."""
        keys: dict[str, int] = {}
        patterns: dict[str, int] = {}
        cursor = None
        for _ in range(MOST_PAGES):
            page = await read_page(connection, state.position, cursor, most=ENTRIES)
            verdict = standing_after_read(state, page)
            if verdict is not Standing.READY:
                return Pending(refusal=f"the worker has to drop every key: {verdict.value}")
            await self._plan(connection, page, keys, patterns)
            if not page.more:
                return Pending(keys, patterns)
            cursor = page.cursor
        return Pending(refusal=f"the worker is more than {ENTRIES * MOST_PAGES:,} changes behind")

    async def _plan(
        self, connection: asyncpg.Connection, page: Page, keys: dict[str, int], patterns: dict[str, int]
    ) -> None:
        if not page.entries:
            return
        plan = await plan_page(page, self._rules, self._source)
        if plan.queries:
            await run_queries(connection, self._rules, plan)
        keys.update((key, page.xids[cause]) for key, cause in plan.keys.items())
        patterns.update(dict.fromkeys(plan.patterns, page.xids[-1]))

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[asyncpg.Connection]:
        """Hold one snapshot of the primary; raises `DatabaseUnavailable`."""
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._connections.open(name="audit")
        connection = self._connection
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        except BaseException as error:
            connection.terminate()
            self._connection = None
            if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
                raise DatabaseUnavailable(
                    f"a comparison lost its Postgres session ({type(error).__name__})"
                ) from error
            raise


def tables_of(rules: Rules, key: str) -> set[TableName]:
    """Return the tables whose changes remove ``key``."""
    return {
        watch.table for watch in rules.watches if any(matches(pattern, key) for pattern in watch.patterns)
    }
