"""Loaders that fail or are slow: readers get the last value, within its bound, and never after a purge."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from servers import eventually
from unstale import Cache, LoadCycle, StaleAnswer, stale_answers
from unstale.protocol.names import LEASE, Names
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import RULES, Loader, WorkerDouble, attached_cache, open_cache, redis_client

KEY = "user:42:profile"
BARE = "user:42:settings"
OTHER = "search:42:cats"
SPARE = Names().spare(KEY)
HOUR = 3_600_000
KEEPING = replace(RULES, hash="keeping", reads=((KEY, 0.0, 3600.0),))


@pytest.fixture
async def keeper(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    """A worker whose rules keep the last value of `KEY` for an hour."""
    async with redis_client(valkey.url) as client:
        double = WorkerDouble(client, rules=KEEPING)
        await double.recover()
        async with double.beating():
            yield double
        await client.flushdb()


@pytest.fixture
async def agent(valkey: EmbeddedValkey, keeper: WorkerDouble) -> AsyncIterator[Cache]:
    async with attached_cache(valkey.url) as cache:
        await eventually(lambda: cache.inspect().rules.hash == KEEPING.hash)
        yield cache


class Down(Exception):
    """The model does not answer."""


async def down() -> Any:
    raise Down


async def changed(agent: Cache, keeper: WorkerDouble, *keys: str) -> None:
    last = await keeper.apply(*(keys or (KEY,)))
    await eventually(lambda: agent.inspect().freshness.last >= last)


async def expired(keeper: WorkerDouble, agent: Cache, key: str = KEY) -> None:
    """The value's TTL ends."""
    await keeper.redis.unlink(key)
    agent.inspect().local.near.drop(key)


async def fails(agent: Cache, key: str = KEY, **options: Any) -> bool:
    """Return True if a read whose loader fails raises the loader's error."""
    try:
        await agent.get_or_load(key, down, **options)
    except Down:
        return True
    return False


async def test_a_failed_load_is_answered_with_the_last_value(agent: Cache, keeper: WorkerDouble) -> None:
    """After a change and after its TTL; marked, counted, never kept, and left to a loader that works."""
    assert await fails(agent)
    await agent.get_or_load(KEY, Loader({"name": "Ada"}))
    for ends in (changed, lambda agent, keeper: expired(keeper, agent)):
        await ends(agent, keeper)
        with stale_answers() as older:
            assert await agent.get_or_load(KEY, down) == {"name": "Ada"}
            assert await agent.get_many([KEY], lambda _: down()) == {KEY: {"name": "Ada"}}
        assert [(each.key, each.reason) for each in older] == [(KEY, "stale_if_error")] * 2
        assert all(each.age is not None and 0 <= each.age < 60 for each in older)
        assert agent.inspect().local.near.read(KEY) is None
        assert await keeper.redis.get(KEY) is None  # and no lease is left
    assert agent.counters().failed_hits == (await agent.get_stats())["failed_hits"] == 4
    assert (await agent.get_stats())["hit_rate"] == 4 / 5
    assert await agent.get_or_load(KEY, Loader({"name": "Grace"})) == {"name": "Grace"}
    await changed(agent, keeper)
    assert await agent.get_or_load(KEY, down) == {"name": "Grace"}

    @agent.cached("user:{number}:profile", stale_if_error="10m")
    async def profile(number: int) -> dict[str, str]:
        raise Down

    assert await profile(42) == {"name": "Grace"}


async def test_what_a_read_asks_for_bounds_the_rule(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)
    assert not await fails(agent)
    for options in ({"stale_if_error": 0}, {"fresh": True}, {"max_staleness": 60.0}, {"tags": ["t"]}):
        assert await fails(agent, **options)
    await keeper.redis.pexpire(SPARE, HOUR - 600_000)  # ten minutes have passed since the change
    assert await fails(agent, stale_if_error="9m")
    with stale_answers() as older:
        assert await agent.get_or_load(KEY, down, stale_if_error="11m") == "old"
        assert await agent.get_or_load(KEY, down, stale_if_error="2h") == "old"  # an hour, as the rules say
    assert all(600 <= (each.age or 0) < 660 for each in older)
    await keeper.redis.pexpire(SPARE, 1)  # the hour is over
    await eventually(lambda: fails(agent))
    for wrong in ("soon", -1, float("nan")):
        with pytest.raises(ValueError, match="stale_if_error is"):
            await agent.get_or_load(KEY, down, stale_if_error=wrong)
    with pytest.raises(TypeError, match="soft_timeout is True"):
        await agent.get_or_load(KEY, down, soft_timeout=True)


async def test_a_change_brings_the_end_nearer_and_never_puts_it_off(
    agent: Cache, keeper: WorkerDouble
) -> None:
    await agent.get_or_load(KEY, Loader("old"), ttl=600)
    assert HOUR < await keeper.redis.pttl(SPARE) <= HOUR + 600_000
    await changed(agent, keeper)
    assert HOUR - 60_000 < await keeper.redis.pttl(SPARE) <= HOUR
    await keeper.redis.pexpire(SPARE, 20_000)
    for standing in (None, LEASE + b"another's"):
        if standing is not None:
            await keeper.redis.set(KEY, standing)
        await changed(agent, keeper)
        assert 0 < await keeper.redis.pttl(SPARE) <= 20_000
    await agent.get_or_load(KEY, Loader("new"), ttl=600)
    assert await keeper.redis.pttl(SPARE) > HOUR


@pytest.mark.parametrize("how", ["delete", "pattern", "an agent without rules", "purge", "set"])
async def test_what_removes_a_value_for_good(
    agent: Cache, keeper: WorkerDouble, valkey: EmbeddedValkey, how: str
) -> None:
    key = OTHER if how == "set" else KEY
    await agent.get_or_load(key, Loader("old"), stale_if_error=3600)
    assert await keeper.redis.exists(Names().spare(key)) == 1
    if how == "delete":
        await agent.delete(key)
    elif how == "set":
        await agent.set(key, "new")
        await expired(keeper, agent, key)
    elif how == "pattern":
        await expired(keeper, agent)
        assert await agent.invalidate_pattern("user:42:*") == 0
    elif how == "an agent without rules":
        async with open_cache(valkey.url) as other:
            other.inspect().rules.adopt(RULES)
            await other.delete(key)
    else:
        await keeper.apply(key, purge=True)
    assert await keeper.redis.exists(Names().spare(key)) == 0
    assert await fails(agent, key, stale_if_error=3600)


async def test_a_load_that_a_change_overtook_keeps_nothing(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("overtaken")
    loader.gate.clear()
    read = asyncio.create_task(agent.get_or_load(KEY, loader))
    await loader.entered.wait()
    await changed(agent, keeper)
    loader.gate.set()
    assert await read == "overtaken"
    assert await keeper.redis.exists(SPARE) == 0
    assert await fails(agent)


async def test_a_key_that_a_rule_owns_needs_it_in_the_rules(
    agent: Cache, keeper: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """No change would bound what is kept. A key that no rule owns has no such need."""
    await agent.get_or_load(BARE, Loader("old"), stale_if_error=60)
    await changed(agent, keeper, BARE)
    assert await fails(agent, BARE, stale_if_error=60)
    assert "write stale_if_error into its [refresh] or [reads]" in caplog.text
    await agent.get_or_load(OTHER, Loader("old"), stale_if_error=60)
    await expired(keeper, agent, OTHER)
    assert await agent.get_or_load(OTHER, down, stale_if_error=60) == "old"
    assert await fails(agent, OTHER)


async def test_a_detached_agent_answers_nothing_older(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)
    agent.inspect().freshness.detached()
    agent.inspect().freshness._muted_until = float("inf")
    assert await fails(agent)


async def test_a_slow_load_is_answered_meanwhile_and_goes_on(agent: Cache, keeper: WorkerDouble) -> None:
    """Its value is stored, for everybody. Readers without the option wait."""
    loader = Loader("old")
    assert await agent.get_or_load(KEY, loader, soft_timeout="1ms") == "old"  # nothing older: it waits
    await changed(agent, keeper)
    loader.value = "new"
    loader.gate.clear()
    with stale_answers() as older:
        assert await agent.get_or_load(KEY, loader, soft_timeout=0.01) == "old"
    assert [(each.key, each.reason) for each in older] == [(KEY, "soft_timeout")]
    assert isinstance(older[0], StaleAnswer)
    patient = asyncio.create_task(agent.get_or_load(KEY, loader))
    assert await agent.get_or_load(KEY, loader, soft_timeout=0.01) == "old"
    assert agent.inspect().local.near.read(KEY) is None
    assert agent.counters().slow_hits == 2
    loader.gate.set()
    assert await patient == "new"
    assert await agent.get_or_load(KEY, loader, soft_timeout=0.01) == "new"
    assert loader.calls == 2

    await changed(agent, keeper)
    loader.gate.clear()
    loader.entered.clear()
    loader.value = "newest"
    assert await agent.get_or_load(KEY, loader, soft_timeout=0.01) == "new"  # its only reader
    loader.gate.set()
    await eventually(lambda: len(agent.inspect().path.flights) == 0)
    assert await agent.get(KEY) == "newest"


async def test_a_slow_load_that_fails_later_is_logged(
    agent: Cache, keeper: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)
    gate = asyncio.Event()

    async def late() -> object:
        await gate.wait()
        raise Down

    assert await agent.get_or_load(KEY, late, soft_timeout=0.01) == "old"
    gate.set()
    await eventually(lambda: len(agent.inspect().path.flights) == 0)
    assert "failed after soft_timeout (Down)" in caplog.text
    assert await keeper.redis.get(KEY) is None


async def test_a_purge_while_the_reader_waits(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)
    loader = Loader("new")
    loader.gate.clear()
    read = asyncio.create_task(agent.get_or_load(KEY, loader, soft_timeout=0.1))
    await loader.entered.wait()
    await keeper.apply(KEY, purge=True)
    await asyncio.wait([read], timeout=0.3)
    assert not read.done()
    loader.gate.set()
    assert await read == "new"


async def test_an_error_of_the_program_is_not_hidden(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)

    async def itself() -> object:
        return await agent.get_or_load(KEY, itself, stale_if_error=0)

    with pytest.raises(LoadCycle):
        await agent.get_or_load(KEY, itself)


async def test_settings_and_rules_are_defaults(keeper: WorkerDouble, valkey: EmbeddedValkey) -> None:
    keeper.rules = replace(KEEPING, hash="both", reads=((KEY, 0.02, 3600.0),))
    await keeper.recover()
    options: Any = {"soft_timeout": 0.01, "stale_if_error": "1h"}
    async with attached_cache(valkey.url, **options) as cache:
        await eventually(lambda: cache.inspect().rules.hash == "both")
        for key in (KEY, OTHER):
            loader = Loader("old")
            await cache.get_or_load(key, loader)
            await expired(keeper, cache, key)
            assert await cache.get_or_load(key, down) == "old"
            loader.gate.clear()
            loader.value = "new"
            assert await cache.get_or_load(key, loader) == "old"
            loader.gate.set()
            await eventually(lambda: len(cache.inspect().path.flights) == 0)
            assert await cache.get_or_load(key, loader) == "new"
