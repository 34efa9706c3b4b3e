"""The worker from a commit to Redis, over a connection and over HTTPS: the same promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servers import Database, eventually
from servers.both_sources import FANOUT, FANOUT_TABLES, KINDS, Way, push, way
from unstale.errors import MigrationMissing
from workers import (
    PROFILES,
    SCHEMA,
    Listener,
    applied,
    connected,
    redis_at,
    settings_for,
    state_of,
)


@pytest.fixture(params=KINDS)
async def there(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Way]:
    async with way(request.param, database) as found:
        yield found


async def test_a_committed_change_removes_its_keys_and_is_announced(
    there: Way, database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x' from generate_series(1, 3) g")
        async with there.worker(redis_url) as worker:
            assert worker.status().source == there.kind
            await redis.mset({"user:1:profile": "{}", "user:2:profile": "{}", "other": "1"})
            await db.execute("update profiles set name = 'y' where id = 1")
            await eventually(lambda: "user:1:profile" in heard.keys)
            assert await redis.mget("user:1:profile", "user:2:profile", "other") == [None, b"{}", b"1"]
            await applied(redis, db)
            await heard.caught_up(redis)
            assert set(heard.keys) == {"user:1:profile", "user:1:greeting_instructions"}
            assert worker.status().counters.entries >= 1
            if there.project is not None:
                assert {request.method for request in there.project.rest.requests} == {"POST"}
                assert {request.role for request in there.project.rest.requests} == {"service_role"}
        await redis.delete("user:2:profile", "other")


async def test_a_cut_off_outbox_is_another_history(there: Way, database: Database, redis_url: str) -> None:
    """As after a restore in place: the server's transaction ids go on, and all owned keys are dropped."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with there.worker(redis_url):
            await redis.set("user:1:profile", "{}", ex=60)
            await db.execute("truncate unstale.outbox")

            other = await db.fetchval("select unstale.database()")

            async def follows() -> bool:
                return bool((await state_of(redis))["database"] == other)

            await eventually(follows, message="the worker follows the other history")
            assert not await redis.exists("user:1:profile"), "owned keys are dropped first"


async def test_a_rolled_back_change_removes_nothing(there: Way, database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'x'), (2, 'x')")
        async with there.worker(redis_url):
            await redis.set("user:1:profile", "{}", ex=60)
            change = db.transaction()
            await change.start()
            await db.execute("update profiles set name = 'y' where id = 1")
            await change.rollback()
            await db.execute("update profiles set name = 'y' where id = 2")
            await eventually(lambda: "user:2:profile" in heard.keys)
            assert await redis.get("user:1:profile") == b"{}"


async def test_a_writer_open_for_long_is_not_lost_and_holds_nobody_up(
    there: Way, database: Database, redis_url: str
) -> None:
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as slow,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
    ):
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'x'), (2, 'x')")
        async with there.worker(redis_url):
            change = slow.transaction()
            await change.start()
            await slow.execute("update profiles set name = 'slow' where id = 1")
            await db.execute("update profiles set name = 'quick' where id = 2")
            await eventually(lambda: "user:2:profile" in heard.keys)
            await applied(redis, db)
            await heard.caught_up(redis)
            assert "user:1:profile" not in heard.keys
            await change.commit()
            await eventually(lambda: "user:1:profile" in heard.keys)


async def test_a_change_of_one_row_fans_out_by_its_query(
    there: Way, database: Database, redis_url: str, tmp_path: Path
) -> None:
    async with connected(database.dsn) as db, Listener(redis_url) as heard:
        await db.execute(FANOUT_TABLES)
        await push(database, FANOUT, tmp_path)
        async with there.worker(redis_url, rules=FANOUT) as worker:
            await db.execute("update organizations set name = 'two'")
            await eventually(lambda: {"user:7:settings", "user:8:settings"} <= set(heard.keys))
            assert heard.patterns == []
            assert worker.status().counters.errors == 0


async def test_a_query_that_fails_costs_its_pattern_and_nothing_else(
    there: Way, database: Database, redis_url: str, tmp_path: Path
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(FANOUT_TABLES)
        await push(database, FANOUT, tmp_path)
        async with there.worker(redis_url, rules=FANOUT) as worker:
            await db.execute("revoke select on public.members from unstale_worker, service_role")
            await redis.set("user:99:settings", "{}", ex=60)
            await db.execute("update organizations set name = 'two'")
            await db.execute("insert into profiles values (5, 'x')")
            await eventually(lambda: "user:*:settings" in heard.patterns and "user:5:profile" in heard.keys)
            assert await redis.get("user:99:settings") is None
            assert worker.status().counters.errors >= 1
            assert "members" in worker.status().counters.last_error


async def test_truncate_removes_by_pattern(there: Way, database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with there.worker(redis_url):
            await redis.mset({f"user:{n}:profile": "{}" for n in range(2_500)})
            await redis.set("user:1:other", "stays", ex=60)
            await db.execute("truncate profiles")
            await eventually(lambda: "user:*:profile" in heard.patterns)
            assert await redis.dbsize() == 4 + 2  # state, log, rules, claim; the lease, and user:1:other


@pytest.mark.parametrize("read_entries", [7, 5_000])
async def test_a_bulk_change_is_applied_whole(
    there: Way, database: Database, redis_url: str, read_entries: int
) -> None:
    rows = 30_000
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        async with there.worker(redis_url, read_entries=read_entries):
            await redis.mset({f"user:{n}:profile": "{}" for n in range(1, rows + 1)})
            await db.execute("insert into profiles select g, 'x' from generate_series(1, $1::int) g", rows)
            await applied(redis, db)
            assert await redis.dbsize() == 4 + 1  # state, log, rules, claim; the lease
            await eventually(lambda: len(set(heard.keys)) == 2 * rows)


async def test_a_position_that_was_purged_away_drops_every_key(
    there: Way, database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with there.worker(redis_url):
            before = await state_of(redis)
        await db.execute("insert into profiles values (1, 'while nobody worked')")
        await redis.set("user:1:profile", "old", ex=60)
        await db.execute("select unstale.purge(1000, interval '0')")
        await db.execute("select unstale.purge(1, interval '1 hour')")
        async with there.worker(redis_url) as worker:
            await eventually(lambda: worker.status().counters.recoveries >= 1)
            assert await redis.get("user:1:profile") is None
            assert (await state_of(redis))["epoch"] != before["epoch"]


async def test_one_source_goes_on_where_the_other_stopped(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with way("outbox", database) as first, first.worker(redis_url):
            epoch = (await state_of(redis))["epoch"]
        await db.execute("insert into profiles values (1, 'x')")
        await redis.mset({"user:1:profile": "old", "user:2:profile": "{}"})
        async with way("supabase", database) as second, second.worker(redis_url):
            await applied(redis, db)
            assert await redis.mget("user:1:profile", "user:2:profile") == [None, b"{}"]
        await db.execute("insert into profiles values (3, 'x')")
        await redis.set("user:3:profile", "old")
        async with way("outbox", database) as third, third.worker(redis_url):
            await applied(redis, db)
            assert await redis.get("user:3:profile") is None
        assert (await state_of(redis))["epoch"] == epoch
        await redis.delete("user:2:profile")


async def test_without_a_captured_table_the_worker_says_what_to_run(there: Way, redis_url: str) -> None:
    with pytest.raises(MigrationMissing, match=r"public\.profiles is not watched.*unstale migration"):
        async with there.worker(redis_url, rules=PROFILES):
            pass


def test_settings_know_the_two_names_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY"):
        monkeypatch.setenv(name, f"value of {name}")
        key = settings_for("postgresql://nowhere", "redis://nowhere").supabase_key
        assert key is not None
        assert key.get_secret_value() == f"value of {name}"  # with both, the newer one
