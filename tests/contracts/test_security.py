"""The Redis users of docs/security.md can do what they need, and not what they must not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from servers import Database, eventually
from unstale import Cache, RedisUnavailable
from unstale.protocol.names import Names
from unstale_worker.agents.read import read_agents
from unstale_worker.dev_servers import EmbeddedValkey
from workers import PROFILES, SCHEMA, connected, running_worker
from workers.refresh_stage import due, filled

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
STATE, LOG, CHANNEL = "{unstale:0}:state", "{unstale:0}:log", "{unstale:0}:invalidations"

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "the position": ("HSET", STATE, "position", "9999:9999:"),
    "the epoch": ("HDEL", STATE, "epoch"),
    "the whole state": ("UNLINK", STATE),
    "the log": ("XADD", LOG, "999-0", "m", "x"),
    "the rules": ("SET", "{unstale:0}:rules", "{}"),
    "the lease of the leader": ("SET", "{unstale:0}:leader", "me"),
    "an announcement": ("PUBLISH", CHANNEL, "{}"),
    "the refresh set by the right to report": ("ZADD", "{unstale:0}:refresh", "1", "user:1:profile"),
    "another's key": ("SET", "billing:1", "0"),
    "reading another's key": ("GET", "billing:1"),
    "everything": ("FLUSHALL",),
    "the server": ("CONFIG", "GET", "requirepass"),
    "the state by a script": ("EVAL", "return redis.call('HSET', KEYS[1], 'position', '9:9:')", "1", STATE),
    "the log by a script": ("EVAL", "return redis.call('UNLINK', KEYS[1])", "1", LOG),
    "an announcement by a script": ("EVAL", f"return redis.call('PUBLISH', '{CHANNEL}', 'x')", "0"),
    "undeclared keys by a script": ("EVAL", "return redis.call('SET', 'billing:1', '0')", "0"),
}


@pytest.fixture
async def users(valkey: EmbeddedValkey) -> dict[str, str]:
    """Name of the user to the URL of one who signs in with it."""
    lines = re.findall(r"^ACL SETUSER (\S+) .+$", PAGE.read_text(), re.MULTILINE)
    async with Redis.from_url(valkey.url) as redis:
        for line in re.findall(r"^ACL SETUSER .+$", PAGE.read_text(), re.MULTILINE):
            await redis.execute_command(*_words(line))
    return {name: f"redis://{name}:password@127.0.0.1:{valkey.port}/0" for name in lines}


def _words(line: str) -> list[str]:
    """A line's words; a selector in brackets is one."""
    return re.findall(r"\([^)]*\)|\S+", line)


async def test_each_user_can_do_its_work(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey, users: dict[str, str]
) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    agent, writer = (
        Cache.from_env(env_file=None, redis_url=users[name], report_interval=0.1)
        for name in ("unstale-agent", "unstale-writer")
    )
    async with connected(database.dsn) as connection:
        await connection.execute(SCHEMA)
        async with running_worker(database.worker_dsn, users["unstale-worker"]), agent, writer:
            await eventually(lambda: agent.attached and writer.attached)
            for cache, key in ((agent, "user:42:profile"), (writer, "user:43:profile")):
                assert await cache.get_or_load(key, lambda: "old") == "old"
            assert agent.counters().fills == 1
            async with agent.subscribe("user:4?:*") as events:
                await connection.execute("insert into profiles (id) values (42), (43)")
                await anext(events)
                assert await agent.get_or_load("user:42:profile", lambda: "new") == "new"
                await connection.execute("truncate profiles")
                await eventually(lambda: agent.counters().invalidations >= 2)
            # get → load → set, and a soft lease that a loader takes over
            assert await agent.get("user:44:profile") is None
            assert await agent.set("user:44:profile", 1)
            assert await agent.get("user:45:profile") is None
            assert await agent.get_or_load("user:45:profile", lambda: 2) == 2
            assert await writer.get_or_load("user:45:profile", lambda: 3) == 2
            assert await writer.set("user:1:free", 1, ttl=10)
            await writer.delete("user:45:profile")
            assert await writer.invalidate_pattern("user:1:*") == 1
            async with Redis.from_url(users["unstale-worker"]) as redis:

                async def both_reported() -> bool:
                    return len((await read_agents(redis, Names())).agents) == 2

                await eventually(both_reported)
            # An agent that only reads may not invalidate for others, and is told so.
            with pytest.raises(RedisUnavailable, match="did not confirm"):
                await agent.delete("user:44:profile")


REFRESHES = """
[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"

[refresh."user:{user_id}:greeting_instructions"]
loader = "refresh_loaders:greeting"
"""


async def test_the_workers_user_can_refresh(
    database: Database, valkey: EmbeddedValkey, users: dict[str, str]
) -> None:
    """Also what the queue of Python loaders needs: streams, its channels, its scripts."""
    url = users["unstale-worker"]
    async with connected(database.dsn) as connection, Redis.from_url(valkey.url) as redis:
        await connection.execute(SCHEMA)
        await connection.execute("insert into profiles (id, name) values (42, 'Ada')")
        # Patient with Redis: what counts as an error is to be a missing right only.
        async with running_worker(database.dsn, url, rules=PROFILES + REFRESHES, redis_timeout=20) as worker:
            await due(redis, "user:42:profile", "user:42:greeting_instructions")
            assert b"Ada" in await filled(redis, "user:42:profile")
            assert b"Hello Ada" in await filled(redis, "user:42:greeting_instructions")
            assert worker.status().counters.errors == 0


async def test_only_users_that_may_write_the_state_may_publish(
    valkey: EmbeddedValkey, users: dict[str, str]
) -> None:
    async with Redis.from_url(valkey.url) as owner:
        await owner.execute_command("ACL", "SETUSER", "chat", "on", ">chat", "~chat:*", "&chat:*", "+@all")
        allowed = {
            user: [
                await owner.execute_command("ACL", "DRYRUN", user, *command) == b"OK"
                for command in (("PUBLISH", CHANNEL, "x"), ("HSET", STATE, "applied_at", "0"))
            ]
            for user in (*users, "chat")
        }
        assert allowed == {
            "unstale-worker": [True, True],
            "unstale-writer": [True, True],
            "unstale-agent": [False, False],
            "chat": [False, False],
        }
        async with Redis.from_url(f"redis://chat:chat@127.0.0.1:{valkey.port}/0") as chat:
            assert await chat.publish("chat:1", "hello") == 0
            with pytest.raises(NoPermissionError):
                await chat.publish(CHANNEL, "{}")
        await owner.execute_command("ACL", "DELUSER", "chat")


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_an_agent_that_only_reads_cannot_write(
    valkey: EmbeddedValkey, users: dict[str, str], what: str
) -> None:
    async with Redis.from_url(valkey.url) as owner:
        await owner.hset(STATE, mapping={"epoch": "e", "position": "1:1:"})
        await owner.xadd(LOG, {"m": "x"}, id="1-0")
        before = (await owner.hgetall(STATE), await owner.xrange(LOG))
        async with Redis.from_url(users["unstale-agent"]) as agent:
            with pytest.raises((NoPermissionError, ResponseError), match=r"(?i)permission|NOPERM|ACL"):
                await agent.execute_command(*FORBIDDEN[what])
        assert (await owner.hgetall(STATE), await owner.xrange(LOG)) == before
        assert await owner.get("billing:1") is None
        await owner.delete(STATE, LOG)


async def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|supabase)/[\w/]+\.(?:py|sql))`", PAGE.read_text()))
    assert len(named) >= 8
    assert [name for name in named if not (PAGE.parents[1] / name).exists()] == []
