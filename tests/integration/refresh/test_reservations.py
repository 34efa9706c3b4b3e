"""Reservations of ready keys: the limits of a loader over all processes, and what becomes of a killed one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from unstale.errors import ConfigurationError
from unstale_worker.refresh.redis.refresh_set import Claimed
from unstale_worker.refresh.redis.reservations import RANGE, Reservation
from unstale_worker.refresh.redis.store import RefreshStore, open_store
from unstale_worker.rules import Rules
from workers import redis_at, settings_for
from workers.refresh_stage import NAMES

GREETING = "user:{user_id}:greeting"
SUMMARY = "user:{user_id}:summary"


def rules(limits: str = "") -> Rules:
    return Rules.parse(
        f"""
[[watch]]
table = "public.profiles"
keys = ["user:{{id}}:greeting", "user:{{id}}:summary"]

[refresh."{GREETING}"]
loader = "refresh_loaders:greeting"
{limits}

[refresh."{SUMMARY}"]
loader = "refresh_loaders:summary"
"""
    )


def keys(count: int, kind: str = "greeting") -> list[str]:
    return [f"user:{n}:{kind}" for n in range(count)]


@asynccontextmanager
async def processes(redis_url: str, given: Rules) -> AsyncIterator[tuple[Redis, RefreshStore, RefreshStore]]:
    """Two processes with the leader's rules and a takeover time of one second."""
    settings = settings_for("postgresql://nowhere", redis_url, refresh_takeover=1.0)
    async with (
        redis_at(redis_url) as redis,
        open_store(settings, given) as one,
        open_store(settings, given) as two,
    ):
        await redis.hset(NAMES.state, mapping={"rules": given.hash, "epoch": "e"})
        yield redis, one, two


async def made_ready(redis: Redis, store: RefreshStore, given: Rules, *names: str) -> None:
    """Make keys due and ready, as a leader does."""
    await redis.zadd(NAMES.refresh, dict.fromkeys(names, 1))
    await hand_over(store, given, await store.keys.claim())


async def hand_over(store: RefreshStore, given: Rules, claimed: Claimed) -> None:
    for spec in given.refreshes:
        own = [key for key in claimed.keys if spec.matches(key)]
        if own:
            await store.reservations.make_ready(spec, own, now=claimed.now)


def names_of(reserved: list[Reservation]) -> list[str]:
    return [reservation.key for reservation in reserved]


async def test_processes_share_the_slots_of_a_loader(redis_url: str) -> None:
    given = rules("concurrency = 3")
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(6))
        mine = await one.reservations.reserve(2)
        theirs = await two.reservations.reserve(5)
        assert names_of(mine) + names_of(theirs) == keys(3), "in order, and three of them"
        assert await one.reservations.reserve(5) == []
        assert len({reservation.lease for reservation in mine + theirs}) == 3
        await two.reservations.release(theirs[0], called=True)
        assert len(await one.reservations.reserve(5)) == 1


async def test_a_killed_process_loses_its_slots_and_keys_after_the_takeover_time(redis_url: str) -> None:
    given = rules("concurrency = 2")
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(4))
        killed, alive = await one.reservations.reserve(2)
        for _ in range(4):
            await asyncio.sleep(0.3)
            await one.reservations.hold(alive)
            await one.leases.extend([alive.key], alive.lease, visibility=1.0)
        claimed = await two.keys.claim()
        assert claimed.keys == (killed.key,), "only the key that was not extended"
        await hand_over(two, given, claimed)
        assert len(await two.reservations.reserve(5)) == 1, "one slot is free again, the other is held"
        await two.reservations.release(alive, called=True)
        assert len(await two.reservations.reserve(5)) == 1


async def test_processes_share_the_rate_of_a_loader(redis_url: str) -> None:
    given = rules('rate = "3/s"')
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(9))
        first = await one.reservations.reserve(2)
        second = await two.reservations.reserve(5)
        assert (len(first), len(second)) == (2, 1)
        for reservation in first:
            await one.reservations.release(reservation, called=True)
        assert await two.reservations.reserve(5) == [], "a call that has ended counts all the same"
        await two.reservations.release(second[0], called=False)
        assert len(await one.reservations.reserve(5)) == 1, "a call that was not made does not"
        await asyncio.sleep(1.05)
        assert len(await two.reservations.reserve(5)) == 3


async def test_a_paused_loader_gets_no_key_and_others_do(redis_url: str) -> None:
    given = rules()
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(2), *keys(2, "summary"))
        await one.reservations.pause("refresh_loaders:greeting", seconds=60)
        await one.reservations.pause("refresh_loaders:greeting", seconds=0.1)
        assert names_of(await two.reservations.reserve(9)) == keys(2, "summary")
        assert await redis.pttl(NAMES.refresh_pause("refresh_loaders:greeting")) > 50_000
        await redis.delete(NAMES.refresh_pause("refresh_loaders:greeting"))
        assert names_of(await two.reservations.reserve(9)) == keys(2)


async def test_each_loader_is_the_first_one_in_turn(redis_url: str) -> None:
    given = rules()
    async with processes(redis_url, given) as (redis, one, _):
        await made_ready(redis, one, given, *keys(4), *keys(4, "summary"))
        found = [(await one.reservations.reserve(1))[0].spec.template.text for _ in range(4)]
        assert sorted(found) == [GREETING, GREETING, SUMMARY, SUMMARY]


async def test_a_process_with_other_rules_gets_no_key(redis_url: str) -> None:
    given = rules()
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(1))
        await redis.hset(NAMES.state, "rules", "other")
        assert await two.reservations.reserve(9) == []
        assert await two.leases.in_force() is False
        await redis.hset(NAMES.state, "rules", given.hash)
        assert names_of(await two.reservations.reserve(9)) == keys(1)


async def test_a_new_leader_takes_over_what_was_made_ready(redis_url: str) -> None:
    """Its rules may number the loaders in another way."""
    given = rules()
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(900), *keys(900, "summary"))
        await hand_over(one, given, await one.keys.claim())
        assert (await one.keys.claim()).keys == ()
        assert await two.keys.adopt(after=1.0) == 1800
        assert await redis.zcount(NAMES.refresh, RANGE, "+inf") == 0
        assert len((await two.keys.claim()).keys) == 1000


async def test_a_key_that_left_the_set_is_not_made_ready(redis_url: str) -> None:
    given = rules()
    async with processes(redis_url, given) as (redis, one, _):
        await redis.zadd(NAMES.refresh, dict.fromkeys(keys(2), 1))
        claimed = await one.keys.claim()
        await redis.zrem(NAMES.refresh, keys(2)[0])  # a reader has filled it
        await hand_over(one, given, claimed)
        assert names_of(await one.reservations.reserve(9)) == keys(2)[1:]


@pytest.mark.parametrize("how", ["evicted", "another type"])
async def test_limits_that_redis_lost_begin_again(redis_url: str, how: str) -> None:
    """Redis may evict any key; a limit may then be exceeded once, and no key is lost."""
    given = rules('concurrency = 2\nrate = "100/s"')
    async with processes(redis_url, given) as (redis, one, two):
        await made_ready(redis, one, given, *keys(6))
        first, second = await one.reservations.reserve(9)
        limits = (NAMES.refresh_running(GREETING), NAMES.refresh_rate(GREETING))
        await redis.unlink(*limits)
        if how == "another type":
            await redis.mset(dict.fromkeys(limits, "not a set"))
        await one.reservations.hold(first)
        await one.presence.announce("one")
        assert len(await two.reservations.reserve(9)) == 1, "a held slot counts again"
        for reservation in (first, second):
            await one.reservations.release(reservation, called=True)
        assert 0 < await redis.pttl(limits[0]) <= 1000


async def test_refresh_workers_count_until_they_are_silent_or_withdraw(redis_url: str) -> None:
    given = rules()
    async with processes(redis_url, given) as (redis, one, two):
        assert not await one.presence.any()
        await two.presence.announce("killed")
        await redis.zadd(NAMES.refresh_workers, {"killed": 1})
        await two.presence.announce("alive")
        assert await redis.zrange(NAMES.refresh_workers, 0, -1) == [b"alive"]
        assert await one.presence.any()
        assert 4_000 < await redis.pttl(NAMES.refresh_workers) <= 5_000, (
            "forgotten without another announcement"
        )
        await two.presence.withdraw("alive")
        assert not await one.presence.any()


async def test_rules_with_too_many_loaders_are_refused(redis_url: str) -> None:
    given = rules()
    many = replace(given, refreshes=given.refreshes * 500)
    with pytest.raises(ConfigurationError, match="1000 refreshes with a Python loader; at most 800"):
        async with open_store(settings_for("postgresql://nowhere", redis_url), many):
            pass
