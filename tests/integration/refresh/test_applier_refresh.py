"""The applier's scripts on keys that are refreshed when they change; times are the server's."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from unstale.protocol.names import LEASE, SOFT_LEASE, Names
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale_worker.leader.leadership import Leadership
from unstale_worker.redis import script_batches
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.rules import Plan, Renewal, Rules
from unstale_worker.rules.refresh import PURGED
from unstale_worker.sources import Page
from workers import logged, redis_at, state_of

NAMES = Names()
BOUND = 60_000
KEPT = Renewal(BOUND, 250, True)
PAGE = Page(
    database="7:1", snapshot="20:20:", position="15:15:", more=False, cursor=None, lsn="0/200",
    flushed="0/1F0", covered=True, current_xmax=20, entries=(), began=0.0,
)  # fmt: skip


class Leader:
    """An applier, and the state that its next batch continues."""

    def __init__(self, applier: Applier, state: StoredState) -> None:
        self.applier, self.state = applier, state
        self.xid = 20

    async def apply(self, renewals: dict[str, Renewal], *keys: str, patterns: tuple[str, ...] = ()) -> None:
        """One batch."""
        self.xid += 1
        page = replace(PAGE, position=f"{self.xid}:{self.xid}:")
        self.state, _ = await self.applier.apply(
            self.state, page, keys=[*renewals, *keys], patterns=patterns, store=True, renewals=renewals,
            beside=True,
        )  # fmt: skip


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_at(redis_url) as client:
        yield client


@pytest.fixture
async def leader(redis_url: str) -> AsyncIterator[Leader]:
    multiplexer = Multiplexer(Connections(redis_url, timeout=2.0), timeout=2.0, clock=time.monotonic)
    fence = await Leadership(multiplexer, NAMES, ttl=30.0).try_acquire()
    applier = Applier(multiplexer, NAMES, fence=fence, log_max_bytes=1 << 20)

    async def snapshot() -> Page:
        return replace(PAGE, position="10:10:", snapshot="10:10:", began=time.monotonic())

    await applier.recover(await applier.state(), rules="h", published=b"{}", patterns=[], snapshot=snapshot)
    yield Leader(applier, await applier.state())
    await multiplexer.close()


async def due(redis: Redis) -> dict[str, float]:
    """The refresh set: key, and seconds from now by the server's clock."""
    seconds, micros = await redis.time()
    members: Any = await redis.zrange(NAMES.refresh, 0, -1, withscores=True)
    return {key.decode(): score / 1000 - (int(seconds) + int(micros) / 1e6) for key, score in members}


async def test_a_value_is_kept_for_the_bound_and_the_key_is_due(leader: Leader, redis: Redis) -> None:
    await redis.set("b", "2")
    await redis.set("c", "3")
    await leader.apply({"a": replace(KEPT, serve_ms=30_000), "b": KEPT}, "c")  # nothing stands at a
    assert await redis.mget("a", "b", "c") == [None, None, None]
    assert await redis.get(NAMES.stale("b")) == b"2"
    assert BOUND - 20_000 < await redis.pttl(NAMES.stale("b")) <= BOUND
    assert set(await due(redis)) == {"b"}
    assert -20 < (await due(redis))["b"] <= 0.25
    ((_, fields),) = await logged(redis)
    assert json.loads(b"{" + fields[b"m"] + b"}")["keys"] == ["a", "b", "c"]
    assert (await state_of(redis))["position"] == "21:21:"


async def test_a_later_change_does_not_prolong_what_is_stale(leader: Leader, redis: Redis) -> None:
    await redis.set("a", "1")
    await leader.apply({"a": KEPT})
    await redis.pexpire(NAMES.stale("a"), 20_000)
    for standing in (None, LEASE + b"x", SOFT_LEASE + b"x"):
        if standing is not None:
            await redis.set("a", standing)
        await leader.apply({"a": KEPT})
        assert await redis.get("a") is None
        assert await redis.get(NAMES.stale("a")) == b"1"
        assert 0 < await redis.pttl(NAMES.stale("a")) <= 20_000
        assert set(await due(redis)) == {"a"}  # it was cached once, and is wanted still
        await redis.delete(NAMES.refresh)
    await redis.set("a", "2")  # filled, and true until the next change: that bound is a new one
    await leader.apply({"a": KEPT})
    assert await redis.get(NAMES.stale("a")) == b"2"
    assert await redis.pttl(NAMES.stale("a")) > 20_000


async def test_a_spare_value_is_bounded_from_the_read_before(leader: Leader, redis: Redis) -> None:
    """Also of a key that is not refreshed. Its end only comes nearer, and a purge or a pattern removes it."""
    kept = Renewal(0, 0, True, BOUND, refreshed=False)
    both = replace(KEPT, spare_ms=BOUND)

    async def left() -> list[int]:
        return [await redis.pttl(NAMES.spare(key)) for key in ("a", "b")]

    async def filled() -> None:
        for key in ("a", "b"):
            await redis.set(NAMES.spare(key), f"{BOUND}\n1", px=2 * BOUND)
            await redis.set(key, "1")

    await filled()
    await leader.apply({"a": kept, "b": both}, "c")
    assert all(BOUND - 20_000 < ms <= BOUND for ms in await left())
    assert set(await due(redis)) == {"b"}
    assert await redis.mget("a", "b") == [None, None]
    for key in ("a", "b"):
        await redis.pexpire(NAMES.spare(key), 20_000)
    await leader.apply({"a": kept, "b": both})
    assert all(0 < ms <= 20_000 for ms in await left())
    await filled()
    await read_ago(redis, 50_000)
    await leader.apply({"a": kept, "b": both})
    assert all(0 < ms <= 10_000 for ms in await left())
    for renewals in ({"a": replace(PURGED, spare_ms=BOUND)}, {"a": kept}):
        await filled()
        if renewals["a"] is kept:
            await read_ago(redis, 2 * BOUND)
        await leader.apply(renewals)
        assert await redis.exists(NAMES.spare("a")) == 0
    await filled()
    await redis.unlink("b")  # only its spare value is left
    await leader.apply({}, patterns=("b*", "[a]", "x", "y", "z"))
    assert await left() == [-2, -2]


async def read_ago(redis: Redis, milliseconds: float) -> None:
    """Leave what a worker leaves that read the outbox so long ago."""
    await redis.hincrbyfloat(NAMES.state, "read_at", -milliseconds)


async def test_the_bound_counts_from_the_read_before(leader: Leader, redis: Redis) -> None:
    """A change of this batch may have been committed right after that read, and no worker ran since."""
    await redis.set("a", "1")
    await read_ago(redis, 50_000)
    await leader.apply({"a": KEPT})
    assert await redis.get(NAMES.stale("a")) == b"1"
    assert 0 < await redis.pttl(NAMES.stale("a")) <= BOUND - 50_000


@pytest.mark.parametrize("ago", [BOUND, 3_600_000, None])
async def test_a_change_that_may_be_older_than_the_bound_leaves_nothing_stale(
    leader: Leader, redis: Redis, ago: int | None
) -> None:
    await redis.set("a", "1")
    if ago is None:
        await redis.hdel(NAMES.state, "read_at")
    else:
        await read_ago(redis, ago)
    await leader.apply({"a": KEPT})
    assert await redis.mget("a", NAMES.stale("a")) == [None, None]
    assert set(await due(redis)) == {"a"}  # it is refreshed all the same


async def test_a_batch_without_a_watermark_does_not_move_where_the_bound_begins(
    leader: Leader, redis: Redis
) -> None:
    """Its read saw what the next batch does not contain, but only a watermark says when that read began."""
    await read_ago(redis, BOUND)
    before = (await state_of(redis))["read_at"]
    await leader.apply({}, "x")
    assert (await state_of(redis))["read_at"] == before
    seen = Seen.of(PAGE, began=time.monotonic() - 30.0, primary_until="")
    await leader.applier.watermark(leader.state, seen)
    await redis.set("a", "1")
    await leader.apply({"a": KEPT})
    assert 0 < await redis.pttl(NAMES.stale("a")) <= BOUND - 30_000


async def test_a_burst_is_due_when_its_first_change_is(leader: Leader, redis: Redis) -> None:
    await redis.set("a", "1")
    await leader.apply({"a": KEPT})
    first = await redis.zscore(NAMES.refresh, "a")
    for _ in range(5):
        await leader.apply({"a": KEPT})
    assert await redis.zscore(NAMES.refresh, "a") == first
    assert first is not None
    claimed = first + 3_600_000
    await redis.zadd(NAMES.refresh, {"a": claimed})
    await leader.apply({"a": KEPT})
    assert await redis.zscore(NAMES.refresh, "a") == claimed  # who makes it new loads again by itself


@pytest.mark.parametrize("standing", [None, LEASE + b"x"])
async def test_a_key_that_was_not_cached_is_not_queued(
    leader: Leader, redis: Redis, standing: bytes | None
) -> None:
    if standing is not None:
        await redis.set("a", standing)
        await redis.set("b", standing)
    await leader.apply({"a": KEPT, "b": replace(KEPT, only_if_cached=False)})
    assert set(await due(redis)) == {"b"}
    assert await redis.mget("a", "b", NAMES.stale("a"), NAMES.stale("b")) == [None] * 4


async def test_without_serve_stale_nothing_is_kept(leader: Leader, redis: Redis) -> None:
    await redis.set("a", "1")
    await leader.apply({"a": replace(KEPT, serve_ms=0)})
    assert await redis.mget("a", NAMES.stale("a")) == [None, None]
    assert set(await due(redis)) == {"a"}


async def test_a_purge_leaves_nothing(leader: Leader, redis: Redis) -> None:
    await redis.mset({"a": "1", "b": "1"})
    await leader.apply({"a": KEPT})
    await redis.set("a", "2")
    await leader.apply({"a": PURGED, "b": KEPT})
    assert await redis.mget("a", NAMES.stale("a"), NAMES.stale("b")) == [None, None, b"1"]
    assert set(await due(redis)) == {"b"}


async def test_a_purge_wins_over_the_other_rules_of_its_batch(leader: Leader, redis: Redis) -> None:
    rules = Rules.parse(
        '[[watch]]\ntable = "t"\nkeys = ["k:{id}"]\n'
        '[[watch]]\ntable = "erased"\nkeys = ["k:{id}"]\npurge = true\n'
        '[refresh."k:{id}"]\nloader = "m:f"\nserve_stale = "1m"\n'
    )
    await redis.mset({"k:1": "1", "k:2": "1"})
    plan = Plan()
    rules.plan("public", "erased", ["id"], ["1"], plan)
    rules.plan("public", "t", ["id"], ["1", "2"], plan)
    renewals = rules.renewals(plan.keys, plan.purged)
    assert renewals["k:1"] == PURGED
    await leader.apply(renewals)
    assert await redis.mget(NAMES.stale("k:1"), NAMES.stale("k:2")) == [None, b"1"]
    assert set(await due(redis)) == {"k:2"}


@pytest.mark.parametrize("patterns", [("a:*",), ("a:*", "x:*", "y:*", "z:*")])
async def test_a_pattern_drops_what_is_stale(leader: Leader, redis: Redis, patterns: tuple[str, ...]) -> None:
    keys = [f"a:{n}" for n in range(1_500)]
    await redis.mset({key: "1" for key in [*keys, "b:1"]})
    await leader.apply(dict.fromkeys([*keys, "b:1"], KEPT))
    assert await redis.exists(*map(NAMES.stale, keys)) == len(keys)
    await redis.set("a:1", "2")
    await leader.apply({}, patterns=patterns)
    assert await redis.exists("a:1", *map(NAMES.stale, keys)) == 0
    assert await redis.get(NAMES.stale("b:1")) == b"1"
    assert (await state_of(redis))["epoch"]  # nothing else of unstale's own went with them


@pytest.mark.parametrize("patterns", [["a:*"], ["a:*", "x:*", "y:*", "z:*"]])
async def test_recovery_drops_what_is_stale(leader: Leader, redis: Redis, patterns: list[str]) -> None:
    await redis.set("a:1", "1")
    await leader.apply({"a:1": KEPT})

    async def snapshot() -> Page:
        return PAGE

    applier = leader.applier
    for stale in (False, True):  # the defence off, and on
        await applier.recover(
            await applier.state(),
            rules="h",
            published=b"{}",
            patterns=patterns,
            snapshot=snapshot,
            beside=stale,
        )
        assert await redis.exists(NAMES.stale("a:1")) == (0 if stale else 1)


async def test_the_refresh_set_is_bounded(
    leader: Leader, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script_batches, "MOST_WAITING", 3)
    await redis.mset({f"k:{n}": "1" for n in range(6)})
    for n in range(6):
        await leader.apply({f"k:{n}": replace(KEPT, debounce_ms=1_000 * n)})
    assert set(await due(redis)) == {"k:3", "k:4", "k:5"}


async def test_other_types_in_the_way_cost_nothing_but_themselves(leader: Leader, redis: Redis) -> None:
    await redis.set(NAMES.refresh, "not a set")
    await redis.rpush("a", "not a value")
    await redis.set("b", "1")
    await leader.apply({"a": KEPT, "b": KEPT})
    assert await redis.exists("a", "b", NAMES.stale("a")) == 0
    assert set(await due(redis)) == {"b"}


async def test_a_watermark_may_be_said_by_the_same_script(leader: Leader, redis: Redis) -> None:
    await redis.set("a", "1")
    seen = Seen.of(PAGE, began=time.monotonic(), primary_until="")
    before = (await state_of(redis)).get("applied_at")
    _, pending = await leader.applier.apply(
        leader.state, PAGE, keys=["a"], patterns=[], store=True, seen=seen, renewals={"a": KEPT}
    )
    assert pending == ""
    state = await state_of(redis)
    assert (state["position"], state["need_lsn"]) == ("15:15:", "0/200")
    assert state["applied_at"] >= (before or "")
    assert await redis.get(NAMES.stale("a")) == b"1"


async def test_a_refused_script_moves_nothing(leader: Leader, redis: Redis) -> None:
    await redis.set("a", "1", px=60_000)
    await redis.hset(NAMES.state, "position", "11:11:")
    with pytest.raises(Exception, match="position"):
        await leader.apply({"a": KEPT})
    assert await redis.get("a") == b"1"
    assert await redis.exists(NAMES.stale("a"), NAMES.refresh) == 0
