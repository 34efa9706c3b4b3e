"""`RedisCache`: code written for an existing module runs unchanged, in any event loop and after a fork."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import unstale
from servers import eventually
from unstale import RedisCache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, redis_client

# The best practices of the system people come from, unchanged.
MONITOR_HIT_RATE = """
# Get stats regularly
stats = await redis_cache.get_stats()
if float(stats['hit_rate'].rstrip('%')) < 70:
    print("⚠ Low hit rate - investigate TTL settings")
"""
TUNE_TTL = """
# High-frequency, stable data
await redis_cache.set(key, value, ttl=3600)  # 1 hour

# Dynamic, context-sensitive data
await redis_cache.set(key, value, ttl=120)   # 2 minutes

# One-time use data
await redis_cache.set(key, value, ttl=10)    # 10 seconds
"""
INVALIDATE_ON_UPDATES = """
# Always invalidate cache when data changes
async def update_profile(user_id, new_profile):
    await save_to_database(user_id, new_profile)
    await redis_cache.delete(f"user:{user_id}:profile")
"""
BULK = """
# Clear all user data on logout/account change
await redis_cache.invalidate_pattern(f"user:{user_id}:*")
"""


async def run(snippet: str, **names: Any) -> dict[str, Any]:
    """The snippet as the body of a coroutine; what its names are afterwards."""
    body = f"async def snippet():\n{textwrap.indent(snippet, '    ')}\n    return locals()"
    scope = dict(names)
    exec(body, scope)
    result: dict[str, Any] = await scope["snippet"]()
    return result


@pytest.fixture
async def redis_cache(
    valkey: EmbeddedValkey, double: WorkerDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Any:
    """The module's own object, which reads its settings from the environment."""
    monkeypatch.setenv("REDIS_URL", valkey.url)
    monkeypatch.setenv("REDIS_ENABLED", "true")
    monkeypatch.chdir(tmp_path)  # no .env there
    cache = unstale.redis_cache
    opened = await cache.cache()
    await eventually(lambda: opened.attached)
    yield cache
    await cache.close()


async def test_monitor_hit_rate(redis_cache: RedisCache, capsys: pytest.CaptureFixture[str]) -> None:
    await run(MONITOR_HIT_RATE, redis_cache=redis_cache)
    assert "Low hit rate" in capsys.readouterr().out
    await redis_cache.set("note", 1)
    for _ in range(3):
        await redis_cache.get("note")
    await redis_cache.get("nothing")
    names = await run(MONITOR_HIT_RATE, redis_cache=redis_cache)
    assert names["stats"]["hit_rate"] == "75.0%"
    assert capsys.readouterr().out == ""


async def test_tune_ttl(redis_cache: RedisCache, valkey: EmbeddedValkey) -> None:
    await run(TUNE_TTL, redis_cache=redis_cache, key="note", value={"a": [1, None, "ü"]})
    async with redis_client(valkey.url) as redis:
        assert 9_000 < await redis.pttl("note") <= 10_000
        assert await redis.get("note") == '{"a":[1,null,"ü"]}'.encode()
    assert await redis_cache.get("note") == {"a": [1, None, "ü"]}


async def test_invalidate_on_updates(redis_cache: RedisCache) -> None:
    saved = {}

    async def save_to_database(user_id: int, profile: object) -> None:
        saved[user_id] = profile

    assert await redis_cache.get("user:42:profile") is None
    assert await redis_cache.set("user:42:profile", {"name": "Ada"}, ttl=3600)
    assert await redis_cache.get("user:42:profile") == {"name": "Ada"}
    names = await run(INVALIDATE_ON_UPDATES, redis_cache=redis_cache, save_to_database=save_to_database)
    await names["update_profile"](42, {"name": "Grace"})
    assert saved == {42: {"name": "Grace"}}
    assert await redis_cache.get("user:42:profile") is None


async def test_use_pattern_invalidation(redis_cache: RedisCache) -> None:
    for key in ("user:4:state", "user:42:state", "user:42:mood", "user:421:state"):
        await redis_cache.set(key, 1, ttl=60)
    await run(BULK, redis_cache=redis_cache, user_id=42)
    assert [
        await redis_cache.get(key)
        for key in ("user:4:state", "user:42:state", "user:42:mood", "user:421:state")
    ] == [1, None, None, 1]


@pytest.mark.parametrize("snippet", [MONITOR_HIT_RATE, TUNE_TTL, INVALIDATE_ON_UPDATES, BULK])
def test_the_page_for_those_who_come_shows_them(snippet: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "migrating.md").read_text()
    code = [line.partition("  # 1 hour")[0] for line in snippet.splitlines()]
    first = next(line for line in code if line and not line.startswith("#"))
    assert first in page


async def test_stats_have_the_known_fields_and_more(redis_cache: RedisCache) -> None:
    await redis_cache.set("note", 1)
    await redis_cache.get("note")
    stats = await redis_cache.get_stats()
    assert {name: stats[name] for name in ("enabled", "connected", "status", "hit_rate")} == {
        "enabled": True,
        "connected": True,
        "status": "healthy",
        "hit_rate": "100.0%",
    }
    assert stats["cache_hits"] == 1
    assert stats["cache_misses"] == 0
    assert str(stats["redis_memory"]).endswith(("K", "M"))
    for ours in ("near_hits", "redis_hits", "staleness", "watermark_age", "epoch", "invalidations"):
        assert stats[ours] is not None, ours
    assert isinstance(stats["watermark_age"], float)


async def test_get_or_load_and_lock(redis_cache: RedisCache) -> None:
    assert await redis_cache.get_or_load("user:42:profile", lambda: {"name": "Ada"}) == {"name": "Ada"}
    assert await redis_cache.get("user:42:profile") == {"name": "Ada"}
    async with redis_cache.lock("user:42") as lock:
        assert lock.held


async def test_many_at_once_need_no_pool_of_fifty(redis_cache: RedisCache, valkey: EmbeddedValkey) -> None:
    await asyncio.gather(*(redis_cache.set(f"note:{n}", n) for n in range(500)))
    assert await asyncio.gather(*(redis_cache.get(f"note:{n}") for n in range(500))) == list(range(500))
    async with redis_client(valkey.url) as redis:
        assert len(await redis.client_list(_type="normal")) <= 5  # this one, the cache's, and the worker's


async def test_disabled_it_remembers_in_this_process() -> None:
    async with RedisCache.from_env(env_file=None, redis_enabled=False) as cache:
        assert await cache.get_or_load("user:1:profile", lambda: 7) == 7
        assert await cache.get("user:1:profile") == 7
        stats = await cache.get_stats()
        assert (stats["enabled"], stats["connected"], stats["status"]) == (False, False, "disabled")
        assert stats["redis_memory"] is None


async def test_unavailable_it_loads_and_recovers(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with RedisCache.from_env(env_file=None, redis_url=valkey.url) as cache:
        opened = await cache.cache()
        await eventually(lambda: opened.attached)
        await valkey.stop()
        assert await cache.get_or_load("note", lambda: "loaded") == "loaded"
        assert await cache.get("never there") is None
        assert await cache.delete("note") is False
        assert await cache.invalidate_pattern("n*") == 0
        stats = await cache.get_stats()
        assert (stats["connected"], stats["status"]) == (False, "unavailable")


async def test_it_opens_again_after_it_was_closed(redis_cache: RedisCache) -> None:
    await redis_cache.set("note", "kept", ttl=60)
    await redis_cache.close()
    await redis_cache.close()
    assert await redis_cache.get("note") == "kept"


def test_two_runs_and_no_close_leave_nothing_behind(valkey: EmbeddedValkey) -> None:
    """Warnings are errors here: an unclosed socket or cache would be one."""
    cache = RedisCache.from_env(env_file=None, redis_url=valkey.url)

    async def use(value: int) -> object:
        await cache.set("note", value, ttl=60)
        return await cache.get("note")

    assert [asyncio.run(use(n)) for n in (1, 2)] == [1, 2]
    assert repr(cache) == "<RedisCache open in 0 event loops>"


FORKED = """
import asyncio, os, sys
from unstale import RedisCache

cache = RedisCache.from_env(env_file=None, redis_url=sys.argv[1])
loop = asyncio.new_event_loop()
loop.run_until_complete(cache.set("note", "parent", ttl=60))
child = os.fork()
if child == 0:
    try:
        seen = asyncio.run(cache.get("note"))
        os._exit(0 if seen == "parent" else 3)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert loop.run_until_complete(cache.get("note")) == "parent"
loop.run_until_complete(cache.close())
loop.close()
"""


async def test_a_forked_child_opens_its_own(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", FORKED, valkey.url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


async def test_no_secret_is_in_its_repr() -> None:
    cache = RedisCache.from_env(env_file=None, redis_url="redis://:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in repr(cache) + str(await cache.get_stats()) + repr(await cache.cache())
    await cache.close()
