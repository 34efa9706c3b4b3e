"""Page 3: how old an answer can be. It is a number, not a hope."""

import math

import pytest

from servers import eventually
from unstale import Cache, Invalidated
from unstale_worker.dev_servers import EmbeddedValkey


async def test_staleness_is_an_upper_bound_in_seconds(cache: Cache) -> None:
    assert cache.attached
    assert 0 <= cache.staleness < math.inf


async def test_a_reader_can_ask_for_a_bound(cache: Cache) -> None:
    await cache.get_or_load("user:42:profile", lambda: "cached")
    assert await cache.get_or_load("user:42:profile", lambda: "fresh", max_staleness=60) == "cached"
    assert await cache.get_or_load("user:42:profile", lambda: "fresh", max_staleness=0) == "fresh"


async def test_events_say_what_is_out_of_date(cache: Cache, other_instance: Cache) -> None:
    async with other_instance.subscribe("user:42:*") as events:
        await cache.delete("user:42:profile", "user:7:profile")
        event = await anext(events)
    assert isinstance(event, Invalidated)
    assert event.keys == ("user:42:profile",)


async def test_without_redis_there_is_no_bound_but_there_are_answers(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    await valkey.kill()
    await eventually(lambda: not cache.attached)
    assert cache.staleness == math.inf
    assert await cache.get_or_load("user:42:profile", lambda: "loaded") == "loaded"


async def test_the_numbers_of_the_last_minutes(cache: Cache) -> None:
    for _ in range(4):
        await cache.get_or_load("user:42:profile", lambda: {"name": "Ada"})
    stats = await cache.get_stats()
    assert (stats["hit_rate"], stats["near_hits"], stats["loads"]) == (0.75, 3, 1)
    assert stats["status"] == "healthy"
    assert stats["staleness"] == pytest.approx(cache.staleness, abs=5)
