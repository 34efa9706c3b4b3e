"""All that a user calls, in a cluster: every key is in one slot, and every answer names the user's keys."""

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from servers import Database, eventually, run_apart
from servers.clusters import NAMES, SLOT, Cluster, start_cluster
from unstale import Cache, RedisUnavailable
from unstale.protocol import sealed
from unstale.protocol.tags import record
from unstale_worker.audit.contents import read_contents
from unstale_worker.cli.tail import Line, follow
from unstale_worker.doctor.findings import Severity
from unstale_worker.doctor.run import examine
from unstale_worker.forecast.running import count_keys, read_running
from unstale_worker.observe.overview import read_stats
from unstale_worker.redis.client import open_redis
from unstale_worker.refresh.redis.dead_letters import drop_dead, list_dead, retry_dead
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import why
from workers import connected, running_worker, settings_for
from workers.double import attached_cache

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
select unstale.watch('public.profiles', '{id}');
insert into public.profiles select g, 'a' from generate_series(1, 5) g;
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:row", "user:{id}:dead"]
tags = ["user:{id}:all"]

[refresh."user:{id}:row"]
loader = "row"
table = "public.profiles"
key = "id"
debounce = "0s"

[refresh."user:{id}:dead"]
loader = "sql"
query = "select 1 / (id - id) from public.profiles where id = {id}"
debounce = "0s"

[reads."user:{id}:profile"]
stale_if_error = "1h"

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


async def test_agents(database: Database, nodes: Cluster) -> None:
    """They encrypt what they store, and answer the last value while a loader fails."""
    keys = f"a:{base64.b64encode(bytes(32)).decode()}"
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as reading,
        running_worker(database.dsn, nodes.url, rules=await _made(db), value_keys=keys),
        attached_cache(nodes.url, value_keys=keys) as cache,
        attached_cache(nodes.url, value_keys=keys) as other,
        open_redis(settings_for(database.dsn, nodes.url), connections=1) as redis,
    ):
        one, loads = asyncio.Lock(), 0

        async def load(number: int = 1) -> str | None:
            nonlocal loads
            async with one:
                loads += 1
                name: str | None = await reading.fetchval("select name from profiles where id = $1", number)
                return name

        async def both(key: str, expected: str, **options: Any) -> bool:
            found = [await each.get_or_load(key, load, **options) for each in (cache, other)]
            return found == [expected, expected]

        assert await both("user:1:profile", "a")
        assert await both("search:1", "a", tags=["user:1:all", "model"])
        many = await cache.get_many(
            [f"user:{number}:profile" for number in range(1, 6)],
            lambda keys: _loaded(keys, load),
        )
        assert list(many.values()) == ["a"] * 5
        await db.execute("update profiles set name = 'b' where id = 1")
        token = await db.fetchval("select unstale.token()")
        await cache.wait_for(token)

        async def down() -> str:
            raise ConnectionError

        assert await cache.get_or_load("user:1:profile", down) == "a"
        assert cache.counters().failed_hits == 1
        spare: Any = await redis.get(NAMES.spare(NAMES.stored("user:1:profile")))
        assert spare.startswith(b"3600000\n" + sealed.ENCRYPTED)
        assert await both("user:1:profile", "b")
        stored: Any = await redis.get(NAMES.stored("user:1:profile"))
        assert stored.startswith(sealed.ENCRYPTED)
        assert await both("search:1", "b", tags=["user:1:all", "model"])

        await cache.set("user:1:state", {"stage": 3}, ttl=10)
        await eventually(lambda: _got(other, "user:1:state", {"stage": 3}))
        await cache.delete("user:1:state")
        await eventually(lambda: _got(other, "user:1:state", None))
        before = loads
        await cache.invalidate_tags(["model"])
        await eventually(lambda: _dropped(other, "search:1"))
        assert await both("search:1", "b", tags=["user:1:all", "model"])
        assert loads == before + 1
        assert await cache.invalidate_pattern("user:*:profile") == 5
        await eventually(lambda: _dropped(other, "user:1:profile"))
        assert await both("user:1:profile", "b")
        assert loads == before + 2
        async with cache.lock("job") as lock:
            assert lock.fence > 0
        with pytest.raises(ValueError, match="':'"):
            await cache.set(":state", 1)
        assert cache.staleness < 5
        await _in_one_slot(nodes)


async def test_the_worker_and_its_commands(database: Database, nodes: Cluster, tmp_path: Path) -> None:
    async with connected(database.dsn) as db:
        text = await _made(db)
        rules = Rules.parse(text)
        (tmp_path / "unstale.toml").write_text(text)
        settings = settings_for(database.dsn, nodes.url, config=tmp_path / "unstale.toml")
        async with (
            running_worker(database.dsn, nodes.url, rules=text, refresh_attempts=1) as worker,
            attached_cache(nodes.url) as cache,
            open_redis(settings, connections=4) as redis,
        ):
            for key in ("user:1:row", "user:1:dead"):
                assert await cache.get_or_load(key, lambda: {"id": 1, "name": "a"}) == {"id": 1, "name": "a"}
            stop, lines = asyncio.Event(), list[Line]()

            async def listen() -> None:
                async for line in follow(redis, NAMES, pattern="user:*", stop=stop, rules=rules):
                    lines.append(line)

            listening = asyncio.create_task(listen())
            ask = redis.pubsub_shardnumsub
            await eventually(lambda: _at_least(ask, 2), message="the cache and the tail listen")
            await db.execute("update profiles set name = 'b' where id = 1")

            async def refreshed() -> bool:
                found = (await read_contents(redis, NAMES, ["user:1:row"])).values
                return b'"b"' in found.get("user:1:row", b"")

            await eventually(refreshed, message="the row was loaded again")
            (letter,) = await eventually(lambda: list_dead(redis, NAMES), message="a dead letter")
            assert letter.key == "user:1:dead"
            assert await retry_dead(redis, NAMES, letter.key)
            await eventually(lambda: list_dead(redis, NAMES), message="dead again")
            assert await drop_dead(redis, NAMES, letter.key)
            found = await why(redis, NAMES, rules, "user:1:row", most=5)
            assert found.content == "value"
            assert found.removals
            counts = await count_keys(redis, NAMES, ["user:*:row", "user:*", record("*")])
            assert counts["user:*:row"] == 1
            stats = await read_stats(redis, NAMES)
            assert (stats.run, stats.leader, stats.agents) == ("live", True, 2)
            assert (await read_running(redis, NAMES)).leader
            stop.set()
            await listening
            assert "user:1:row" in {key for line in lines for key in line.keys}
            assert worker.status().redis_tier == "cluster"
            findings = await examine(settings)
            assert [found for found in findings if found.severity is Severity.ERROR] == []
            assert any("one node of the cluster serves them all" in found.finding for found in findings)
        await _in_one_slot(nodes)


async def test_the_documented_redis_users(database: Database, nodes: Cluster) -> None:
    page = SECURITY.read_text()
    changes: list[tuple[str, str]] = []
    for line in page.partition("In a cluster the same lines hold")[2].splitlines()[4:9]:
        cells = line.replace("\\|", "\0").split("|")
        given, wanted = re.findall("`([^`]+)`", cells[1]), re.findall("`([^`]+)`", cells[2])
        changes += zip(given, wanted * (len(given) // len(wanted)), strict=True)
    for line in re.findall(r"^ACL SETUSER .+$", page, re.MULTILINE):
        for before, after in changes:
            written = after.replace("\0", "|")
            line = re.sub(re.escape(before) + r"(?=[ )]|$)", written, line)
        for node in nodes.nodes:
            await nodes.ask(node, *re.findall(r"\([^)]*\)|\S+", line))

    def url(user: str) -> str:
        return re.sub("//[^@]*@", f"//{user}:password@", nodes.url)

    async with (
        connected(database.dsn) as db,
        running_worker(database.dsn, url("unstale-worker"), rules=await _made(db)),
        attached_cache(url("unstale-agent")) as agent,
        attached_cache(url("unstale-writer")) as writer,
    ):
        for cache in (agent, writer):
            assert await cache.get_or_load("user:1:profile", lambda: "a", tags=["user:1:all"]) == "a"
        await db.execute("update profiles set name = 'b' where id = 1")
        await eventually(lambda: _dropped(agent, "user:1:profile"))
        assert await agent.get_or_load("user:1:profile", lambda: "b") == "b"
        assert agent.counters().fills >= 1
        assert await writer.invalidate_pattern("user:1:*") >= 1
        await writer.set("user:1:state", 1, ttl=10)
        async with writer.lock("job"):
            await writer.delete("user:1:state")
        with pytest.raises(RedisUnavailable):
            await agent.delete("user:1:profile")


async def test_a_url_that_does_not_say_what_the_server_is(
    database: Database, nodes: Cluster, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)

    async def said(url: str) -> str:
        settings = settings_for(database.dsn, url, config=tmp_path / "unstale.toml")
        found = [each for each in await examine(settings) if each.subject == "Redis"]
        return " ".join(f"{each.finding}; {each.remedy}" for each in found).lower()

    assert "add ?cluster=true" in await said((await nodes.owner()).url)
    assert "one is not a node of a cluster" in await said(redis_url.removesuffix("/0") + "?cluster=true")


async def test_an_agent_stores_nothing_under_the_names_of_a_single_server(
    database: Database, nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """No worker would invalidate it there, and the state says that one is alive."""
    async with connected(database.dsn) as db:
        rules = await _made(db)
        async with running_worker(database.dsn, nodes.url, rules=rules):
            owner = await nodes.owner()
            async with Cache.from_env(env_file=None, redis_url=owner.url) as cache:
                for number in range(30):
                    assert await cache.get_or_load(f"user:{number}:profile", lambda: "a") == "a"
                assert not cache.attached
    assert "add ?cluster=true" in caplog.text
    await _in_one_slot(nodes)


async def _made(db: Any) -> str:
    await db.execute(SCHEMA)
    return RULES


async def _loaded(keys: Any, load: Any) -> dict[str, Any]:
    return {key: await load(int(key.split(":")[1])) for key in keys}


async def _got(cache: Cache, key: str, expected: object) -> bool:
    return bool(await cache.get(key) == expected)


def _dropped(cache: Cache, key: str) -> bool:
    return key not in cache.inspect().local.near._entries


async def _at_least(ask: Any, number: int) -> bool:
    ((_, count),) = await ask(NAMES.channel)
    return bool(count >= number)


async def _in_one_slot(nodes: Cluster) -> None:
    """No node has a key in another slot."""
    for node in nodes.nodes:
        names = await nodes.ask(node, "KEYS", "*")
        assert {key_slot(name) for name in names} <= {SLOT}
