"""A cache without Redis whose embedded worker follows the outbox: every promise of the interface holds."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from servers import Database, eventually, takes
from servers.both_sources import way
from servers.pooler import pooled
from unstale import Cache, Invalidated
from unstale.companion.tools.tools import Tools
from unstale.errors import MigrationMissing, RuleError, SettingError, WaitTimeout
from unstale.freshness.following import LogFollowing
from unstale.freshness.subscriptions import Reset
from unstale.redis_tier.shared_tier import NoSharedTier
from unstale.settings import AgentSettings
from unstale_worker.in_process import outbox_follower
from unstale_worker.leader.planning import plan_page
from unstale_worker.leader.poll_policy import PollPolicy
from unstale_worker.sources.outbox import OutboxSource
from workers import PROFILES, SCHEMA, connected, seams
from workers.no_redis import NOWHERE, alone, follower_of

KEY = "user:1:profile"
FREE = "session:1"


class Loads:
    """A loader of one row's version that counts."""

    def __init__(self, db: asyncpg.Connection, user: int = 1) -> None:
        self.db, self.user, self.count = db, user, 0

    async def __call__(self) -> int | None:
        self.count += 1
        version: int | None = await self.db.fetchval("select version from profiles where id = $1", self.user)
        return version


@pytest.fixture
async def db(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Rows 1 to 20, watched."""
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        await connection.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
        yield connection


@pytest.fixture
async def cache(db: asyncpg.Connection, database: Database) -> AsyncIterator[Cache]:
    """Follows as the role with the least rights."""
    async with alone(database.worker_dsn) as cache:
        yield cache


async def change(db: asyncpg.Connection, user: int = 1) -> str:
    """Commit a change; returns its token."""
    async with db.transaction():
        await db.execute("update profiles set version = version + 1 where id = $1", user)
        token: str = await db.fetchval("select unstale.token()")
    return token


async def test_a_change_reaches_the_near_cache(cache: Cache, db: asyncpg.Connection) -> None:
    load = Loads(db)
    assert [await cache.get_or_load(KEY, load) for _ in range(3)] == [1, 1, 1]
    assert load.count == 1
    async with cache.subscribe("user:1:*") as events:
        await change(db)
        event = await anext(events)
        assert isinstance(event, Invalidated)
        assert set(event.keys) == {KEY, "user:1:greeting_instructions"}
        assert math.isfinite(event.staleness)
        assert await cache.get_or_load(KEY, load) == 2
    assert load.count == 2


async def test_it_starts_attached_with_a_bound(cache: Cache) -> None:
    assert cache.attached
    assert cache.staleness < math.inf
    stats = await cache.get_stats()
    assert (stats["enabled"], stats["connected"], stats["status"]) == (False, False, "healthy")
    assert (stats["follows"], stats["attached"], stats["redis_memory"]) == ("outbox", True, None)
    assert isinstance(stats["epoch"], str)


async def test_wait_for_a_token_and_read_the_own_write(cache: Cache, db: asyncpg.Connection) -> None:
    load = Loads(db)
    for version in range(2, 12):
        await cache.get_or_load(KEY, load)
        await cache.wait_for(await change(db), timeout=60)
        assert await cache.get_or_load(KEY, load) == version


async def test_a_token_of_another_database_is_refused_and_one_of_the_future_times_out(
    cache: Cache, db: asyncpg.Connection
) -> None:
    token = await change(db)
    with pytest.raises(ValueError, match="the token is from database 1:1, but the worker follows"):
        await cache.wait_for("1:1:1:0/1")
    identity, xid, lsn = token.rsplit(":", 2)
    with pytest.raises(WaitTimeout):
        await cache.wait_for(f"{identity}:{int(xid) + 1000}:{lsn}", timeout=0.2)
    system, timeline, number, outbox = identity.split(":")
    with pytest.raises(ValueError, match="the token is from database"):
        await cache.wait_for(f"{system}:{timeline}:{int(number) + 1}:{outbox}:{xid}:{lsn}")


@pytest.mark.parametrize("rules", ["", '[ttl]\n"user:*" = "1h"\n'])
async def test_rules_that_watch_nothing_are_refused(database: Database, rules: str) -> None:
    with pytest.raises(RuleError, match="no change would invalidate a key"):
        async with alone(database.worker_dsn, rules=rules):
            pass


async def test_a_cut_off_outbox_is_another_history(cache: Cache, db: asyncpg.Connection) -> None:
    """As after a restore in place: the entry is gone before it was read."""
    load = Loads(db)
    assert await cache.get_or_load(KEY, load) == 1
    with seams.before(OutboxSource, "read", hold=True) as point:
        await point.wait()
        await change(db)
        await db.execute("truncate unstale.outbox")
        point.release()

    async def dropped() -> bool:
        version: int | None = await cache.get_or_load(KEY, load)
        return version == 2

    await eventually(dropped, message="the near cache is dropped")


async def test_whoever_waits_for_a_token_does_not_wait_for_the_timer(
    cache: Cache, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PollPolicy, "pause", property(lambda self: 3600.0))
    reads = follower_of(cache).reads
    await eventually(lambda: follower_of(cache).reads > reads)  # the last one by the timer
    for _ in range(3):
        await cache.wait_for(await change(db), timeout=20)


async def test_max_staleness_reads_past_the_cache(cache: Cache, db: asyncpg.Connection) -> None:
    load = Loads(db)
    await cache.get_or_load(KEY, load)
    await cache.get_or_load(KEY, load, max_staleness=5)
    assert load.count == 1
    await cache.get_or_load(KEY, load, max_staleness=0)
    assert load.count == 2


async def test_get_load_set_stores_unless_a_change_came_between(cache: Cache, db: asyncpg.Connection) -> None:
    assert await cache.get(KEY) is None
    assert await cache.set(KEY, "loaded")
    assert await cache.get(KEY) == "loaded"
    assert await cache.get("user:2:profile") is None
    await cache.wait_for(await change(db, 2))
    assert not await cache.set("user:2:profile", "too old")
    assert await cache.get("user:2:profile") is None


async def test_a_blind_set_of_an_owned_key_stores_nothing(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await cache.set(KEY, "of unknown age")
    assert await cache.get(KEY) is None
    assert "a rule owns this key" in caplog.text
    assert await cache.set(FREE, {"stage": 3}, ttl=60)
    assert await cache.get(FREE) == {"stage": 3}


async def test_delete_and_invalidate_pattern_act_here(cache: Cache, db: asyncpg.Connection) -> None:
    load = Loads(db)
    await cache.get_or_load(KEY, load)
    await cache.delete(KEY)
    await cache.get_or_load(KEY, load)
    assert load.count == 2
    assert await cache.invalidate_pattern("user:*") == 1
    await cache.get_or_load(KEY, load)
    assert load.count == 3


async def test_a_load_that_a_change_overtakes_is_not_kept(cache: Cache, db: asyncpg.Connection) -> None:
    loaded, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        version: int = await db.fetchval("select version from profiles where id = 1")
        loaded.set()
        await go_on.wait()
        return version

    reading = asyncio.create_task(cache.get_or_load(KEY, slow))
    await loaded.wait()
    await cache.wait_for(await change(db))
    go_on.set()
    assert await reading == 1  # it began before the change
    assert await cache.get_or_load(KEY, Loads(db)) == 2


async def test_rules_own_keys_and_give_ttls(cache: Cache, db: asyncpg.Connection) -> None:
    await cache.get_or_load(KEY, Loads(db))
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    assert 3600 * 0.9 - 60 < entry.expires - cache._now() <= 3600  # [ttl] "1h", shortened by up to a tenth
    assert cache.inspect().rules.owns(KEY)
    assert not cache.inspect().rules.owns(FREE)


async def test_tools_tell_the_last_changes_of_their_user(cache: Cache, db: asyncpg.Connection) -> None:
    tools = Tools(cache, user_id=1)
    assert (await tools.run("getInvalidationStats"))["last_changes"] == []
    for user in (1, 2):
        await cache.wait_for(await change(db, user))
    await db.execute("update profiles set version = 0")
    async with db.transaction():
        await db.execute("truncate profiles")
        token = await db.fetchval("select unstale.token()")
    await cache.wait_for(token)
    told = await tools.run("getInvalidationStats")
    assert (told["status"], told["log_id"]) == ("healthy", cache.inspect().freshness.last)
    changes = [(entry["keys"], entry["by_pattern"]) for entry in told["last_changes"]]  # type: ignore[attr-defined]
    assert changes[-1] == (["profile", "greeting_instructions"], False)
    assert changes[0][1]  # everything, by TRUNCATE


async def test_fan_out_queries_run(database: Database, db: asyncpg.Connection) -> None:
    rules = """
[[watch]]
table = "public.teams"
keys = ["user:{member}:profile"]
query = "select id as member from public.profiles where team = {id}"
"""
    await db.execute(
        "alter table profiles add team int; update profiles set team = id % 2;"
        "create table teams (id int primary key, name text); insert into teams values (0, 'a'), (1, 'b');"
        "select unstale.watch('public.teams', '{id}')"
    )
    async with alone(database.dsn, rules=rules) as cache, cache.subscribe() as events:
        await db.execute("update teams set name = 'c' where id = 1")
        event = await anext(events)
        assert isinstance(event, Invalidated)
        assert set(event.keys) == {f"user:{n}:profile" for n in range(1, 21, 2)}


async def test_truncate_and_a_batch_of_many_pages(database: Database, db: asyncpg.Connection) -> None:
    """Pages of 7 entries: the watermark comes only after the last."""
    async with alone(database.dsn, read_entries=7) as cache:
        loads = [Loads(db, user) for user in range(1, 21)]
        for user, load in enumerate(loads, start=1):
            await cache.get_or_load(f"user:{user}:profile", load)
        async with db.transaction():
            for user in range(1, 21):
                await db.execute("update profiles set version = 7 where id = $1", user)
            token = await db.fetchval("select unstale.token()")
        await cache.wait_for(token)
        assert [
            await cache.get_or_load(f"user:{user}:profile", load) for user, load in enumerate(loads, start=1)
        ] == [7] * 20
        async with db.transaction():
            await db.execute("truncate profiles")
            token = await db.fetchval("select unstale.token()")
        await cache.wait_for(token)
        assert await cache.get_or_load(KEY, loads[0]) is None


async def test_a_failed_page_is_read_again(
    cache: Cache, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The position moves after what it covers was dropped: an error in between loses nothing."""
    failed = asyncio.Event()

    async def failing(*arguments: object) -> object:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("in the middle of a page")
        return await plan_page(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox_follower, "plan_page", failing)
    load = Loads(db)
    await cache.get_or_load(KEY, load)
    await cache.wait_for(await change(db), timeout=60)
    assert failed.is_set()
    assert await cache.get_or_load(KEY, load) == 2
    assert follower_of(cache).restarts == 1
    assert "in the middle of a page" in caplog.text


async def test_reading_costs_the_database_little_when_nothing_changes(
    database: Database, db: asyncpg.Connection
) -> None:
    async with alone(database.dsn, poll_max=0.25) as cache:
        follower = follower_of(cache)
        await eventually(lambda: follower.reads > 8)  # the pause has grown to its bound
        before, began = follower.reads, asyncio.get_running_loop().time()
        await takes(1.0)
        elapsed = asyncio.get_running_loop().time() - began
        assert follower.reads - before <= elapsed / 0.25 + 1


async def test_the_purge_goes_on_without_any_worker(
    database: Database, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_follower, "PURGE_EVERY", 0.05)
    await change(db)
    await db.execute("update unstale.horizon set retention = '0'")

    async def empty() -> bool:
        return not await db.fetchval("select count(*) from unstale.outbox")

    async with alone(database.worker_dsn):
        await eventually(empty)
        assert await db.fetchval("select retention from unstale.horizon") == await db.fetchval(
            "select interval '0'"
        )  # what nobody set stays
    async with alone(database.worker_dsn, retention=7200):

        async def told() -> bool:
            return bool(await db.fetchval("select retention = interval '2 hours' from unstale.horizon"))

        await eventually(told)


async def test_purged_beyond_the_position_means_dropping_everything(
    cache: Cache, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that was away for longer than the retention trusts nothing that it held."""
    load = Loads(db)
    await cache.get_or_load(KEY, load)
    source = follower_of(cache)._source
    assert isinstance(source, OutboxSource)
    async with cache.subscribe() as events, source._lock:  # it cannot read meanwhile
        await change(db)
        await db.execute("select unstale.purge(10000, '0')")
        assert not await db.fetchval("select count(*) from unstale.outbox")
        source._lock.release()
        try:
            assert isinstance(await anext(events), Reset)
        finally:
            await source._lock.acquire()
    await eventually(lambda: cache.attached)
    assert await cache.get_or_load(KEY, load) == 2
    assert follower_of(cache).restarts == 2


async def test_behind_a_transaction_pooler(
    database: Database, db: asyncpg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    """No session state, no prepared statement; and nothing is printed in the agent's process."""
    async with pooled(database.worker_dsn) as dsn, alone(dsn) as cache:
        load = Loads(db)
        for version in (1, 2, 3):
            assert await cache.get_or_load(KEY, load) == version
            await cache.wait_for(await change(db), timeout=20)
        assert follower_of(cache).failures == 0
    assert capfd.readouterr().out == ""


async def test_over_https(
    database: Database, db: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who has nothing but the project's URL and a secret key; the purge goes that way, too."""
    monkeypatch.setattr(outbox_follower, "PURGE_EVERY", 0.05)
    for name in ("DATABASE_URL", "SUPABASE_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    async with way("supabase", database) as https:
        settings = {**https.settings, "poll_max": 0.5}
        async with alone(settings.pop("database_url"), **settings) as cache:
            load = Loads(db)
            for version in (1, 2, 3):
                assert await cache.get_or_load(KEY, load) == version
                await cache.wait_for(await change(db), timeout=20)
            await db.execute("update unstale.horizon set retention = '0'")

            async def empty() -> bool:
                return not await db.fetchval("select count(*) from unstale.outbox")

            await eventually(empty)
            assert not await db.fetchval("select count(*) from public.unstale_wakeup")  # nobody listens


# --- the start ------------------------------------------------------------------------------------


async def test_an_unwatched_table_is_refused_at_the_start(database: Database) -> None:
    with pytest.raises(MigrationMissing, match=r"public\.profiles is not watched"):
        async with alone(database.dsn):
            raise AssertionError("it started")


def test_no_rules_no_start(tmp_path: Path) -> None:
    with pytest.raises(RuleError):
        Cache.from_env(
            env_file=None, redis_enabled=False, embedded_worker=True, database_url="postgresql://x/y",
            config=tmp_path / "missing.toml",
        )  # fmt: skip


def test_it_needs_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "SUPABASE_DB_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingError, match="DATABASE_URL is not set; set it to the connection string"):
        Cache.from_env(env_file=None, redis_enabled=False, embedded_worker=True)


def test_it_may_not_poll_more_slowly_than_it_is_trusted() -> None:
    with pytest.raises(SettingError, match=r"max_silence is 1\.0 s: an embedded worker needs at least twice"):
        Cache.from_env(
            env_file=None, redis_enabled=False, embedded_worker=True, database_url="postgresql://x/y",
            poll_max=0.6, max_silence=1.0, watermark_interval=0.5, leader_ttl=0.5,
        )  # fmt: skip


def test_without_the_worker_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    with pytest.raises(SettingError, match="no embedded worker is installed; install"):
        Cache.from_env(
            env_file=None, redis_enabled=False, embedded_worker=True, database_url="postgresql://x/y"
        )


async def test_a_database_that_is_away_at_the_start_is_waited_for_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody listens: the cache can be used, and every read loads."""
    async with alone("postgresql://postgres@127.0.0.1:1/postgres", attached=False) as cache:
        assert not cache.attached
        assert cache.staleness == math.inf
        assert await cache.get_or_load(KEY, lambda: "loaded") == "loaded"
        assert (await cache.get_stats())["status"] == "detached"
    assert "not following the outbox; trying again error='cannot connect to Postgres" in caplog.text


async def test_with_redis_the_setting_changes_nothing(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "unstale"):
        async with Cache.from_env(env_file=None, redis_url=redis_url, embedded_worker=True) as cache:
            assert isinstance(cache.inspect().following, LogFollowing)
            assert (await cache.get_stats())["follows"] == "log"
    assert "run `unstale worker`" in caplog.text


async def test_an_embedded_worker_and_nothing_said_of_redis_means_without(
    db: asyncpg.Connection, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REDIS_URL", "REDIS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    rules = tmp_path / "unstale.toml"
    rules.write_text(PROFILES)
    said = {"env_file": None, "database_url": database.worker_dsn, "config": rules}
    async with Cache.from_env(embedded_worker=True, **said) as cache:
        assert (await cache.get_stats())["follows"] == "outbox"
        await eventually(lambda: cache.attached, message="the cache is attached")
        assert await cache.get_or_load(KEY, Loads(db)) == 1
        await cache.wait_for(await change(db))
        assert await cache.get_or_load(KEY, Loads(db)) == 2

    assert AgentSettings.from_env(env_file=None).uses_redis
    assert AgentSettings.from_env(embedded_worker=True, redis_enabled=True, **said).uses_redis
    assert not AgentSettings.from_env(embedded_worker=True, redis_enabled=False, **said).uses_redis
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    assert AgentSettings.from_env(embedded_worker=True, **said).uses_redis


async def test_no_redis_is_ever_asked(cache: Cache) -> None:
    assert cache.settings.redis_url.get_secret_value() == NOWHERE
    assert isinstance(cache.inspect().tier, NoSharedTier)
    async with cache.lock("user:1:greeting"):
        assert await cache.get_or_load(KEY, lambda: 1) == 1


async def test_nothing_is_kept_for_a_loader_that_fails(cache: Cache) -> None:
    async def down() -> int:
        raise ConnectionError

    for key in (KEY, FREE):
        assert await cache.get_or_load(key, lambda: 1, stale_if_error=3600) == 1
        cache.inspect().local.near.drop(key)
        with pytest.raises(ConnectionError):
            await cache.get_or_load(key, down, stale_if_error=3600, soft_timeout=0.001)
    assert cache.counters().failed_hits == 0
