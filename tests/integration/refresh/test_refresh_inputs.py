"""Fingerprints of a loader's inputs: unchanged ones save the call, and nothing wrong is stored again."""

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

import refresh_loaders
from servers import Database, eventually
from unstale_worker.refresh.redis.leases import Value, new_lease
from unstale_worker.refresh.redis.store import RefreshStore, open_store
from unstale_worker.rules import Rules
from workers import applied, connected, redis_at, running_worker, settings_for
from workers.double import open_cache
from workers.refresh_stage import NAMES, counts, counts_of, filled, settled

KEY = "user:1:greeting"
SCHEMA = """
create table public.profiles (id bigint primary key, name text, seen int not null default 0);
insert into public.profiles select n, 'User ' || n from generate_series(1, 10) n;
select unstale.watch('public.profiles', '{id}');
"""
WATCH = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:greeting"]\n'
REFRESH = '[refresh."user:{user_id}:greeting"]\nserve_stale = "10m"\n'
QUERY = 'inputs = "select name from public.profiles where id = {user_id}"\n'
BY_QUERY = WATCH + REFRESH + 'loader = "refresh_loaders:greeting"\n' + QUERY
BY_LOADER = WATCH + REFRESH + 'loader = "refresh_loaders:asked"\n'
BY_SPARE = BY_QUERY.replace("serve_stale", "stale_if_error")


@pytest.fixture(autouse=True)
def _fresh_loaders() -> None:
    refresh_loaders.reset()


async def noted_at(redis: Redis) -> int:
    """When the last refreshed value was stored, in ms by the server's clock."""
    found: Any = await redis.get(NAMES.inputs(KEY))
    return int(found.split(b"\n")[1])


async def noted(redis: Redis) -> None:
    """Wait until a change that commits now is known to have committed after the last fill."""
    filled_at = await noted_at(redis)

    async def later() -> bool:
        return float(await redis.hget(NAMES.state, "read_at") or 0) > filled_at

    await eventually(later)


async def change(redis: Redis, db: asyncpg.Connection, name: str | None = None) -> dict[str, object]:
    """Change the row of `KEY`, and return the value that follows."""
    await db.execute(
        "update public.profiles set seen = seen + 1, name = coalesce($1, name) where id = 1", name
    )
    await applied(redis, db)
    value: dict[str, object] = json.loads(await filled(redis, KEY, timeout=60))
    await settled(redis, timeout=60)
    return value


@pytest.mark.parametrize("rules", [BY_QUERY, BY_LOADER, BY_SPARE], ids=["query", "loader", "spare"])
async def test_unchanged_inputs_save_the_call(database: Database, redis_url: str, rules: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=rules) as worker:
            await redis.set(KEY, '"an agent\'s"', px=600_000)
            first = await change(redis, db, "Ada")
            assert first == {"greeting": "Hello Ada", "call": 1}
            for _ in range(3):
                await noted(redis)
                assert await change(redis, db) == first
            await noted(redis)
            assert await change(redis, db, "Grace") == {"greeting": "Hello Grace", "call": 2}
            await noted(redis)
            assert await change(redis, db, "Ada") == {"greeting": "Hello Ada", "call": 3}
            totals = await counts(redis)
            assert (totals["unchanged"], totals["filled"]) == (3, 3)
            of_refresh = await counts_of(redis, "user:{user_id}:greeting")
            assert (of_refresh["unchanged"], of_refresh["calls"]) == (3, 3)
            pattern = ("user:{user_id}:greeting",)
            await eventually(lambda: worker.status().refreshed.unchanged == {pattern: 3})


async def test_inputs_that_cannot_be_read_call_the_loader(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        rules = BY_QUERY.replace("select name", "select absent")
        async with running_worker(database.dsn, redis_url, rules=rules):
            await redis.set(KEY, '"an agent\'s"', px=600_000)
            for call in (1, 2):
                assert (await change(redis, db))["call"] == call
            assert await redis.exists(NAMES.inputs(KEY)) == 0


@pytest.fixture
async def store(database: Database, redis_url: str) -> AsyncIterator[RefreshStore]:
    rules = Rules.parse(BY_QUERY)
    async with (
        redis_at(redis_url) as redis,
        open_store(settings_for(database.dsn, redis_url), rules) as store,
    ):
        await redis.hset(NAMES.state, mapping={"rules": rules.hash, "epoch": "e"})
        yield store


@pytest.mark.parametrize(
    "wrong", ["", "lease", "rules", "fingerprint", "missing", "value", "no value", "earlier change", "reader"]
)
async def test_what_is_stored_again(store: RefreshStore, redis_url: str, wrong: str) -> None:
    """Under the lease, the value of this fingerprint, if its first change came after its fill."""
    async with redis_at(redis_url) as redis:
        lease = new_lease()
        await redis.set(KEY, lease, px=60_000)
        value = Value(KEY, b'"Ada"', 60.0, 0.0, "aa", 660.0, (7, 5))
        assert await store.leases.fill([value], lease) == 1
        filled_at = await noted_at(redis)
        await redis.set(NAMES.stale(KEY), '"Eve"' if wrong == "value" else '"Ada"', px=60_000)
        began = filled_at + (0 if wrong == "earlier change" else 1)
        await redis.pexpireat(NAMES.stale(KEY), began + 600_000)
        await redis.set(KEY, lease, px=60_000)
        if wrong == "lease":
            await redis.set(KEY, new_lease(), px=60_000)
        elif wrong == "rules":
            await redis.hset(NAMES.state, "rules", "others")
        elif wrong in ("missing", "reader"):
            await redis.unlink(NAMES.inputs(KEY))
        elif wrong == "no value":
            await redis.unlink(NAMES.stale(KEY))
        stored = await store.leases.store_again(
            KEY,
            lease,
            fingerprint="bb" if wrong == "fingerprint" else "aa",
            seconds=60.0,
            serve_stale=600.0,
            spare=0.0,
            pattern="p",
        )
        assert stored == ((7, 5) if wrong == "" else None)
        assert (await redis.get(KEY) == b'"Ada"') is (stored is not None)
        assert (await redis.exists(NAMES.stale(KEY)) == 0) is (stored is not None or wrong == "no value")


async def test_a_fill_by_a_reader_removes_the_fingerprint(store: RefreshStore, redis_url: str) -> None:
    async with redis_at(redis_url) as redis, open_cache(redis_url) as cache:
        await redis.set(NAMES.inputs(KEY), "aa", px=60_000)
        await redis.set(KEY, b"\x00unstale:lease:mine", px=60_000)
        tier = cache.inspect().tier
        assert await tier.fill(KEY, b"\x00unstale:lease:mine", b"1", seconds=60.0, refreshed=True)
        assert await redis.exists(NAMES.inputs(KEY)) == 0
