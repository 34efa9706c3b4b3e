"""A new connection is attached by the state in Redis, without waiting for a watermark, or not at all.

No test here lets the worker publish a watermark unless it says so.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from servers import Database, eventually
from unstale import Cache, Invalidated
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.trust import Trust
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale.redis_tier.log_reader import Replay
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from workers import SCHEMA, connected, running_worker
from workers.double import Loader, WorkerDouble, open_cache

KEY = "user:42:profile"
QUICK = {"redis_timeout": 0.2}  # how long `open_cache` waits for a watermark that does not come


def held(cache: Cache, key: str = KEY) -> bool:
    return cache.inspect().local.near.peek(key) is not None


async def test_an_opened_cache_is_attached_without_a_watermark(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    await silent.redis.set(KEY, b'"of the tier"', px=60_000)
    await silent.watermark(age=0.25)
    async with open_cache(valkey.url, max_silence=60.0) as cache:
        assert cache.attached
        assert 0.25 <= cache.staleness < 60
        assert cache.inspect().freshness.watermark is None  # none was heard
        assert await cache.get_or_load(KEY, Loader("unused")) == "of the tier"
        assert held(cache)
        async with cache.subscribe(KEY) as events:
            await silent.apply(KEY)
            assert isinstance(await anext(events), Invalidated)
        assert not held(cache)
        assert cache.counters().replays == 1


@pytest.mark.parametrize(
    "state",
    ["of a dead worker", "of another epoch", "of another run", "of the future", "of garbage", "without it"],
)
async def test_what_proves_no_living_worker_attaches_nothing(
    valkey: EmbeddedValkey, silent: WorkerDouble, state: str
) -> None:
    redis, name = silent.redis, silent.names.state
    await redis.set(KEY, b'"of unknown age"', px=60_000)
    await silent.watermark()
    match state:
        case "of a dead worker":
            await silent.grow_old(10.0)
        case "of another epoch":  # begun after a promotion; what that took back is not applied again yet
            await silent.new_epoch()
        case "of another run":
            await redis.hset(name, "run", "0" * 40)
        case "of the future":  # the clock of Redis was set back
            await silent.grow_old(-3600.0)
        case "of garbage":
            await redis.hset(name, "read_at", "nan")
        case "without it":  # a worker of an older release
            await redis.hdel(name, "read_at", "read_epoch")
    async with open_cache(valkey.url, max_silence=10.0, **QUICK) as cache:
        assert not cache.attached
        assert cache.inspect().freshness.trust is Trust.DETACHED
        assert await cache.get_or_load(KEY, Loader("loaded")) == "loaded"


async def test_a_paused_worker_attaches_for_the_rest_of_max_silence(
    valkey: EmbeddedValkey, silent: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    await silent.watermark(age=3.0)
    async with open_cache(valkey.url, max_silence=6.0) as cache:
        assert cache.staleness >= 3.0
        await eventually(lambda: not cache.attached)
        await eventually(lambda: "no watermark for 6.0 s" in caplog.text)


async def test_a_connection_on_which_nothing_comes_is_not_attached_for_ever(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    """The worker lives, and says so on a channel that does not reach this agent."""

    class Elsewhere(Names):
        @property
        def channel(self) -> str:
            return "elsewhere"

    silent.names = Elsewhere()
    async with silent.beating(), open_cache(valkey.url, max_silence=2.0, leader_ttl=0.5) as cache:
        await eventually(lambda: cache.counters().replays == 2)

        def connected_again() -> bool:
            assert not cache.attached
            return cache.counters().replays == 3

        await eventually(connected_again)


async def test_a_lost_connection_is_attached_again_by_the_replay(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    await silent.watermark()
    async with open_cache(valkey.url, max_silence=60.0) as cache:
        for key in (KEY, "user:7:profile"):
            await cache.get_or_load(key, Loader("old"))
        assert await silent.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await silent.apply(KEY)
        await eventually(lambda: cache.counters().replays == 2 and cache.attached)
        assert not held(cache)
        assert held(cache, "user:7:profile")
        assert cache.inspect().freshness.watermark is None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["new_epoch", "recover"])
async def test_an_epoch_that_begins_while_a_cache_opens(
    valkey: EmbeddedValkey, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch, when: str, how: str
) -> None:
    """Before the replay, and after the subscription; or after the replay was read, before it is processed."""
    real, begun = Subscriber._read_log, False
    begin: Callable[[], Awaitable[None]] = getattr(silent, how)

    async def read(self: Subscriber) -> Replay:
        nonlocal begun
        if begun:
            return await real(self)
        begun = True
        if when == "before":
            await begin()
            return await real(self)
        found = await real(self)
        await begin()
        return found

    monkeypatch.setattr(Subscriber, "_read_log", read)
    await silent.watermark()
    async with open_cache(valkey.url, max_silence=60.0, **QUICK) as cache:
        freshness = cache.inspect().freshness
        await eventually(lambda: freshness.epoch == silent.epoch and cache.inspect().following.replays > 0)
        if how == "new_epoch":  # whatever it believed meanwhile, it waits for a watermark of that epoch
            await eventually(lambda: cache.counters().replays >= (1 if when == "before" else 2))
            assert not cache.attached
            assert freshness.trust is not Trust.ATTACHED
            await silent.watermark()
        await eventually(lambda: cache.attached)
        assert freshness.epoch == silent.epoch


async def test_the_rules_in_force_are_known_before_it_is_attached(
    valkey: EmbeddedValkey, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read beside the replay, so they may be older than it."""
    real, calls = RedisTier.rules, 0

    async def older(self: RedisTier) -> PublishedRules | None:
        nonlocal calls
        calls += 1
        return await real(self) if calls > 1 else PublishedRules("older")

    monkeypatch.setattr(RedisTier, "rules", older)
    await silent.watermark()
    async with open_cache(valkey.url, max_silence=60.0) as cache:
        assert cache.attached
        assert cache.inspect().rules.hash == silent.rules.hash


async def test_the_state_of_a_real_worker(database: Database, valkey: EmbeddedValkey) -> None:
    """It has ended by the time the caches open, so none of them can have waited for a watermark."""
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, valkey.url),
            open_cache(valkey.url, max_silence=60.0) as cache,
        ):
            assert cache.attached
            await db.execute("insert into public.profiles values (42, 'Ada')")
            await eventually(lambda: cache.inspect().freshness.last > 0)
            await cache.wait_for(await db.fetchval("select unstale.token()"), timeout=60)
        async with open_cache(valkey.url, max_silence=60.0) as cache:
            assert cache.attached
            assert cache.inspect().freshness.watermark is None
            assert cache.inspect().freshness.last > 0
            assert 0 < cache.staleness < 60


MODULE = """
import asyncio, sys
from unstale import Cache
from unstale.sync import Cache as SyncCache

cache = Cache.from_env(env_file=None, redis_url=sys.argv[1], max_silence=60.0)
blocking = SyncCache.from_env(env_file=None, redis_url=sys.argv[1], max_silence=60.0)

async def once():
    async with cache:
        return cache.attached, await cache.get_or_load("user:42:profile", lambda: "loaded")

for _ in range(20):
    print(*asyncio.run(once()))
    with blocking:
        print(blocking.attached, blocking.get_or_load("user:42:profile", lambda: "loaded"))
"""


async def test_a_cache_at_module_level_is_opened_and_closed_many_times(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    """As tasks do that each call ``asyncio.run``, or ``with cache`` of the blocking one."""
    await silent.redis.set(KEY, b'"of the tier"', px=600_000)
    await silent.watermark()
    command = [sys.executable, "-c", MODULE, valkey.url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True of the tier"] * 40
    assert done.stderr == ""
    await eventually(lambda: _connections(silent))


async def _connections(worker: WorkerDouble) -> bool:
    """Return True if no connection but this one is left."""
    return len(await worker.redis.client_list()) == 1
