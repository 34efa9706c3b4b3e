"""docs/away.md, row by row: what each call does when Redis or the worker is away, or Redis went back.

The clock is moved, not waited for. Each tier holds another value, so an answer tells where it came from.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from faults.away_table import Row, rows
from faults.older import Older
from servers import eventually
from servers.proxy import Proxy
from unstale import Cache, Invalidated, RedisUnavailable, Reset, WaitTimeout
from unstale.freshness.subscriptions import Subscription
from unstale.freshness.trust import Trust
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedValkey
from workers import state_of
from workers.double import Loader, WorkerDouble, open_cache, redis_client

MAX_SILENCE, DETACHED_TTL, TIMEOUT = 600.0, 6_000.0, 0.3
FIRST, SECOND, THIRD, FOURTH = (f"user:{n}:profile" for n in (1, 2, 3, 4))
FREE, TOLD = "session:1", "user:9:profile"


@dataclass
class Hand:
    """Moves the clock of everything that is made after it."""

    ahead: float = 0.0


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch, quick: None) -> Hand:
    real, moved = clock.now, Hand()
    monkeypatch.setattr(clock, "now", lambda: real() + moved.ahead)
    return moved


@dataclass
class Scene:
    """A played worker, an agent behind a proxy, and values that say where they are from."""

    server: EmbeddedValkey
    proxy: Proxy
    worker: WorkerDouble
    cache: Cache
    events: Subscription
    older: Older
    hand: Hand
    beat: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def lead(self) -> None:
        """The worker's watermarks come, from now on."""
        await self.beat.enter_async_context(self.worker.beating())

    async def go(self, row: Row) -> None:
        """Take away what the row says, for as long as it says."""
        replays = self.cache.counters().replays
        what = row.what
        if what != "nothing is away" and what not in ("Redis away", "Redis hangs"):
            await self.beat.aclose()
        if what == "subscription lost, worker away":
            await self.worker.cut_off()
        elif what in ("Redis away", "both away"):
            await self.server.kill()
        elif what == "Redis hangs":
            self.proxy.half_open()
        elif what.startswith("Redis back"):
            await self.come_back(older="older" in what)
        if row.when == "before `detached_ttl`" and what in ("worker away", "Redis hangs"):
            self.hand.ahead += MAX_SILENCE + 1
        elif row.when == "later":
            self.hand.ahead += MAX_SILENCE + DETACHED_TTL + 1
        if what == "Redis back with older data, worker there":
            await self.worker.new_epoch()
            await self.lead()
        await eventually(
            lambda: self._noticed(row, replays),
            message=f"{row} is noticed: {self.cache.inspect().freshness!r}",
        )

    def _noticed(self, row: Row, replays: int) -> bool:
        answers = row.cells["get_or_load"]
        if row.cells["staleness"] == "bounded":
            again = (
                not row.what.startswith("Redis back")
                or self.cache.inspect().freshness.epoch == self.worker.epoch
            )
            return self.cache.attached and again
        wanted = Trust.BRIEFLY_DETACHED if answers == "Redis" else Trust.DETACHED
        reachable = (
            row.cells["delete"] == "confirmed"
        )  # then there is a new connection, which has looked at the log
        return self.cache.inspect().freshness.trust is wanted and (
            not reachable or (self.cache.counters().replays > replays and self._pinged())
        )

    async def heard(self) -> None:
        """The agent has heard all there is in the log, if it is of the epoch that it follows."""
        follower, names = self.cache.inspect().freshness, self.worker.names
        state = await state_of(self.worker.redis, names)
        if "epoch" in state and state["epoch"] == follower.epoch:
            last = int(state["last"])
            await eventually(lambda: follower.last >= last, message="the log is heard")

    def _pinged(self) -> bool:
        """The replay of this connection is over."""
        return (
            bool(self.cache.inspect().freshness._pings) or self.cache.inspect().freshness._ponged > -math.inf
        )

    async def come_back(self, *, older: bool) -> None:
        """Redis, restarted with less than it had."""
        await self.server.kill()
        if older:
            self.older.put_back()
        else:
            self.older.remove()
        await self.server.start()
        await self.worker.redis.connection_pool.disconnect()


@asynccontextmanager
async def scene_of(durable: EmbeddedValkey, hand: Hand) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_client(durable.url))
        proxy = await stack.enter_async_context(Proxy(durable.port))
        worker = WorkerDouble(redis)
        await worker.recover()
        beat = await stack.enter_async_context(AsyncExitStack())
        await beat.enter_async_context(worker.beating())
        cache = await stack.enter_async_context(
            open_cache(
                proxy.url(durable.url),
                max_silence=MAX_SILENCE,
                detached_ttl=DETACHED_TTL,
                redis_timeout=TIMEOUT,
            )
        )
        await eventually(lambda: cache.attached, message="attached")
        events = await stack.enter_async_context(cache.subscribe("*"))
        for key in (FIRST, SECOND):
            assert await cache.get_or_load(key, Loader("near cache")) == "near cache"
            await redis.set(key, b'"Redis"', px=3_600_000)
        older = Older(durable)
        await worker.apply("user:0:profile")
        await anext(events)
        yield Scene(durable, proxy, worker, cache, events, older, hand, beat)


@pytest.fixture
async def scene(durable: EmbeddedValkey, hand: Hand) -> AsyncIterator[Scene]:
    async with scene_of(durable, hand) as scene:
        yield scene


@pytest.mark.parametrize("row", rows(), ids=str)
async def test_each_call_does_what_the_table_says(scene: Scene, row: Row) -> None:
    await scene.go(row)
    batches = batches_sent(scene.cache)
    found = {
        "staleness": "infinite" if scene.cache.staleness == math.inf else "bounded",
        "get_or_load": await get_or_load(scene),
        "get": await get(scene),
    }
    if row.cells["get_or_load"] == "loader":
        assert batches_sent(scene.cache) == batches  # Redis is not even asked
    found |= {
        "subscribe": await subscribe(scene, reachable=row.cells["delete"] == "confirmed"),
        "set": await set_(scene, THIRD, missed=True),
        "set, free key": await set_(scene, FREE, missed=False),
        "delete": await delete(scene),
        "wait_for": await wait_for(scene, working=row.cells["wait_for"] == "returns"),
    }
    assert found == row.cells


def batches_sent(cache: Cache) -> int:
    tier = cache.inspect().tier
    assert isinstance(tier, RedisTier)
    return tier.multiplexer.batches


async def delete(scene: Scene) -> str:
    try:
        await scene.cache.delete(FOURTH)
    except RedisUnavailable:
        return "raises"
    return "confirmed"


async def get_or_load(scene: Scene) -> str:
    loader = Loader("loader")
    answers = {await scene.cache.get_or_load(FIRST, loader) for _ in range(3)}
    assert loader.calls == ("loader" in answers), "what was loaded is kept"
    (answer,) = answers
    return str(answer)


async def get(scene: Scene) -> str:
    answer = await scene.cache.get(SECOND)
    if answer is not None:
        return str(answer)
    await scene.cache.get_or_load(SECOND, Loader("own"))
    return str(await scene.cache.get(SECOND))


async def set_(scene: Scene, key: str, *, missed: bool) -> str:
    cache = scene.cache
    if missed:
        assert await cache.get(key) is None
    stored = await cache.set(key, "set", ttl=60)
    if await scene.server.running():
        found: Any = await scene.worker.redis.get(key) or b""
        assert stored is (found.rstrip() == b'"set"')  # a space says that it lives shorter than the rules say
    if stored:
        await scene.heard()
    own = await cache.get(key)
    assert own == "set" or not stored or scene.cache.inspect().freshness.trust is Trust.DETACHED
    return "stored" if stored else "own" if own == "set" else "nowhere"


async def wait_for(scene: Scene, *, working: bool) -> str:
    token = scene.worker.token(scene.worker.xid)
    if working:
        await scene.worker.apply("user:0:profile")
    try:
        await scene.cache.wait_for(token, timeout=10.0 if working else TIMEOUT)
    except WaitTimeout:
        return "times out"
    return "returns"


async def subscribe(scene: Scene, *, reachable: bool) -> str:
    """What comes first: what another instance deletes, what this one does afterwards, or a Reset."""
    if await scene.server.running():
        async with open_cache(scene.server.url) as other:
            await other.delete(TOLD)
    if not reachable:
        with pytest.raises(RedisUnavailable):
            await scene.cache.delete("user:8:profile")
    async with asyncio.timeout(60.0):
        event = await anext(scene.events)
    if isinstance(event, Reset):
        return "Reset"
    assert isinstance(event, Invalidated)
    seen: dict[tuple[str, ...], str] = {(TOLD,): "hears", ("user:8:profile",): "own"}
    return seen[event.keys]


async def test_calls_wait_for_a_redis_that_hangs_once(scene: Scene) -> None:
    """Attached, so reads of what is not in the near cache would ask Redis; hundreds of calls wait once."""
    scene.proxy.half_open()
    async with asyncio.timeout(50 * TIMEOUT):
        for number in range(100):
            key = f"user:{1_000 + number}:profile"
            assert await scene.cache.get_or_load(key, Loader(number)) == number
            assert await scene.cache.get(key) is None  # attached: nothing that Redis did not confirm is kept
    await scene.proxy.heal()

    async def stored() -> bool:
        await scene.cache.get_or_load(FREE, Loader("again"))
        return await scene.worker.redis.get(FREE) == b'"again"'

    await eventually(stored, message="Redis is used again")
