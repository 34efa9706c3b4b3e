"""`cache.lock`: one holder at a time, a lease that ends by itself, and a number that only grows."""

from __future__ import annotations

import asyncio

import pytest

from servers import takes
from unstale import Cache, CacheClosed, Lock, LockLost, LockTimeout, RedisUnavailable
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import open_cache, redis_client

NAME = "user:42:greeting"
KEY = Names().lock(NAME)


@pytest.fixture
async def caches(valkey: EmbeddedValkey):  # type: ignore[no-untyped-def]  # a generator of two caches
    async with open_cache(valkey.url) as one, open_cache(valkey.url) as two:
        yield one, two


async def test_one_holder_at_a_time_over_many_tasks_and_two_instances(caches: tuple[Cache, Cache]) -> None:
    inside, most, fences = 0, 0, []

    async def work(cache: Cache) -> None:
        nonlocal inside, most
        async with cache.lock(NAME, timeout=30) as lock:
            inside += 1
            most = max(most, inside)
            assert lock.held
            fences.append(lock.fence)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work(caches[n % 2]) for n in range(20)))
    assert most == 1
    assert fences == sorted(set(fences))


async def test_the_lease_lasts_ten_seconds_and_goes_with_the_block(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey
) -> None:
    async with redis_client(valkey.url) as redis:
        async with caches[0].lock(NAME) as lock:
            assert 9_000 < await redis.pttl(KEY) <= 10_000
            assert repr(lock) == f"<Lock {NAME} held>"
        assert await redis.exists(KEY) == 0
    assert not lock.held
    with pytest.raises(RuntimeError, match="is not held"):
        _ = lock.fence


async def test_who_waits_too_long_is_told(caches: tuple[Cache, Cache]) -> None:
    async with caches[0].lock(NAME):
        for timeout in (0, 0.05):
            with pytest.raises(LockTimeout, match="held by another instance"):
                await caches[1].lock(NAME, timeout=timeout).__aenter__()
        async with caches[1].lock("another name", timeout=0):
            pass


async def test_who_waits_gets_it_when_it_is_given_up(caches: tuple[Cache, Cache]) -> None:
    order: list[str] = []

    async def second() -> None:
        async with caches[1].lock(NAME, timeout=None):
            order.append("second")

    async with caches[0].lock(NAME):
        waiting = asyncio.create_task(second())
        await takes(0.03)
        order.append("first")
    await waiting
    assert order == ["first", "second"]


async def test_a_lease_that_ran_out_is_told_and_anothers_is_left_alone(caches: tuple[Cache, Cache]) -> None:
    first, second = caches[0].lock(NAME, ttl=0.02), caches[1].lock(NAME)
    await first.__aenter__()
    async with second:  # which waits until the first one's lease has ended
        assert second.fence > first.fence
        assert not first.held
        with pytest.raises(LockLost, match="before it was extended"):
            await first.extend()
        with pytest.raises(LockLost, match="another instance may have worked"):
            await first.__aexit__(None, None, None)
        assert second.held
        await second.extend()


async def test_the_blocks_own_error_is_not_hidden(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey
) -> None:
    async def work() -> None:
        async with redis_client(valkey.url) as redis, caches[0].lock(NAME):
            await redis.delete(KEY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()


async def test_extending_keeps_it(caches: tuple[Cache, Cache], valkey: EmbeddedValkey) -> None:
    async with redis_client(valkey.url) as redis, caches[0].lock(NAME, ttl=9) as lock:
        await lock.extend(60)
        assert 50_000 < await redis.pttl(KEY) <= 60_000
        assert lock.held


async def test_fences_grow_over_lost_data_and_a_clock_that_went_back(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey
) -> None:
    async def fence() -> int:
        async with caches[0].lock(NAME) as lock:
            return lock.fence

    async with redis_client(valkey.url) as redis:
        first = await fence()
        await redis.flushall()
        second = await fence()
        assert second > first
        ahead = second + 10**12  # another server's clock, eleven days ahead of this one's
        await redis.set(Names().locks, ahead, px=60_000)
        assert await fence() == ahead + 1
        assert await fence() == ahead + 2


async def test_a_cancelled_attempt_leaves_nothing(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey
) -> None:
    """Cancelled after each of the first steps of taking it, it is free at once."""
    for steps in range(8):
        attempt = asyncio.create_task(caches[0].lock(NAME).__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        attempt.cancel()
        await asyncio.wait([attempt])
        if not attempt.cancelled():  # it was faster
            await attempt.result().__aexit__(None, None, None)
        async with caches[1].lock(NAME, timeout=5):  # its lease would last 10
            pass


async def test_without_an_answer_nobody_holds_it(valkey: EmbeddedValkey) -> None:
    async with open_cache(valkey.url) as cache:
        await valkey.stop()
        with pytest.raises(RedisUnavailable):
            await cache.lock(NAME).__aenter__()


async def test_redis_going_away_while_it_is_held_is_no_loss(valkey: EmbeddedValkey) -> None:
    async with open_cache(valkey.url) as cache, cache.lock(NAME):
        await valkey.stop()


async def test_invalidating_everything_leaves_locks_alone(caches: tuple[Cache, Cache]) -> None:
    async with caches[0].lock(NAME) as lock:
        await caches[1].invalidate_pattern("*")
        await lock.extend()


async def test_without_redis_it_holds_between_the_tasks_of_this_process() -> None:
    async with Cache.from_env(env_file=None, redis_enabled=False) as cache:
        async with cache.lock(NAME) as first:
            with pytest.raises(LockTimeout):
                await cache.lock(NAME, timeout=0.01).__aenter__()
            with pytest.raises(LockTimeout):
                await cache.lock(NAME, timeout=0).__aenter__()
            await first.extend()
            before = first.fence
        async with cache.lock(NAME, timeout=0) as second:
            assert second.fence > before


async def test_wrong_arguments_are_refused(caches: tuple[Cache, Cache]) -> None:
    cache = caches[0]
    for name in ("", "x" * 513, 42):
        with pytest.raises(ValueError, match="name"):
            cache.lock(name)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl"):
        cache.lock(NAME, ttl=0)
    with pytest.raises(ValueError, match="timeout"):
        cache.lock(NAME, timeout=-1)
    async with cache.lock(NAME) as lock:
        with pytest.raises(RuntimeError, match="already held"):
            await lock.__aenter__()
    with pytest.raises(RuntimeError, match="not held"):
        await lock.extend()
    await cache.close()
    with pytest.raises(CacheClosed):
        cache.lock(NAME)


async def test_a_lock_object_may_be_used_again(caches: tuple[Cache, Cache]) -> None:
    lock: Lock = caches[0].lock(NAME)
    for _ in range(2):
        async with lock:
            assert lock.held


@pytest.mark.parametrize("where", ["redis", "process"])
async def test_one_lock_object_in_two_tasks_is_refused(valkey: EmbeddedValkey, where: str) -> None:
    """Its second task would take over the lease of the first, which then seems lost."""
    more = {} if where == "redis" else {"redis_enabled": False}
    async with open_cache(valkey.url, **more) as cache:
        lock, other = cache.lock(NAME), cache.lock(NAME, timeout=0)

        async def work() -> str:
            try:
                async with lock:
                    await asyncio.sleep(0.05)
                    with pytest.raises(LockTimeout):
                        await other.__aenter__()
            except RuntimeError as error:
                return str(error)
            return "worked"

        ended = sorted(await asyncio.gather(work(), work(), work()))
        assert ended[2] == "worked"
        assert all("create another with cache.lock()" in said for said in ended[:2])
        async with lock:  # free again, one task after the other
            assert lock.held


async def test_a_lock_whose_wait_was_cancelled_may_be_used_again(caches: tuple[Cache, Cache]) -> None:
    lock = caches[0].lock(NAME)
    async with caches[1].lock(NAME):
        task = asyncio.create_task(lock.__aenter__())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
    async with lock:
        assert lock.held


@pytest.mark.parametrize("ttl", [1e9, 86_401, 0, -1.0, float("nan"), float("inf")])
async def test_it_is_extended_by_a_day_at_most(caches: tuple[Cache, Cache], ttl: float) -> None:
    async with caches[0].lock(NAME) as lock:
        with pytest.raises(ValueError, match=r"expected seconds from 0\.001 to 86400"):
            await lock.extend(ttl)
        await lock.extend(86_400)


@pytest.mark.parametrize("last", [2**53, 2**53 + 1, 10**17 + 1])
async def test_fences_beyond_what_lua_counts_are_exact(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey, last: int
) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.set(Names().locks, last, ex=60)
        for expected in range(last + 1, last + 5):
            async with caches[0].lock(NAME) as lock:
                assert lock.fence == expected


@pytest.mark.parametrize("last", [b"", b"nothing", b"1e18", b"-5", b"17"])
async def test_a_counter_that_is_no_fence_counts_for_nothing(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey, last: bytes
) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.set(Names().locks, last, ex=60)
        async with caches[0].lock(NAME) as lock:
            assert 10**15 < lock.fence < 2**53
        async with caches[1].lock(NAME) as later:
            assert later.fence > 10**15


async def test_a_counter_out_of_range_is_an_error_and_no_smaller_fence(
    caches: tuple[Cache, Cache], valkey: EmbeddedValkey
) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.set(Names().locks, 2**63 - 1, ex=60)
        with pytest.raises(RedisUnavailable, match="the counter of the locks is out of range; delete it"):
            await caches[0].lock(NAME).__aenter__()
        assert not await redis.exists(KEY)
