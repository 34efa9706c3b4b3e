"""The applier's scripts on a real Valkey: atomic, guarded, bounded."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from servers import eventually, takes
from unstale.errors import LeadershipLost, PositionMoved, RedisUnavailable
from unstale.protocol.messages import MAX_MESSAGE_BYTES, Invalidation, Watermark
from unstale.protocol.names import Names
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.runtime import failpoints
from unstale_worker.leader.leadership import RENEW, RESIGN, Leadership
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.sources import Page
from workers import Listener, logged, redis_at, state_of

NAMES = Names()
PAGE = Page(
    database="7:1", snapshot="20:20:", position="15:15:", more=False, cursor=None, lsn="0/200",
    flushed="0/1F0", covered=True, current_xmax=20, entries=(), began=0.0,
)  # fmt: skip


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with redis_at(redis_url) as client:
        yield client


@pytest.fixture
async def multiplexer(redis_url: str) -> AsyncIterator[Multiplexer]:
    multiplexer = Multiplexer(Connections(redis_url, timeout=2.0), timeout=2.0, clock=time.monotonic)
    yield multiplexer
    await multiplexer.close()


@pytest.fixture
async def leader(multiplexer: Multiplexer) -> tuple[Applier, StoredState]:
    """An applier that leads, at position 10:10:."""
    applier = await lead(multiplexer)
    return applier, await recovered(applier, position="10:10:")


async def lead(
    multiplexer: Multiplexer, *, log_max_bytes: int = 1 << 20, script_keys: int = 1_000
) -> Applier:
    fence = await Leadership(multiplexer, NAMES, ttl=5.0).try_acquire()
    return Applier(multiplexer, NAMES, fence=fence, log_max_bytes=log_max_bytes, script_keys=script_keys)


async def recovered(applier: Applier, *, position: str, patterns: Sequence[str] = ()) -> StoredState:
    async def snapshot() -> Page:
        return replace(PAGE, position=position, snapshot=position)

    await applier.recover(
        await applier.state(), rules="h", published=b"{}", patterns=patterns, snapshot=snapshot
    )
    return await applier.state()


async def test_one_script_removes_logs_publishes_and_stores(
    leader: tuple[Applier, StoredState], redis: Redis, redis_url: str
) -> None:
    applier, state = leader
    await redis.mset({"a": "1", "b": "2", "c": "3"})
    async with Listener(redis_url) as heard:
        after, _ = await applier.apply(state, PAGE, keys=["a", "b", "never there"], patterns=[], store=True)
        assert after == replace(state, position="15:15:", flushed="0/1F0", database="7:1")
        assert await redis.mget("a", "b", "c") == [None, None, b"3"]
        stored = await state_of(redis)
        assert (stored["position"], stored["need_lsn"], stored["last"]) == ("15:15:", "0/200", "1")
        ((entry, fields),) = await logged(redis)
        assert (entry, json.loads(b"{" + fields[b"m"] + b"}")["keys"]) == (b"1-0", ["a", "b", "never there"])
        await eventually_heard(heard, 1)
        assert heard.messages == [Invalidation(state.epoch, 1, 0, ("a", "b", "never there"), ())]  # type: ignore[arg-type]
    assert applier.unlinked == 2
    await redis.delete("c")


async def test_a_batch_says_its_watermark_in_the_same_script(
    leader: tuple[Applier, StoredState], redis_url: str
) -> None:
    applier, state = leader
    async with Listener(redis_url) as heard:
        seen = Seen("20:20:", "0/200", time.monotonic(), "")
        await applier.apply(state, PAGE, keys=["a"], patterns=[], store=True, seen=seen)
        await eventually_heard(heard, 2)
        invalidation, watermark = heard.messages
        assert isinstance(invalidation, Invalidation)
        assert isinstance(watermark, Watermark)
        assert (watermark.last, str(watermark.seen), watermark.lsn) == (1, "20:20:", "0/200")


@pytest.mark.parametrize("how", ["batch", "watermark"])
async def test_a_worker_paused_before_its_script_does_not_call_an_old_read_fresh(
    leader: tuple[Applier, StoredState], redis_url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    applier, state = leader
    monkeypatch.setattr(Seen, "age_ms", lambda self, now: "0.000")  # it looked at its clock, and was paused
    async with Listener(redis_url) as heard:
        then = f"{float(applier.server_time()) - 5_000:.3f}"
        seen = Seen("20:20:", "0/200", time.monotonic() - 5.0, "", began_there=then)
        if how == "batch":
            await applier.apply(state, PAGE, keys=[], patterns=[], store=True, seen=seen)
        else:
            await applier.watermark(state, seen)
        await eventually_heard(heard, 1)
        (watermark,) = heard.messages
        assert isinstance(watermark, Watermark)
        assert watermark.age_ms >= 5_000


@pytest.mark.parametrize("defended", [True, False])
async def test_a_machine_that_slept_after_the_read_does_not_call_it_fresh(
    leader: tuple[Applier, StoredState], redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Its clock stood still, and a reply that comes after that moves the server's clock ahead of it.

    Without the conversion when the read begins, all of the sleep is missing from the age.
    """
    applier, state = leader
    began, began_there = time.monotonic(), applier.server_time()
    await takes(0.3)
    awake = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: awake() - 0.3)
    await applier.state()  # as a page of the same batch, or the state
    if not defended:
        began_there = f"{float(applier.server_time()) - (time.monotonic() - began) * 1_000:.3f}"
    async with Listener(redis_url) as heard:
        await applier.watermark(state, Seen("20:20:", "0/200", began, "", began_there=began_there))
        await eventually_heard(heard, 1)
        (watermark,) = heard.messages
        assert isinstance(watermark, Watermark)
        if defended:
            assert watermark.age_ms >= 300
        else:
            assert watermark.age_ms < (time.monotonic() - began) * 1_000 + 300


@pytest.mark.parametrize("reason", ["fence", "run", "epoch", "position"])
async def test_a_refused_script_changes_nothing(
    leader: tuple[Applier, StoredState], redis: Redis, redis_url: str, reason: str
) -> None:
    applier, state = leader
    await redis.set("a", "1", ex=60)
    if reason == "fence":
        await redis.hincrby(NAMES.state, "fence", 1)
    elif reason == "run":
        await redis.hset(NAMES.state, "run", "another")
    before = (await state_of(redis), await redis.xlen(NAMES.log))
    changed: dict[str, Any] = {reason: "9:9:"} if reason in ("epoch", "position") else {}
    wrong = replace(state, **changed)
    async with Listener(redis_url) as heard:
        expected = LeadershipLost if reason == "fence" else PositionMoved
        seen = Seen("20:20:", "0/200", time.monotonic(), "")
        with pytest.raises(expected):
            await applier.apply(wrong, PAGE, keys=["a"], patterns=[], store=True, seen=seen)
        with pytest.raises(expected):
            await applier.watermark(wrong, seen)
        if reason in ("fence", "position"):
            with pytest.raises(expected):
                await applier.new_epoch(wrong)
        assert (await state_of(redis), await redis.xlen(NAMES.log)) == before
        assert await redis.get("a") == b"1"
        assert heard.messages == []


async def test_a_batch_of_many_scripts_stores_its_position_with_the_last(
    multiplexer: Multiplexer, redis: Redis, redis_url: str
) -> None:
    applier = await lead(multiplexer, script_keys=10)
    state = await recovered(applier, position="10:10:")
    keys = [f"user:{number}:profile" for number in range(1_005)]
    await redis.mset(dict.fromkeys(keys, "{}"))
    async with Listener(redis_url) as heard:
        await applier.apply(state, PAGE, keys=keys, patterns=[], store=True)
        await eventually_heard(heard, 101)
        assert heard.keys == keys
        ids = [(m.prev, m.id) for m in heard.messages if isinstance(m, Invalidation)]
        assert ids == [(number, number + 1) for number in range(101)]
    assert await redis.exists(*keys) == 0
    assert (await state_of(redis))["position"] == "15:15:"


async def test_a_batch_that_stops_in_the_middle_leaves_the_position(
    multiplexer: Multiplexer, redis: Redis
) -> None:
    applier = await lead(multiplexer, script_keys=10)
    state = await recovered(applier, position="10:10:")
    await redis.set("user:999:profile", "{}", ex=60)
    keys = [f"user:{number}:profile" for number in range(1_000)]
    await redis.delete(NAMES.log)
    await redis.set(NAMES.log, "not a stream")
    with pytest.raises(RedisUnavailable):
        await applier.apply(state, PAGE, keys=keys, patterns=[], store=True)
    assert (await state_of(redis))["position"] == "10:10:"
    await redis.delete(NAMES.log)
    await applier.apply(state, PAGE, keys=keys, patterns=[], store=True)
    assert (await state_of(redis))["position"] == "15:15:"
    assert await redis.exists("user:999:profile") == 0


async def test_messages_stay_below_their_bound(
    leader: tuple[Applier, StoredState], redis: Redis, redis_url: str
) -> None:
    applier, state = leader
    keys = [f"user:{number}:" + "é" * 300 for number in range(1_000)]
    async with Listener(redis_url) as heard:
        await applier.apply(state, PAGE, keys=keys, patterns=[], store=True)
        entries = await logged(redis)
        await eventually_heard(heard, len(entries))
        assert heard.keys == keys
    assert max(len(fields[b"m"]) for _, fields in entries) < MAX_MESSAGE_BYTES
    assert len(entries) > 9


async def test_the_log_is_bounded_by_bytes(multiplexer: Multiplexer, redis: Redis) -> None:
    bound = 64 * 1024
    applier = await lead(multiplexer, log_max_bytes=bound)
    state = await recovered(applier, position="10:10:")
    for step in range(100):
        page = replace(PAGE, position=f"{11 + step}:{11 + step}:")
        state, _ = await applier.apply(state, page, keys=["k" * 3_000], patterns=[], store=True)
    entries = await logged(redis)
    held = sum(len(fields[b"m"]) + len(fields[b"w"]) + 64 for _, fields in entries)
    assert bound * 0.9 < held <= bound
    assert int((await state_of(redis))["log_bytes"]) == held
    assert entries[-1][0] == b"100-0"


async def test_a_log_that_was_evicted_starts_again(multiplexer: Multiplexer, redis: Redis) -> None:
    applier = await lead(multiplexer, log_max_bytes=64 * 1024)
    state = await recovered(applier, position="10:10:")
    await redis.hset(NAMES.state, "log_bytes", 64 * 1024)
    for step in range(3):
        page = replace(PAGE, position=f"{11 + step}:{11 + step}:")
        state, _ = await applier.apply(state, page, keys=["k"], patterns=[], store=True)
    assert int((await state_of(redis))["log_bytes"]) < 1_000
    assert [entry for entry, _ in await logged(redis)][-1] == b"3-0"


async def test_unstales_own_keys_are_never_removed(leader: tuple[Applier, StoredState], redis: Redis) -> None:
    applier, state = leader
    await redis.set("x", "1", ex=60)
    await applier.apply(state, PAGE, keys=[NAMES.state, NAMES.log, "x"], patterns=["*"], store=True)
    assert await redis.exists(NAMES.state, NAMES.rules, "x") == 2
    assert (await state_of(redis))["epoch"] == state.epoch


@pytest.mark.parametrize(
    "patterns", [["user:*:profile"], ["user:*:profile", "user:*:a", "user:*:b", "nothing*", "user:1?:c"]]
)
async def test_patterns_remove_what_matches(
    leader: tuple[Applier, StoredState], redis: Redis, redis_url: str, patterns: list[str]
) -> None:
    applier, state = leader
    await redis.mset({f"user:{number}:profile": "{}" for number in range(3_000)})
    await redis.set("user:1:other", "stays", ex=60)
    async with Listener(redis_url) as heard:
        await applier.apply(state, PAGE, keys=[], patterns=patterns, store=True)
        await eventually_heard(heard, 1)
        assert heard.patterns == patterns
    assert [key async for key in redis.scan_iter("user:*")] == [b"user:1:other"]


async def test_a_server_that_forgot_the_scripts_gets_them_again(
    multiplexer: Multiplexer, redis: Redis
) -> None:
    applier = await lead(multiplexer, script_keys=10)
    state = await recovered(applier, position="10:10:")
    await redis.script_flush()
    await applier.apply(state, PAGE, keys=[str(n) for n in range(100)], patterns=[], store=True)
    await redis.script_flush()
    assert (await applier.state()).position == "15:15:"


async def test_recovery_drops_first_and_takes_a_new_epoch(multiplexer: Multiplexer, redis: Redis) -> None:
    applier = await lead(multiplexer)
    first = await recovered(applier, position="10:10:")
    await redis.mset({"user:1:profile": "{}", "other": "1"})
    second = await recovered(applier, position="12:12:", patterns=["user:*:profile"])
    assert second.epoch != first.epoch
    assert second.position == "12:12:"
    assert await redis.mget("user:1:profile", "other") == [None, b"1"]
    await redis.delete("other")


async def test_recovery_is_refused_when_the_server_changed_meanwhile(
    multiplexer: Multiplexer, redis: Redis
) -> None:
    applier = await lead(multiplexer)
    state = await applier.state()

    async def snapshot() -> Page:
        return PAGE

    with pytest.raises(PositionMoved, match="run"):
        await applier.recover(
            replace(state, live_run="another"), rules="h", published=b"{}", patterns=[], snapshot=snapshot
        )
    assert "position" not in await state_of(redis)


async def test_another_run_gets_a_new_epoch_and_keeps_position_and_ids(
    leader: tuple[Applier, StoredState], redis: Redis
) -> None:
    applier, state = leader
    state, _ = await applier.apply(state, PAGE, keys=["a"], patterns=[], store=True)
    await redis.hset(NAMES.state, "run", "f" * 40)
    await applier.new_epoch(await applier.state())
    after = await applier.state()
    assert after.epoch != state.epoch
    assert after.run == after.live_run
    assert after.position == state.position
    assert (await state_of(redis))["last"] == "1"


async def test_need_primary_is_cleared_only_by_a_read_that_began_after_it(
    leader: tuple[Applier, StoredState], redis: Redis
) -> None:
    applier, state = leader
    await redis.hset(NAMES.state, "primary_until", "5")
    seen = Seen("20:20:", "0/300", time.monotonic(), "")
    assert await applier.watermark(state, seen) == "5"
    assert (await state_of(redis))["primary_until"] == "5"
    assert await applier.watermark(state, replace(seen, primary_until="4")) == "5"
    assert await applier.watermark(state, replace(seen, primary_until="5")) == ""
    after = await state_of(redis)
    assert "primary_until" not in after
    assert after["need_lsn"] == "0/300"


async def test_a_foreign_key_in_the_states_place_is_named(multiplexer: Multiplexer, redis: Redis) -> None:
    applier = await lead(multiplexer)
    await redis.delete(NAMES.state)
    await redis.set(NAMES.state, "mine", ex=60)
    with pytest.raises(
        RedisUnavailable, match=r"\{unstale:0\}:state holds a string instead of a hash; delete it"
    ):
        await applier.state()
    await redis.delete(NAMES.state)


async def test_an_invalidation_is_not_refused_for_memory(
    leader: tuple[Applier, StoredState], redis: Redis
) -> None:
    applier, state = leader
    await redis.set("a", "x" * 100_000, ex=60)
    await redis.config_set("maxmemory", 1)
    await applier.apply(state, PAGE, keys=["a"], patterns=[], store=True)
    await redis.config_set("maxmemory", 0)
    assert await redis.exists("a") == 0


async def test_a_second_leader_silences_the_first(multiplexer: Multiplexer, redis: Redis) -> None:
    first = await lead(multiplexer)
    state = await recovered(first, position="10:10:")
    await redis.delete(NAMES.leader)
    second = await lead(multiplexer)
    with pytest.raises(LeadershipLost):
        await first.apply(state, PAGE, keys=["a"], patterns=[], store=True)
    await second.apply(await second.state(), PAGE, keys=["a"], patterns=[], store=True)


async def eventually_heard(heard: Listener, count: int) -> None:
    await eventually(lambda: len(heard.messages) >= count)


OTHER_RUN = "0" * 40


async def test_every_script_of_a_batch_raises_need_lsn(
    multiplexer: Multiplexer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that takes a lease between two of them must not read a replica from before the change."""
    applier = await lead(multiplexer, script_keys=1)
    state = await recovered(applier, position="10:10:")
    assert (await state_of(redis))["need_lsn"] == PAGE.lsn
    page = replace(PAGE, lsn="0/300")

    async def look(name: str) -> None:
        if name == "applier.before_last_script":
            assert (await state_of(redis))["need_lsn"] == "0/300"
            assert (await state_of(redis))["position"] == "10:10:"
            raise RedisUnavailable("the worker dies here")

    monkeypatch.setattr(failpoints, "on", True)
    monkeypatch.setattr(failpoints, "reach", look)
    with pytest.raises(RedisUnavailable, match="dies here"):
        await applier.apply(state, page, keys=["a", "b"], patterns=[], store=True)
    assert (await state_of(redis))["need_lsn"] == "0/300"


@pytest.mark.parametrize("keys", [True, False])
async def test_a_pattern_raises_need_lsn_before_its_scan(
    leader: tuple[Applier, StoredState], redis: Redis, monkeypatch: pytest.MonkeyPatch, keys: bool
) -> None:
    applier, state = leader
    if keys:
        await redis.set("p:1", "1")

    async def look(name: str) -> None:
        if name == "applier.after_drop":
            assert (await state_of(redis))["need_lsn"] == "0/300"
            raise RedisUnavailable("the worker dies here")

    monkeypatch.setattr(failpoints, "on", True)
    monkeypatch.setattr(failpoints, "reach", look)
    with pytest.raises(RedisUnavailable, match="dies here"):
        await applier.apply(state, replace(PAGE, lsn="0/300"), keys=[], patterns=["p:*"], store=True)
    assert not await redis.exists("p:1")


async def test_a_pattern_is_dropped_only_on_the_run_that_the_state_was_read_from(
    leader: tuple[Applier, StoredState], redis: Redis
) -> None:
    """A replica that was promoted meanwhile may know neither the position nor the need_lsn."""
    applier, state = leader
    await redis.set("p:1", "1", ex=60)
    before = await state_of(redis)
    with pytest.raises(PositionMoved, match="run"):
        await applier.apply(
            replace(state, live_run=OTHER_RUN),
            replace(PAGE, lsn="0/300"),
            keys=[],
            patterns=["p:*"],
            store=True,
        )
    assert await redis.get("p:1") == b"1"
    assert await state_of(redis) == before


async def test_a_recovery_ends_only_on_the_run_on_which_it_dropped(
    leader: tuple[Applier, StoredState], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover after the drop brings keys back that the new position would declare true."""
    applier, state = leader
    before = await state_of(redis)

    async def dropped(*_: object, **__: object) -> None:
        """On the server of before."""

    async def snapshot() -> Page:
        return PAGE

    monkeypatch.setattr(applier, "_drop", dropped)
    with pytest.raises(PositionMoved, match="run"):
        await applier.recover(
            replace(state, live_run=OTHER_RUN),
            rules="h",
            published=b"{}",
            patterns=["p:*"],
            snapshot=snapshot,
        )
    assert await state_of(redis) == before


async def test_a_recovery_begins_an_empty_log_and_raises_need_lsn_itself(
    leader: tuple[Applier, StoredState], redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of the old history must not be replayed into the new one."""
    applier, state = leader
    await applier.apply(state, PAGE, keys=["a"], patterns=[], store=True)
    assert await logged(redis)

    async def dropped(*_: object, **__: object) -> None:
        """It raises need_lsn too; here it does not."""

    async def snapshot() -> Page:
        return replace(PAGE, position="16:16:", lsn="0/400")

    monkeypatch.setattr(applier, "_drop", dropped)
    await applier.recover(
        await applier.state(), rules="h", published=b"{}", patterns=["p:*"], snapshot=snapshot
    )
    assert not await logged(redis)
    assert (await state_of(redis))["log_bytes"] == "0"
    assert (await state_of(redis))["need_lsn"] == "0/400"


async def test_a_lease_is_not_renewed_under_another_fence(multiplexer: Multiplexer, redis: Redis) -> None:
    """The lease may still be ours while the state already names a later leader, after a failover."""
    leadership = Leadership(multiplexer, NAMES, ttl=2.0)
    await leadership.try_acquire()
    await redis.hincrby(NAMES.state, "fence", 1)
    async with asyncio.timeout(60):
        with pytest.raises(LeadershipLost, match="another worker holds the lease"):
            await leadership.keep()


async def test_only_the_holder_renews_resigns_or_acquires_again(
    multiplexer: Multiplexer, redis: Redis
) -> None:
    leadership = Leadership(multiplexer, NAMES, ttl=600.0)
    keys = [NAMES.leader, NAMES.state]
    assert await leadership.try_acquire() == 1
    assert await leadership.try_acquire() == 2
    assert await Leadership(multiplexer, NAMES, ttl=600.0).try_acquire() == 0
    assert await RENEW(multiplexer, keys=keys, args=["another", 600_000, "2"]) == 0
    assert await RESIGN(multiplexer, keys=keys[:1], args=["another"]) == 0
    await redis.delete(*keys)
    await redis.mset({NAMES.leader: "ours", NAMES.state: "of another type"})
    assert await RENEW(multiplexer, keys=keys, args=["ours", 600_000, "2"]) == 0
    await redis.delete(*keys)
    await redis.lpush(NAMES.leader, "x")
    assert await RENEW(multiplexer, keys=keys, args=["another", 600_000, "2"]) == 0
    assert await RESIGN(multiplexer, keys=keys[:1], args=["another"]) == 0
    await redis.delete(NAMES.leader)


async def test_what_cannot_be_counted_counts_for_nothing(multiplexer: Multiplexer, redis: Redis) -> None:
    """A fence or an id that is no number, or above what Lua counts exactly, begins again."""
    for odd in ("x", "9" * 16):
        await redis.hset(NAMES.state, mapping={"fence": odd, "last": odd})
        await redis.delete(NAMES.leader)
        applier = await lead(multiplexer)
        assert (await state_of(redis))["fence"] == "1"
        await recovered(applier, position="10:10:")
        assert (await state_of(redis))["last"] == "0"


@pytest.mark.parametrize("name", [NAMES.leader, NAMES.state])
async def test_a_foreign_key_in_a_leaders_place_is_named(
    multiplexer: Multiplexer, redis: Redis, name: str
) -> None:
    await redis.delete(name)
    await redis.lpush(name, "mine")
    with pytest.raises(RedisUnavailable, match="holds another type; delete it"):
        await lead(multiplexer)
    assert await redis.exists(NAMES.leader, NAMES.state) == 1
    await redis.delete(name)


async def test_rules_are_put_back_by_the_leader_alone(
    leader: tuple[Applier, StoredState], multiplexer: Multiplexer, redis: Redis
) -> None:
    applier, state = leader
    await redis.delete(NAMES.rules)
    await redis.lpush(NAMES.rules, "of another type")
    assert await applier.keep_published(state, b"{}")
    assert not await applier.keep_published(state, b"{}")
    await redis.set(NAMES.rules, "overwritten")
    assert await applier.keep_published(state, b"{}")
    await redis.delete(NAMES.leader, NAMES.rules)
    await lead(multiplexer)
    with pytest.raises(LeadershipLost):
        await applier.keep_published(state, b"{}")
    assert await redis.get(NAMES.rules) is None
