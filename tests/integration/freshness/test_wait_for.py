"""`wait_for`: a transaction named by `unstale.token()` is applied here."""

import asyncio

import pytest

from servers import eventually
from unstale import Cache, CacheClosed, WaitTimeout
from unstale.freshness.tokens import Token, TokenWaits
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import LocalState
from unstale.protocol.messages import Snapshot, Watermark
from unstale.protocol.names import Epoch, LogId
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache, heard, open_cache

KEY = "user:42:profile"


async def test_it_returns_once_the_transaction_was_processed(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with silent.beating():
        cache = await open_and_attach(valkey)
    try:
        loader = Loader("old")
        await cache.get_or_load(KEY, loader)
        token = silent.token(silent.xid)  # the next transaction that commits
        waiting = asyncio.create_task(cache.wait_for(token, timeout=30))
        loader.value = "new"
        await silent.apply(KEY)
        assert not waiting.done()  # only a watermark says so
        await silent.watermark()
        await waiting
        assert await cache.get_or_load(KEY, loader) == "new"
        await cache.wait_for(token, timeout=0.001)  # known already
    finally:
        await cache.close()


async def open_and_attach(valkey: EmbeddedValkey) -> Cache:
    cache = await Cache.from_env(env_file=None, redis_url=valkey.url).start()
    await eventually(lambda: heard(cache))
    return cache


async def test_a_transaction_that_is_not_applied_times_out(cache: Cache, double: WorkerDouble) -> None:
    with pytest.raises(WaitTimeout, match=r"within 0\.05 s; check that a worker leads"):
        await cache.wait_for(double.token(double.xid + 1_000), timeout=0.05)
    assert cache.inspect().tokens._waits == []


@pytest.mark.parametrize(
    "token",
    ["", "1:2", "1:2:3", "1:2:x:0/1", "1:-2:3:0/1", "a:1:2:0/1", "1:1:\u0663:0/1", "1:2:3:4", "1:2:3:0/1:5"],
)
async def test_a_text_that_is_no_token_is_refused(cache: Cache, token: str) -> None:
    with pytest.raises(ValueError, match=r"unstale\.token\(\)"):
        await cache.wait_for(token)


async def test_a_token_of_another_database_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="get the token from the database that the worker follows"):
        await cache.wait_for("1234:1:5:0/1")


def test_a_token_names_one_database_of_one_server_in_any_history() -> None:
    token = Token("7:1:5:x", 9, 1)
    for same in ("7:1:5:x", "7:2:5:y", "7:1", None):
        token.expect(same)
    for other in ("8:1:5:x", "7:1:6:x"):
        with pytest.raises(ValueError, match=f"but the worker follows {other}"):
            token.expect(other)


async def test_a_wait_that_has_ended_is_left_alone() -> None:
    """Another watermark, or the end of the cache, may come before the caller runs."""
    local = LocalState(max_entries=1, max_bytes=1_000, clock=lambda: 0.0)
    freshness = Freshness(local, clock=lambda: 0.0, max_silence=5.0, detached_ttl=30.0)
    waits = TokenWaits(freshness)
    waiting = asyncio.create_task(waits.wait(Token("7:1", 9, 1), timeout=60.0))
    await asyncio.sleep(0)
    freshness.watermark = Watermark(
        Epoch("e"), LogId(0), Snapshot(10, 10), "0/9", "r", 0.0, flushed="0/9", database="7:1"
    )
    waits.settle()
    waits.settle()
    waits.close()
    await waiting


async def test_closing_wakes_who_waits(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    async with attached_cache(valkey.url) as cache:
        waiting = asyncio.create_task(cache.wait_for(double.token(10**9), timeout=30))
        await eventually(lambda: cache.inspect().tokens._waits)
    with pytest.raises(CacheClosed):
        await waiting


async def test_a_new_epoch_takes_the_answer_back(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with silent.beating():
        cache = await open_and_attach(valkey)
        token = silent.token(silent.xid - 1)
        await cache.wait_for(token)
    try:
        async with cache.subscribe("*") as events:
            await silent.new_epoch()
            await anext(events)
        with pytest.raises(WaitTimeout):
            await cache.wait_for(token, timeout=0.05)
        async with silent.beating():
            await cache.wait_for(token)
    finally:
        await cache.close()


async def test_without_a_worker_it_times_out(valkey: EmbeddedValkey) -> None:
    async with open_cache(valkey.url) as cache:
        with pytest.raises(WaitTimeout):
            await cache.wait_for("1:1:1:0/1", timeout=0.05)


async def test_a_transaction_of_a_later_timeline_is_not_one_of_an_earlier(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    """After a promotion, watermarks of before it may include the same number: of another transaction."""
    async with silent.beating(), attached_cache(valkey.url) as cache:
        system = silent.database.partition(":")[0]
        token = silent.token(silent.xid - 1).replace(silent.database, f"{system}:2")
        with pytest.raises(WaitTimeout):
            await cache.wait_for(token, timeout=0.3)
        silent.database = f"{system}:2"
        await cache.wait_for(token)


async def test_a_number_that_came_back_after_a_crash_is_another_transaction(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    """A rolled-back transaction's number goes to another one, whose WAL begins where the old ended."""
    async with silent.beating(), attached_cache(valkey.url) as cache:
        await cache.wait_for(silent.token(silent.xid - 1))
        later = f"{silent.database}:{silent.xid - 1}:{silent.flushed}"
        with pytest.raises(WaitTimeout):
            await cache.wait_for(later, timeout=0.3)
        silent.xid += 1
        await cache.wait_for(later)
