"""The audit: wrong cached values are found and invalidated, and a change in flight is not taken for one."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest

from servers import Database, eventually
from unstale import Cache
from unstale.companion.tools.tools import Tools
from unstale.reading.audit import Auditor
from unstale_worker.sources.outbox import OutboxSource
from workers import SCHEMA, connected, running_worker, seams
from workers.no_redis import alone

KEY = "user:1:profile"


@pytest.fixture
async def db(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A watched table, and one that no rule names."""
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        await connection.execute("insert into profiles values (1, 'Ada')")
        await connection.execute("create table nicknames (id bigint, name text)")
        await connection.execute("insert into nicknames values (1, 'A')")
        yield connection


@pytest.fixture
async def cache(db: asyncpg.Connection, database: Database) -> AsyncIterator[Cache]:
    async with alone(database.dsn) as cache:
        yield cache


class Names:
    """A loader that reads both tables, and so depends on one that nobody watches."""

    def __init__(self, db: asyncpg.Connection) -> None:
        self.db, self.loads = db, 0

    async def __call__(self) -> dict[str, Any]:
        self.loads += 1
        row = await self.db.fetchrow(
            "select p.name, n.name as nick from profiles p join nicknames n using (id)"
        )
        assert row is not None
        return dict(row)


async def test_what_is_true_is_found_equal(cache: Cache, db: asyncpg.Connection) -> None:
    names = Names(db)
    await cache.get_or_load(KEY, names)
    assert await cache.audit(KEY, names) is True
    assert names.loads == 2
    counters = cache.counters()
    assert (counters.audited, counters.audit_mismatches, counters.audits_unjudged) == (1, 0, 0)
    assert counters.loads == 1  # those of an audit serve nobody


async def test_a_change_that_nobody_watches_is_a_mismatch_and_is_repaired(
    cache: Cache, db: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(db)
    await cache.get_or_load(KEY, names)
    await db.execute("update nicknames set name = 'Addie'")
    assert (await cache.get_or_load(KEY, names))["nick"] == "A"
    assert await cache.audit(KEY, names) is False
    assert "Does the loader read a table that no rule names" in caplog.text
    assert (await cache.get_or_load(KEY, names))["nick"] == "Addie"
    assert await cache.audit(KEY, names) is True
    stats = await cache.get_stats()
    assert (stats["audited"], stats["audit_mismatches"], stats["audits_unjudged"]) == (2, 1, 0)
    told = await Tools(cache, user_id=1).run("getInvalidationStats")
    assert (told["audited"], told["audit_mismatches"]) == (2, 1)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_change_in_flight_is_no_mismatch(
    cache: Cache, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """The loader sees the change before this process has heard of it."""
    if not defended:

        async def at_once(self: Auditor, moment: float) -> bool:
            return True

        monkeypatch.setattr(Auditor, "_processed", at_once)
    names = Names(db)
    await cache.get_or_load(KEY, names)
    with seams.before(OutboxSource, "read", hold=True) as point:
        await point.wait()
        await db.execute("update profiles set name = 'Grace' where id = 1")
        auditing = asyncio.create_task(cache.audit(KEY, names))
        await eventually(lambda: names.loads == 2 if defended else auditing.done())
        point.release()
        assert await auditing is (None if defended else False)
    assert cache.counters().audits_unjudged == (1 if defended else 0)
    await eventually(lambda: cache.inspect().local.near.peek(KEY) is None)


async def test_a_change_before_the_audit_that_is_announced_during_it_is_no_mismatch(
    cache: Cache, db: asyncpg.Connection
) -> None:
    """Committed before the mark, announced after it: the mark sees it, since the value was still held."""
    names = Names(db)
    await cache.get_or_load(KEY, names)
    with seams.after(OutboxSource, "read", hold=True) as point:
        await point.wait()
        await db.execute("update profiles set name = 'Grace' where id = 1")
        auditing = asyncio.create_task(cache.audit(KEY, names))
        await eventually(lambda: names.loads == 2)
        point.release()
        assert await auditing is None


async def test_what_cannot_be_judged_is_not(cache: Cache, db: asyncpg.Connection) -> None:
    assert await cache.audit(KEY, lambda: 1) is None  # nothing cached
    await cache.set("session:1", 1, ttl=60)
    assert await cache.audit("session:1", lambda: 2) is None  # no rule owns it: only its TTL is its truth
    assert cache.counters().audits_unjudged == 0

    numbers = iter(range(100))
    await cache.get_or_load(KEY, lambda: "a poem")
    assert await cache.audit(KEY, lambda: f"poem {next(numbers)}") is None  # never says the same twice

    def fails() -> None:
        raise OSError("no")

    assert await cache.audit(KEY, fails) is None
    assert cache.counters().audits_unjudged == 2
    assert cache.inspect().local.near.peek(KEY) is not None


async def test_detached_meanwhile_means_no_result(database: Database, db: asyncpg.Connection) -> None:
    quick: dict[str, Any] = {"max_silence": 2.0, "watermark_interval": 0.5, "leader_ttl": 0.5}
    async with alone(database.dsn, **quick) as cache:
        await cache.get_or_load(KEY, lambda: 1)
        with seams.before(OutboxSource, "read", hold=True) as point:
            await point.wait()
            assert await cache.audit(KEY, lambda: 2) is None
            await eventually(lambda: not cache.attached)


async def test_a_share_of_the_hits_is_audited(
    database: Database, db: asyncpg.Connection, redis_url: str
) -> None:
    """All of them here: hits of the near cache and of Redis, one audit at a time; and none by default."""
    async with running_worker(database.worker_dsn, redis_url):
        names = Names(db)
        async with Cache.from_env(env_file=None, redis_url=redis_url) as plain:
            await eventually(lambda: plain.attached)
            for _ in range(100):
                await plain.get_or_load(KEY, names)
            assert plain._peek is plain.inspect().local.near.peek  # it costs nothing where it is off
            assert plain.counters().audited == 0
        async with Cache.from_env(env_file=None, redis_url=redis_url, audit_share=1) as cache:
            await eventually(lambda: cache.attached)

            def audited(times: int) -> bool:
                return cache.counters().audited == times

            for times in range(1, 4):
                assert (await cache.get_or_load(KEY, names))["nick"] == "A"  # the first one is Redis'
                await eventually(partial(audited, times))
            counters = cache.counters()
            assert (counters.redis_hits, counters.near_hits, counters.loads) == (1, 2, 0)
            await db.execute("update nicknames set name = 'Addie'")
            await cache.get_or_load(KEY, names)
            await eventually(lambda: cache.counters().audit_mismatches == 1)
            assert (await cache.get_or_load(KEY, names))["nick"] == "Addie"


async def test_closing_ends_an_audit(database: Database, db: asyncpg.Connection) -> None:
    async with alone(database.dsn, audit_share=1) as cache:
        began = asyncio.Event()
        await cache.get_or_load(KEY, lambda: 1)

        async def endless() -> None:
            began.set()
            await asyncio.Event().wait()

        await cache.get_or_load(KEY, endless)
        await began.wait()
    assert len(cache.inspect().local.in_flight) == 0
