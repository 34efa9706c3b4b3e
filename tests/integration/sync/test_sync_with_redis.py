"""`unstale.sync.Cache` with a real server: it follows the log, and its locks and leases are those of all."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import PATIENCE, eventually
from unstale import LockTimeout, stale_answers
from unstale.sync import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, open_cache, redis_client

KEY = "user:42:profile"

pytestmark = pytest.mark.leaves_keys(r"\{unstale:0\}:.*", "user:.*")


@pytest.fixture
async def worker(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating():
            yield worker


@pytest.fixture
async def cache(worker: WorkerDouble, valkey: EmbeddedValkey) -> AsyncIterator[Cache]:
    cache = Cache.from_env(env_file=None, redis_url=valkey.url)
    await asyncio.to_thread(cache.open)
    await eventually(lambda: cache.attached)
    yield cache
    await asyncio.to_thread(cache.close)


async def test_threads_hear_of_changes(cache: Cache, worker: WorkerDouble) -> None:
    values = iter(["Ada", "Grace"])

    def read() -> object:
        return cache.get_or_load(KEY, lambda: next(values))

    def read_in_threads() -> list[object]:
        with ThreadPoolExecutor(4) as pool:
            return [pool.submit(read).result() for _ in range(4)]

    def changed() -> object:
        with cache.subscribe(KEY) as events:
            listening.set()
            return next(iter(events))

    assert await asyncio.to_thread(read_in_threads) == ["Ada"] * 4
    listening = threading.Event()
    event = asyncio.create_task(asyncio.to_thread(changed))
    await eventually(listening.is_set)
    await worker.apply(KEY)
    assert getattr(await event, "keys", None) == (KEY,)
    assert await asyncio.to_thread(read_in_threads) == ["Grace"] * 4
    assert cache.staleness < 60
    assert (await asyncio.to_thread(cache.get_stats))["status"] == "healthy"


async def test_a_value_is_set_under_the_lease_of_the_threads_own_miss(
    cache: Cache, worker: WorkerDouble
) -> None:
    def overtaken() -> bool:
        assert cache.get(KEY, default="absent") == "absent"
        asyncio.run_coroutine_threadsafe(worker.apply(KEY), loop).result()
        return cache.set(KEY, "old")

    def stored() -> bool:
        assert cache.get(KEY, default="absent") == "absent"
        return cache.set(KEY, "new")

    loop = asyncio.get_running_loop()
    assert not await asyncio.to_thread(overtaken)
    assert await asyncio.to_thread(stored)
    assert await asyncio.to_thread(cache.get, KEY) == "new"


async def test_a_thread_goes_on_while_its_slow_loader_runs(cache: Cache, worker: WorkerDouble) -> None:
    """And gets the last value if it fails. A loader without a soft timeout runs in the thread itself."""
    key, gate, threads = "search:42:cats", threading.Event(), list[threading.Thread]()

    def slow() -> object:
        threads.append(threading.current_thread())
        gate.wait(PATIENCE)
        return "new"

    def fails() -> object:
        raise ConnectionError

    def read() -> None:
        assert cache.get_or_load(key, lambda: "old", stale_if_error="1h") == "old"
        cache.inspect().local.near.drop(key)
        asyncio.run_coroutine_threadsafe(forget(), loop).result()
        with stale_answers() as older:
            assert cache.get_or_load(key, fails, stale_if_error="1h") == "old"
            assert cache.get_or_load(key, slow, soft_timeout="10ms", stale_if_error="1h") == "old"
        assert [each.reason for each in older] == ["stale_if_error", "soft_timeout"]
        assert threads != [threading.current_thread()]
        gate.set()
        assert cache.get_or_load(key, slow) == "new"
        assert len(threads) == 1
        counters = cache.counters()
        assert (counters.failed_hits, counters.slow_hits) == (1, 1)

    async def forget() -> None:
        await worker.redis.unlink(key)

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(read)


async def test_a_lock_excludes_threads_and_other_instances(cache: Cache, valkey: EmbeddedValkey) -> None:
    def enter() -> None:
        with cache.lock("greeting", timeout=0.05):
            pass

    async with open_cache(valkey.url) as other:
        async with other.lock("greeting"):
            with pytest.raises(LockTimeout):
                await asyncio.to_thread(enter)
        await asyncio.to_thread(enter)


SCRIPT = """
import os
from unstale.sync import Cache

cache = Cache.from_env(env_file=None)

@cache.cached("user:{user_id}:name", ttl=60)
def name(user_id: int) -> str:
    return f"Ada, read by {os.getpid() == parent and 'the parent' or 'a child'}"

parent = os.getpid()
print(name(1), flush=True)
child = os.fork()
if not child:
    print(name(2), flush=True)
    raise SystemExit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(name(3))
"""


async def test_a_process_that_never_closed_its_cache_ends_in_silence(
    worker: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    """Parent and forked child alike."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "default", "-W", "ignore:This process:DeprecationWarning", "-c", SCRIPT],
        env={"REDIS_URL": valkey.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "Ada, read by the parent",
        "Ada, read by a child",
        "Ada, read by the parent",
    ]
    assert (done.stderr, done.returncode) == ("", 0)
