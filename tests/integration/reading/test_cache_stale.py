"""Reads of keys that are served stale while they are made new; the worker's own scripts on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest
from pydantic import BaseModel

from servers import eventually
from unstale import Cache
from unstale.protocol.names import LEASE, Names
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import RULES, Loader, WorkerDouble, attached_cache, open_cache, redis_client

KEY = "user:42:profile"
OTHER = "user:42:settings"
STALE = Names().stale(KEY)
KEEPING = replace(RULES, refresh=((KEY, 60.0), (OTHER, 0.0)))


@pytest.fixture
async def keeper(valkey: EmbeddedValkey) -> AsyncIterator[WorkerDouble]:
    """A worker whose rules make `KEY` new and serve it stale for a minute; it has nobody to make it new."""
    async with redis_client(valkey.url) as client:
        double = WorkerDouble(client, rules=KEEPING)
        await double.recover()
        async with double.beating():
            yield double


@pytest.fixture
async def agent(valkey: EmbeddedValkey, keeper: WorkerDouble) -> AsyncIterator[Cache]:
    async with attached_cache(valkey.url) as cache:
        await eventually(lambda: cache.inspect().rules.hash == KEEPING.hash)
        yield cache


async def changed(agent: Cache, keeper: WorkerDouble, *keys: str) -> None:
    """A change of these keys, which the agent has heard of."""
    last = await keeper.apply(*(keys or (KEY,)))
    await eventually(lambda: agent.inspect().freshness.last >= last)


async def test_the_old_value_is_served_at_once_and_never_kept(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    assert await agent.get_or_load(KEY, loader) == "old"
    await changed(agent, keeper)
    loader.value = "new"
    for _ in range(3):
        assert await agent.get_or_load(KEY, loader) == "old"
        assert await agent.get(KEY) == "old"
    assert agent.inspect().local.near.read(KEY) is None
    assert loader.calls == 1
    assert await keeper.redis.get(KEY) is None  # nobody took a lease
    counters = agent.counters()
    assert (counters.stale_hits, counters.misses, counters.redis_hits) == (6, 1, 0)
    assert (await agent.get_stats())["stale_hits"] == 6


async def test_also_while_somebody_makes_it_new(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    await keeper.redis.set(KEY, LEASE + b"a refresher's", px=60_000)
    assert await agent.get_or_load(KEY, loader) == "old"
    await keeper.redis.set(KEY, orjson.dumps("new"), px=60_000)
    assert await agent.get_or_load(KEY, loader) == "new"  # a value wins, whatever stands beside it
    assert agent.inspect().local.near.read(KEY) is not None
    assert loader.calls == 1


@pytest.mark.parametrize("ask", [{"fresh": True}, {"max_staleness": 30.0}, {"max_staleness": 0.0}])
async def test_who_asks_for_more_gets_what_is_loaded_now(
    agent: Cache, keeper: WorkerDouble, ask: dict[str, float]
) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    loader.value = "new"
    assert await agent.get(KEY, **ask) is None  # type: ignore[call-overload]  # either keyword fits
    assert await agent.get_or_load(KEY, loader, **ask) == "new"  # type: ignore[call-overload]
    assert loader.calls == 2


async def test_fresh_passes_by_every_cache(agent: Cache) -> None:
    loader = Loader("first")
    await agent.get_or_load(KEY, loader)
    loader.value = "second"
    assert await agent.get_or_load(KEY, loader) == "first"
    assert await agent.get_or_load(KEY, loader, fresh=True) == "second"
    assert await agent.get(KEY, fresh=True) is None


async def test_a_fresh_read_does_not_make_others_wait(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    loader.gate.clear()
    loader.entered.clear()
    loader.value = "new"
    fresh = asyncio.create_task(agent.get_or_load(KEY, loader, fresh=True))
    await loader.entered.wait()
    assert await agent.get_or_load(KEY, loader) == "old"
    loader.gate.set()
    assert await fresh == "new"
    assert await agent.get_or_load(KEY, loader) == "new"


async def test_a_fill_ends_it(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    assert await keeper.redis.zcard(Names().refresh) == 1
    loader.value = "new"
    assert await agent.get_or_load(KEY, loader, fresh=True) == "new"
    assert await keeper.redis.exists(STALE, Names().refresh) == 0
    assert await agent.get_or_load(KEY, loader) == "new"


async def test_get_load_set_ends_it_too(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(OTHER, Loader("old"))
    await changed(agent, keeper, OTHER)
    assert await keeper.redis.zcard(Names().refresh) == 1
    assert await agent.get(OTHER) is None  # nothing is kept of this one
    assert await agent.set(OTHER, "new")
    assert await keeper.redis.exists(Names().refresh) == 0


async def test_a_fill_that_was_overtaken_ends_nothing(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    loader.gate.clear()
    loader.entered.clear()
    fresh = asyncio.create_task(agent.get_or_load(KEY, loader, fresh=True))
    await loader.entered.wait()
    await changed(agent, keeper)
    loader.gate.set()
    await fresh
    assert await keeper.redis.zcard(Names().refresh) == 1
    assert await keeper.redis.get(STALE) == b'"old"'


async def test_past_its_bound_it_is_loaded(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    await keeper.redis.pexpire(STALE, 1)
    loader.value = "new"

    async def gone() -> bool:
        return not await keeper.redis.exists(STALE)

    await eventually(gone)
    assert await agent.get_or_load(KEY, loader) == "new"


async def test_delete_removes_it(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    await agent.delete(KEY)
    loader.value = "new"
    assert await keeper.redis.exists(STALE) == 0
    assert await agent.get_or_load(KEY, loader) == "new"


async def test_delete_by_an_agent_that_knows_no_rules(
    agent: Cache, keeper: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    await agent.get_or_load(KEY, Loader("old"))
    await changed(agent, keeper)
    async with open_cache(valkey.url) as other:
        other.inspect().rules.adopt(RULES)
        await other.delete(KEY)
    assert await keeper.redis.exists(STALE) == 0


async def test_a_pattern_removes_it(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    await keeper.redis.set(Names().stale("org:1"), "stays", px=60_000)
    assert await agent.invalidate_pattern("user:42:*") == 0  # the key itself was gone already
    assert await keeper.redis.exists(STALE) == 0
    assert await keeper.redis.exists(Names().stale("org:1")) == 1
    loader.value = "new"
    assert await agent.get_or_load(KEY, loader) == "new"
    await keeper.redis.unlink(Names().stale("org:1"))


async def test_a_detached_agent_never_serves_it(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    loader.value = "new"
    agent.inspect().freshness.detached()  # as silence does: briefly detached, Redis still answers
    agent.inspect().freshness._muted_until = float("inf")
    assert not agent.attached
    assert await agent.get_or_load(KEY, loader) == "new"
    assert agent.counters().stale_hits == 0


async def test_detached_for_long_redis_is_not_asked_at_all(agent: Cache, keeper: WorkerDouble) -> None:
    await keeper.redis.set(KEY, '"whatever Redis holds"', px=60_000)
    agent.inspect().freshness.doubted()
    agent.inspect().freshness._muted_until = float("inf")
    assert await agent.get_or_load(KEY, Loader("loaded")) == "loaded"


async def test_detached_while_redis_answers(
    agent: Cache, keeper: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader("old")
    await agent.get_or_load(KEY, loader)
    await changed(agent, keeper)
    tier = agent.inspect().tier
    assert tier is not None
    ask = tier.read_or_stale

    async def slow(key: str, *, life: bool) -> tuple[bytes | None, bytes | None, float | None]:
        found = await ask(key, life=life)
        agent.inspect().freshness.detached()
        agent.inspect().freshness._muted_until = float("inf")
        return found

    monkeypatch.setattr(tier, "read_or_stale", slow)
    loader.value = "new"
    assert await agent.get_or_load(KEY, loader) == "new"
    assert agent.counters().stale_hits == 0


class Profile(BaseModel):
    name: str


async def test_one_that_fits_no_model_is_removed(agent: Cache, keeper: WorkerDouble) -> None:
    await agent.get_or_load(KEY, Loader({"title": "another release's"}))
    await changed(agent, keeper)
    assert await agent.get(KEY, model=Profile) is None
    assert await keeper.redis.exists(STALE) == 0
    assert await agent.get_or_load(KEY, Loader({"name": "Ada"}), model=Profile) == Profile(name="Ada")


async def test_a_key_without_serve_stale_costs_what_it_cost(agent: Cache, keeper: WorkerDouble) -> None:
    loader = Loader("old")
    await agent.get_or_load(OTHER, loader)
    await changed(agent, keeper, OTHER)
    loader.value = "new"
    assert await agent.get_or_load(OTHER, loader) == "new"
    assert agent.counters().stale_hits == 0
