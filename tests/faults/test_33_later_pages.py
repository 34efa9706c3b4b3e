"""33: what happens between two pages of one batch: another server answers, or the outbox is purged.

Guards: `standing_after_read` of every page in `Pipeline.cycle` (the model's ``LATER_PAGES``). Judged by the
first page alone, a promoted standby passes for the same database, and purged entries are called applied.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from servers import Database, eventually
from unstale.protocol.messages import Watermark
from unstale.protocol.names import Names
from unstale.redis_tier.connections import Connections as RedisConnections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.leader.pipeline import Pipeline
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.rules import Rules
from unstale_worker.sources import Cursor, OutboxEntry, Page, Source, WatchVersion
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.postgres_connections import PostgresConnections
from unstale_worker.sources.wakeups import WakeUps
from workers import PROFILES, SCHEMA, Listener, connected, settings_for, state_of
from workers.double import DATABASE, WorkerDouble

PROMOTED = DATABASE[:-1] + "2"


class PromotedBetweenPages(OutboxSource):
    """A source whose second page comes from a standby on a later timeline, which lacks the newest commits."""

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        if after is None:
            return _page("160:160:", "0/400", PROMOTED)
        if cursor is None:
            return _page("150:151:", "0/500", DATABASE, entries=[OutboxEntry(1, 1, ["1"])], more=True)
        return _page("160:160:", "0/400", PROMOTED, entries=[OutboxEntry(1, 1, ["2"])])

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        return WatchVersion("public", "profiles", ("id",))


class PurgedBetweenPages(OutboxSource):
    """The outbox, of which all is purged before a later page is read."""

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        if cursor is not None:
            await self.purge(rows=5_000, retention=0.0, outbox_max_rows=10_000_000)
        return await super().read(after, cursor)


def _page(
    position: str, lsn: str, database: str, *, entries: Sequence[OutboxEntry] = (), more: bool = False
) -> Page:
    cursor = Cursor("150:160:", 150, 1) if entries else None
    return Page(
        database=database, snapshot="150:160:", position=position, more=more, cursor=cursor, lsn=lsn,
        flushed=lsn, covered=True, current_xmax=1_000, entries=entries, began=clock.now(),
    )  # fmt: skip


@asynccontextmanager
async def pipeline(
    valkey: EmbeddedValkey, source: Source, fence: int, health: WorkerHealth
) -> AsyncIterator[Pipeline]:
    multiplexer = Multiplexer(RedisConnections(valkey.url, timeout=1), timeout=1, clock=clock.now)
    try:
        yield Pipeline(
            source,
            [Applier(multiplexer, Names(), fence=fence, log_max_bytes=1 << 20)],
            Rules.parse(PROFILES),
            WakeUps(),
            settings_for(None, valkey.url),
            health,
        )
    finally:
        await multiplexer.close()


async def test_a_promoted_standby_that_answers_a_later_page(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    await silent.redis.hset(Names().state, "rules", Rules.parse(PROFILES).hash)
    health = WorkerHealth()
    async with pipeline(
        valkey, PromotedBetweenPages(PostgresConnections("nowhere")), silent.fence, health
    ) as work:
        await work.cycle()
    # The position of the old timeline does not count on the new one: everything was dropped.
    assert health.counters.recoveries == 1
    assert (await state_of(silent.redis))["database"] == PROMOTED


async def test_entries_purged_between_two_pages_are_not_called_applied(
    valkey: EmbeddedValkey, silent: WorkerDouble, database: Database
) -> None:
    source, health = PurgedBetweenPages(PostgresConnections(database.dsn), read_entries=1), WorkerHealth()
    async with (
        connected(database.dsn) as db,
        pipeline(valkey, source, silent.fence, health) as work,
        Listener(valkey.url) as heard,
    ):
        try:
            await db.execute(SCHEMA)
            await work.cycle()  # other rules and another database than the played worker's: recovers
            before = health.counters.recoveries
            for row in (1, 2):
                await db.execute("insert into profiles (id) values ($1)", row)
            last = int(await db.fetchval("select max(xid::text::bigint) from unstale.outbox"))

            def said() -> bool:
                marks = [message for message in heard.messages if isinstance(message, Watermark)]
                return any(mark.seen.includes(last) for mark in marks)

            await work.cycle()
            await eventually(said)
            assert health.counters.recoveries == before + 1
        finally:
            await source.close()
