"""`unstale.testing`: caches in memory for the unit tests of applications, and the pytest plugin."""

import asyncio
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import unstale.sync
from unstale import Cache, CacheNotStarted, Invalidated, RedisCache
from unstale.testing import in_memory

ROOT = Path(__file__).parents[2]
KEY = "user:42:profile"
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture
def cache() -> Cache:
    """A cache at module level, whose Redis does not exist."""
    return Cache.from_env(env_file=None, redis_url=NOBODY)


async def test_a_cache_needs_no_server_and_no_opening(cache: Cache) -> None:
    with in_memory() as caches:
        assert await cache.get_or_load(KEY, lambda: {"name": "Ada"}) == {"name": "Ada"}
        assert await cache.get_or_load(KEY, lambda: {}) == {"name": "Ada"}
        assert cache.counters().near_hits == 1
        assert cache.attached
        assert caches.loaded_once(KEY)
        async with cache:  # as the lifespan of an application does
            assert await cache.set("user:42:state", 3)
            assert await cache.get_many(["user:42:state", KEY]) == {"user:42:state": 3, KEY: {"name": "Ada"}}
            with pytest.raises(TypeError, match="keys is the text 'abc'"):
                await cache.get_many("abc")
            loading: Any = cache.get(KEY)
            with pytest.raises(TypeError, match=r"got coroutine\. Pass the function"):
                await cache.get_or_load("other", loading)
        assert await cache.get(KEY) == {"name": "Ada"}
        async with RedisCache.from_env(env_file=None, redis_url=NOBODY) as former:
            assert await former.get_or_load("a", lambda: 1) == 1
    with pytest.raises(CacheNotStarted):
        await cache.get(KEY)
    with in_memory() as caches:
        assert await cache.get(KEY, default="of no other test") == "of no other test"


async def test_a_cache_that_is_open_is_afterwards_what_it_was_before(cache: Cache) -> None:
    async with Cache.from_env(env_file=None, redis_enabled=False) as real:
        await real.get_or_load(KEY, lambda: "real")
        with in_memory():
            assert await real.get_or_load(KEY, lambda: "test") == "test"
            await real.close()
        assert await real.get_or_load(KEY, lambda: "unused") == "real"


async def test_assertions_say_why(cache: Cache, recwarn: pytest.WarningsRecorder) -> None:
    with in_memory() as caches:
        await cache.get_or_load(KEY, lambda: 1)
        await cache.get_or_load(KEY, lambda: 2, fresh=True)
        once = caches.loaded_once(KEY)
        assert not once
        assert repr(once) == f"<False: '{KEY}' was loaded 2 times>"
        assert not caches.invalidated("user:*")
        await cache.set("user:7:name", "no invalidation")
        await cache.delete(KEY)
        await cache.invalidate_pattern("org:*")
        for pattern in ("user:42:*", KEY, "*", "org:*", "org:1:*", "org:1:name"):
            assert caches.invalidated(pattern), pattern
        for pattern in ("user:7:*", "user:42:settings"):
            answer = caches.invalidated(pattern)
            assert not answer, pattern
        assert "org:*" in repr(answer)
        caches.forget()
        assert not caches.invalidated("*")
        assert caches.loads(KEY) == 0
    with pytest.warns(UserWarning, match="write `assert`"):
        caches.loaded_once(KEY)


async def test_time_is_the_tests(cache: Cache) -> None:
    with in_memory() as caches:
        await cache.get_or_load(KEY, lambda: 1, ttl=60)
        caches.clock.advance(59)
        assert await cache.get(KEY) == 1
        caches.clock.advance(2)
        assert await cache.get(KEY, default="expired") == "expired"
        caches.clock.advance(10 * 86_400)
        assert cache.attached
        with pytest.raises(ValueError, match="forward"):
            caches.clock.advance(-1)


async def test_nothing_is_ever_stored_on_request(cache: Cache) -> None:
    with in_memory(stores=False) as caches:
        numbers = iter(range(9))
        assert [await cache.get_or_load(KEY, lambda: next(numbers)) for _ in range(3)] == [0, 1, 2]
        assert await cache.get(KEY, default="never") == "never"
        assert caches.loads(KEY) == 3


async def test_a_change_reaches_subscribers_and_every_cache(cache: Cache) -> None:
    other = unstale.sync.Cache.from_env(env_file=None, redis_url=NOBODY)
    with in_memory() as caches:
        await cache.get_or_load(KEY, lambda: 1)
        assert await asyncio.to_thread(other.get_or_load, KEY, lambda: 1) == 1
        async with cache.subscribe("user:*") as events:
            caches.change(KEY)
            assert isinstance(await anext(events), Invalidated)
        assert await cache.get_or_load(KEY, lambda: 2) == 2
        assert await asyncio.to_thread(other.get_or_load, KEY, lambda: 2) == 2
        await asyncio.to_thread(other.invalidate_pattern, "user:42:*")
        assert await cache.get_or_load(KEY, lambda: 3) == 3


async def test_a_rule_can_own_keys(cache: Cache) -> None:
    with in_memory() as caches:
        caches.own("user:*:profile")
        assert not await cache.set(KEY, "without a get")
        assert await cache.get(KEY) is None
        assert await cache.set(KEY, "after a get that missed")


def test_a_test_of_a_cached_function_takes_less_than_50_ms(cache: Cache) -> None:
    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int) -> str:
        return "Ada"

    def test() -> float:
        begun = time.perf_counter()
        with in_memory() as caches:
            assert caches.run(profile(42)) == caches.run(profile(42)) == "Ada"
            assert caches.loaded_once(KEY)
        return time.perf_counter() - begun

    assert min(test() for _ in range(10)) < 0.05


# --- the plugin ----------------------------------------------------------------------------------


def test_the_example_runs_without_a_server(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "examples" / "testing", tmp_path / "testing")
    options = [
        "-q",
        "-p",
        "unstale.testing.plugin",
        "-p",
        "no:asyncio",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        cwd=folder,
        env={"REDIS_URL": NOBODY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_loads_nothing_until_a_test_asks(tmp_path: Path) -> None:
    """It is loaded in each project that has unstale installed; it also leaves pytest's own `cache` alone."""
    code = (
        "import pytest, sys; before = set(sys.modules); import unstale.testing.plugin; "
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if not name.startswith("unstale")] == []
    assert len(loaded) <= 8
    from unstale.testing import plugin

    assert not hasattr(plugin, "cache")


async def test_nothing_is_kept_for_a_loader_that_fails(cache: Cache) -> None:
    async def down() -> int:
        raise ConnectionError

    with in_memory():
        assert await cache.get_or_load(KEY, lambda: 1, stale_if_error=3600) == 1
        await cache.delete(KEY)
        with pytest.raises(ConnectionError):
            await cache.get_or_load(KEY, down, stale_if_error=3600)
        assert await cache.get_or_load("b", lambda: 1, stale_if_error=3600, ttl=3600) == 1
        cache.inspect().local.near.drop("b")
        with pytest.raises(ConnectionError):
            await cache.get_or_load("b", down, stale_if_error=3600)
        assert cache.counters().failed_hits == 0
