"""Several partitions: all that a user calls reaches every one, and each fails and recovers alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from servers import Database, eventually, run_apart
from servers.clusters import PRIMARIES, Cluster, start_cluster
from unstale import AgentSettings, Cache, ConfigurationError, Invalidated
from unstale.protocol.names import Names
from unstale.protocol.partitions import Partitions, slot_of
from unstale.sync import Cache as BlockingCache
from unstale_worker.doctor.findings import Severity
from unstale_worker.doctor.run import examine
from unstale_worker.leader.supervisor import Worker
from unstale_worker.redis.client import open_redis
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import why
from workers import connected, redis_at, running_worker, settings_for, state_of

COUNT = 6
ROWS = 40
KEYS = [f"user:{number}:profile" for number in range(1, ROWS + 1)]
PARTITIONS = Partitions("unstale", COUNT)
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
select unstale.watch('public.profiles', '{id}');
insert into public.profiles select g, 'a' from generate_series(1, 40) g;
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]
tags = ["user:{id}:all"]

[ttl]
"user:*" = "1h"
"search:*" = "1h"
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster for this file."""
    made = run_apart(start_cluster())
    try:
        yield made
    finally:
        run_apart(made.close())


class Values:
    """Loads rows, and counts how often."""

    def __init__(self, db: Any) -> None:
        self._db, self._one, self.loads = db, asyncio.Lock(), 0

    async def name(self, key: str) -> str | None:
        """Return the name of the row of ``key``."""
        async with self._one:
            self.loads += 1
            found: str | None = await self._db.fetchval(
                "select name from profiles where id = $1", int(key.split(":")[1])
            )
            return found

    async def read(self, cache: Cache, keys: list[str], **options: Any) -> set[str]:
        """Return the distinct values of all keys."""
        return {await cache.get_or_load(key, lambda key=key: self.name(key), **options) for key in keys}


def opened(nodes: Cluster, **more: Any) -> Cache:
    """Return a cache over all partitions."""
    return Cache.from_env(env_file=None, redis_url=nodes.url, partitions=COUNT, redis_timeout=20, **more)


@asynccontextmanager
async def running(
    database: Database, nodes: Cluster
) -> AsyncIterator[tuple[Any, Values, tuple[Cache, Cache], Worker]]:
    """A database, a worker and two caches that follow every partition."""
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as reading,
        contextlib.AsyncExitStack() as stack,
    ):
        await db.execute(SCHEMA)
        worker = await stack.enter_async_context(
            running_worker(database.dsn, nodes.url, rules=RULES, partitions=COUNT)
        )
        one = await stack.enter_async_context(opened(nodes))
        other = await stack.enter_async_context(opened(nodes))
        await eventually(lambda: one.attached and other.attached, message="all partitions are followed")
        yield db, Values(reading), (one, other), worker


async def test_every_call_reaches_every_partition(database: Database, nodes: Cluster, tmp_path: Path) -> None:
    assert len({PARTITIONS.of(key).partition for key in KEYS}) == COUNT
    async with running(database, nodes) as (db, values, caches, worker):
        one, other = caches

        async def both(keys: list[str], **options: Any) -> set[str]:
            return await values.read(one, keys, **options) | await values.read(other, keys, **options)

        # Reads, fills and changes; wait_for waits for the partitions that nothing concerned, too.
        assert await both(KEYS) == {"a"}
        assert values.loads == ROWS
        assert one.staleness < 20
        await db.execute("update profiles set name = 'b' where id <= 3")
        await db.execute("update profiles set name = 'b' where id > 3")
        token = await db.fetchval("select unstale.token()")
        await asyncio.gather(one.wait_for(token, timeout=60), other.wait_for(token, timeout=60))
        assert await both(KEYS) == {"b"}
        assert values.loads == 2 * ROWS

        # Many keys: a call of the loader is for all partitions.
        calls = list[list[str]]()

        async def load(keys: Any) -> dict[str, Any]:
            calls.append(list(keys))
            return {key: await values.name(key) for key in keys}

        await one.delete(*KEYS)
        await eventually(lambda: not any(held(other, key) for key in KEYS), message="dropped elsewhere")
        found = await one.get_many(KEYS, load)
        assert list(found) == KEYS
        assert set(found.values()) == {"b"}
        assert sorted(key for call in calls for key in call) == sorted(KEYS)
        assert len(calls) < COUNT  # one, unless a node is slow
        assert await other.get_many([*KEYS, "user:0:none"]) == found

        # A tag has a record in each partition; a pattern and TRUNCATE concern all.
        searches = [f"search:{number}" for number in range(20)]
        for key in searches:
            for cache in caches:
                await cache.get_or_load(key, lambda: "found", tags=["user:1:all", "model"])
        await db.execute("update profiles set name = 'c' where id = 1")
        await eventually(lambda: not any(held(each, key) for each in caches for key in searches))
        loaded = list[str]()

        async def search(key: str) -> str:
            loaded.append(key)
            return "again"

        for key in searches:
            await other.get_or_load(key, lambda key=key: search(key), tags=["user:1:all"])
        assert loaded == searches
        await one.invalidate_tag("user:1:all")
        await eventually(lambda: not any(held(other, key) for key in searches), message="a tag's values")
        async with one.subscribe("user:*") as events:
            await both(KEYS)
            assert await one.invalidate_pattern("user:*:profile") == ROWS
            assert isinstance(await anext(events), Invalidated)
        await eventually(lambda: not any(held(other, key) for key in KEYS), message="a pattern's values")
        await both(KEYS)
        await db.execute("truncate profiles")
        await eventually(lambda: not any(held(each, key) for each in caches for key in KEYS))
        assert await both(KEYS) == {None}

        # Other calls of one key.
        await one.set("state:1", {"stage": 3}, ttl=60)
        assert await other.get("state:1") == {"stage": 3}
        async with one.lock("job") as lock:
            assert lock.fence > 0
        stats: Any = await one.get_stats()
        assert (stats["status"], len(stats["partitions"])) == ("healthy", COUNT)
        assert stats["near_entries"] == one.counters().near_entries > 0
        assert isinstance(one, Cache)
        with pytest.raises(TypeError, match="partitions"):
            one.inspect()
        blocking = await asyncio.to_thread(_blocking, nodes)
        assert blocking == ("x", "x", 1)

        # Each key is in the slot of its partition, and every node has some.
        await both(KEYS)
        slots = [slot_of(each.tag) for each in PARTITIONS.names]
        assert len({(await nodes.owner(slot)).port for slot in slots}) == PRIMARIES
        async with redis_at((await nodes.owner(slot_of(PARTITIONS.of(KEYS[0]).tag))).url) as redis:
            assert await redis.exists(PARTITIONS.of(KEYS[0]).stored(KEYS[0])) == 1
        assert worker.status().redis_tier == "cluster"

        # Commands: one key's partition, or a refusal that says so.
        (tmp_path / "unstale.toml").write_text(RULES)
        settings = settings_for(
            database.dsn, nodes.url, partitions=COUNT, config=tmp_path / "unstale.toml"
        ).in_partition(KEYS[0])
        async with open_redis(settings, connections=1) as redis:
            told = await why(redis, settings.names, Rules.parse(RULES), KEYS[0], most=5)
        assert told.content == "value"
        assert told.removals
        whole = settings_for(database.dsn, nodes.url, partitions=COUNT, config=tmp_path / "unstale.toml")
        findings = await examine(whole)
        assert [each for each in findings if each.severity is Severity.ERROR] == []
        assert f"{COUNT} partitions" in str(findings)
        with pytest.raises(ConfigurationError, match=f"one partition only so far.* is {COUNT}"):
            whole.in_one_partition("`unstale tail`")
        await refused_otherwise(database, nodes)


async def refused_otherwise(database: Database, nodes: Cluster) -> None:
    """Processes with another number of partitions, and rules that need one, are refused with the reason."""
    for count in (1, COUNT + 1):
        cache = Cache(AgentSettings(redis_url=nodes.url, partitions=count))
        with pytest.raises(ConfigurationError, match=f"UNSTALE_PARTITIONS is {count} here.*in {COUNT}"):
            await cache.start()
        worker = Worker(settings_for(database.dsn, nodes.url, partitions=count), Rules.parse(RULES))
        with pytest.raises(ConfigurationError, match=f"Set UNSTALE_PARTITIONS={COUNT}"):
            await worker.run(stop=asyncio.Event())
    refreshed = (
        RULES + '[refresh."user:{id}:profile"]\nloader = "row"\ntable = "public.profiles"\nkey = "id"\n'
    )
    with pytest.raises(ConfigurationError, match="refresh"):
        Worker(settings_for(database.dsn, nodes.url, partitions=COUNT), Rules.parse(refreshed))
    with pytest.raises(ConfigurationError, match="not that of a cluster"):
        AgentSettings(redis_url="redis://127.0.0.1:1", partitions=COUNT)


async def test_a_failover_concerns_the_partitions_of_its_node_only(
    database: Database, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents of other partitions never detach; what the new primary lacks is applied again."""
    monkeypatch.setattr("unstale.freshness.subscriber.PING_INTERVAL", 0.1)
    async with running(database, nodes) as (db, values, (cache, _), worker):
        await values.read(cache, KEYS)
        owners = [await nodes.owner(slot_of(each.tag)) for each in PARTITIONS.names]
        home = await nodes.owner(slot_of(PARTITIONS.home.tag))  # the leader's lease is there: the worst case
        away = [each is home for each in owners]
        assert {True, False} == set(away)
        before = [
            await epoch(owner.url, names) for owner, names in zip(owners, PARTITIONS.names, strict=True)
        ]
        flushes = [each.inspect().local.flushes for each in cache.partitions]
        detached = list[int]()

        async def watch() -> None:
            while True:
                detached.extend(
                    number
                    for number, (gone, each) in enumerate(zip(away, cache.partitions, strict=True))
                    if not gone and not each.attached
                )
                await asyncio.sleep(0.02)

        watching = asyncio.create_task(watch())
        replica = nodes.replica_of(home)
        await nodes.ask(replica, "CONFIG", "SET", "masterauth", "another")
        await nodes.ask(home, "CLIENT", "KILL", "TYPE", "replica")
        await db.execute("update profiles set name = 'b'")
        token = await db.fetchval("select unstale.token()")
        await cache.wait_for(token, timeout=60)
        await home.kill()  # its replica never heard of that change
        await db.execute("update profiles set name = 'c' where id > 20")
        here = [key for key in KEYS if not away[PARTITIONS.names.index(PARTITIONS.of(key))]]
        late = [key for key in here if int(key.split(":")[1]) > 20]
        await eventually(lambda: not any(held(cache, key) for key in late), message="others go on")
        assert await values.read(cache, late) == {"c"}

        async def promoted() -> bool:
            return await nodes.named(replica, slot_of(PARTITIONS.home.tag)) == replica.port

        await eventually(promoted, message="the replica is the primary")
        await eventually(lambda: cache.attached, message="all partitions are followed again")
        watching.cancel()
        assert await values.read(cache, KEYS) == {"b", "c"}
        after = [
            await epoch((await nodes.owner(slot_of(names.tag))).url, names) for names in PARTITIONS.names
        ]
        assert [old != new for old, new in zip(before, after, strict=True)] == away
        dropped = [
            each.inspect().local.flushes > flushed
            for each, flushed in zip(cache.partitions, flushes, strict=True)
        ]
        assert dropped == away
        assert detached == []
        assert worker.status().counters.recoveries == COUNT  # of the first start
        await nodes.ask(replica, "CONFIG", "SET", "masterauth", replica.password)
        await home.start()


def held(cache: Cache, key: str) -> bool:
    """Return True if the near cache has ``key``."""
    return key in cache.in_partition(key).inspect().local.near._entries


async def epoch(url: str, names: Names) -> str:
    """Return the epoch of a partition."""
    async with redis_at(url) as redis:
        return (await state_of(redis, names))["epoch"]


def _blocking(nodes: Cluster) -> tuple[Any, Any, int]:
    settings = AgentSettings(redis_url=nodes.url, partitions=COUNT, redis_timeout=20)
    with BlockingCache(settings) as cache:
        found = cache.get_or_load("search:1000", lambda: "x"), cache.get_or_load("search:1000", lambda: "y")
        stats: Any = cache.get_stats()
        assert len(stats["partitions"]) == COUNT
        return (*found, cache.counters().misses)
