"""Redis databases of one server: pub/sub reaches all of them, the keys of a worker only one."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import pytest

from servers import Database, eventually
from unstale import Cache
from unstale.freshness.other_databases import LOOK_AGAIN, MOST, Foreign
from unstale.freshness.tracker import Trust
from unstale.protocol.names import Epoch
from unstale_worker.dev_servers import EmbeddedValkey
from workers import SCHEMA, connected, running_worker
from workers.double import Loader, WorkerDouble, attached_cache, open_cache, redis_client

KEY = "user:42:profile"
OTHER = "user:7:profile"


def numbered(url: str, number: int) -> str:
    """``url`` with another database number."""
    return f"{url.rpartition('/')[0]}/{number}"


@pytest.fixture
def other_url(valkey: EmbeddedValkey) -> str:
    """The same server, database 1."""
    return numbered(valkey.url, 1)


@contextlib.asynccontextmanager
async def leading_in(url: str) -> AsyncIterator[WorkerDouble]:
    """A worker of this database, silent unless made to speak."""
    async with redis_client(url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        yield worker


async def told(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait for a warning with these words; it comes after `LOOK_AGAIN` seconds."""
    await eventually(lambda: words in caplog.text, timeout=30, message=f"{words!r} is warned of")


async def test_an_agent_of_another_database_stays_detached_and_is_told_why(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears every message of the worker, and none of them is about the keys it would read."""
    with caplog.at_level(logging.WARNING, "unstale"):
        async with (
            open_cache(other_url, max_silence=3.0, leader_ttl=0.5) as cache,
            redis_client(other_url) as redis,
        ):
            loader = Loader("first")
            assert await cache.get_or_load(KEY, loader) == "first"
            await double.apply(KEY)
            await told(caplog, "stays detached")
            assert cache._follower.epoch is None
            assert not cache.attached
            assert await redis.dbsize() == 0  # nothing that nobody would remove
            assert cache._parts.rulebook.hash == ""
            await redis.set(OTHER, '"stale"', px=60_000)  # as somebody may have put it there long ago
            assert await cache.get_or_load(OTHER, Loader("loaded")) == "loaded"
    (sentence,) = (record.message for record in caplog.records if "stays detached" in record.message)
    assert "database 1, which REDIS_URL names" in sentence
    assert "with the same number at its end" in sentence


async def test_what_a_worker_left_in_another_database_is_not_revived_by_its_messages(
    valkey: EmbeddedValkey, other_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker moved to another number, the agents did not: they find its old state and hear the new."""
    async with leading_in(other_url) as before:
        await before.redis.set(KEY, '"stale"', px=60_000)
        async with leading_in(valkey.url) as worker, worker.beating():
            with caplog.at_level(logging.WARNING, "unstale"):
                async with open_cache(other_url, max_silence=3.0, leader_ttl=0.5) as cache:
                    await told(caplog, "stays detached")
                    assert cache._follower.epoch == before.epoch
                    assert not cache.attached
                    assert await cache.get_or_load(KEY, Loader("loaded")) == "loaded"


async def test_agents_of_two_databases_each_follow_their_own_worker(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with leading_in(other_url) as other, other.beating():
        with caplog.at_level(logging.WARNING, "unstale"):
            async with attached_cache(valkey.url) as first, attached_cache(other_url) as second:
                caches = (first, second)
                await told(caplog, "in database 0, which REDIS_URL names here, are ignored")
                await told(caplog, "in database 1, which REDIS_URL names here, are ignored")
                # each foreign epoch costs one new connection, once
                await eventually(lambda: all(cache.attached for cache in caches))
                replays, begun = [cache.counters().replays for cache in caches], time.monotonic()
                for cache in caches:
                    assert await cache.get_or_load(KEY, Loader("old")) == "old"
                await double.apply(KEY, "user:1:profile")
                await eventually(lambda: not held(first))
                assert held(second)
                for _ in range(5):
                    await other.apply("user:1:profile")
                await other.apply(KEY)
                await eventually(lambda: not held(second))
                assert await first.get_or_load(KEY, Loader("new")) == "new"
                last = await double.apply("user:2:profile")
                await eventually(lambda: first._follower.last == last)
                assert held(first)
                assert [cache._follower.epoch for cache in caches] == [double.epoch, other.epoch]
                # Looks alone, one in `LOOK_AGAIN` seconds with a replay after it; never one for each message.
                most = 2 + 2 * (time.monotonic() - begun) / LOOK_AGAIN
                grown = [cache.counters().replays - n for cache, n in zip(caches, replays, strict=True)]
                assert max(grown) <= most, (grown, most)
    assert caplog.text.count("are ignored") == 2
    assert "stays detached" not in caplog.text


def held(cache: Cache) -> bool:
    return cache._followed.peek(KEY) is not None


async def test_an_abandoned_state_of_another_run_is_told_of_too(
    valkey: EmbeddedValkey, other_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker moved to another number, then the server was restarted: the state is nobody's."""
    async with leading_in(other_url) as before:
        await before.redis.hset(before.names.state, "run", "f" * 40)
        async with leading_in(valkey.url) as worker, worker.beating():
            with caplog.at_level(logging.WARNING, "unstale"):
                async with open_cache(other_url) as cache:
                    await told(caplog, "stays detached")
                    assert cache._follower.trust is Trust.DETACHED


async def test_any_number_of_other_databases_costs_an_agent_next_to_nothing(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker in each of 40 databases: one new connection or so, not one for each, again and again."""
    epochs = [Epoch(f"{number:032x}") for number in range(40)]
    said = {"v": 1, "last": 5, "seen": "1:1:", "lsn": "0/1", "rules": "theirs", "age_ms": 1}
    with caplog.at_level(logging.INFO, "unstale"):
        async with attached_cache(valkey.url) as cache, double.beating():
            subscriber = cache._parts.subscriber
            assert subscriber is not None

            async def beat() -> bool:
                for epoch in epochs:
                    await double.publish({**said, "epoch": epoch})
                return cache.attached and all(epoch in subscriber._foreign for epoch in epochs)

            await eventually(beat, message="attached, and all of them are known")
            assert caplog.text.count("connecting anew") <= len(epochs) // 4
            connections, replays = caplog.text.count("connecting anew"), cache.counters().replays
            begun = time.monotonic()
            while time.monotonic() - begun < 2 * LOOK_AGAIN:
                assert await beat()
                await asyncio.sleep(0.2)
            # A look for all of them, one in `LOOK_AGAIN` seconds, with a replay after it.
            assert cache.counters().replays - replays <= 2 + 2 * (time.monotonic() - begun) / LOOK_AGAIN
            assert caplog.text.count("connecting anew") == connections


async def test_a_new_epoch_of_the_own_worker_is_followed_beside_a_foreign_one(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble
) -> None:
    async with leading_in(other_url) as other, other.beating(), attached_cache(valkey.url) as cache:
        for worker in (other, double, other, double):
            await worker.new_epoch()
            await eventually(lambda: cache.attached and cache._follower.epoch == double.epoch)
        assert await cache.get_or_load(KEY, Loader("old")) == "old"
        last = await double.apply(KEY)
        await eventually(lambda: cache._follower.last >= last)
        assert await cache.get_or_load(KEY, Loader("new")) == "new"


async def test_two_workers_of_one_database_of_postgres_serve_two_of_redis(
    database: Database, valkey: EmbeddedValkey, other_url: str
) -> None:
    """Real workers: a change reaches both, and neither takes the other's for its own."""
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into public.profiles values (42, 'old')")

        async def load() -> object:
            return await db.fetchval("select name from public.profiles where id = 42")

        async with (
            running_worker(database.dsn, valkey.url),
            running_worker(database.dsn, other_url),
            attached_cache(valkey.url) as first,
            attached_cache(other_url) as second,
        ):
            for cache in (first, second):
                assert await cache.get_or_load(KEY, load) == "old"
            await db.execute("update public.profiles set name = 'new' where id = 42")
            for cache in (first, second):

                async def told_new(cache: Cache = cache) -> bool:
                    return bool(await cache.get_or_load(KEY, load) == "new")

                await eventually(told_new, message="the change reaches both")
            for cache, url in ((first, valkey.url), (second, other_url)):
                async with redis_client(url) as redis:
                    own = await redis.hget("{unstale:0}:state", "epoch")
                assert (cache._follower.epoch or "").encode() == own


def test_foreign_epochs_are_asked_about_again_and_forgotten_in_the_end() -> None:
    now = 100.0
    foreign = Foreign(clock=lambda: now)
    assert not foreign.known(Epoch("a"))
    assert foreign.add(Epoch("a"))
    assert foreign.known(Epoch("a"))
    now += LOOK_AGAIN
    assert not foreign.known(Epoch("a"))
    assert not foreign.add(Epoch("a"))
    for number in range(MOST):
        assert foreign.add(Epoch(str(number)))
    assert foreign.add(Epoch("a"))  # forgotten
    foreign.discard(Epoch("a"))
    assert not foreign.known(Epoch("a"))
