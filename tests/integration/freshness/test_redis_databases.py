"""Redis databases of one server: pub/sub reaches all of them, so the channel's name holds the number."""

import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from servers import Database, eventually
from unstale import Cache
from unstale.freshness.trust import Trust
from unstale.protocol.names import Names
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
        worker = WorkerDouble(redis, Names(database=int(url.rpartition("/")[2])))
        await worker.recover(age=3600)
        yield worker


async def test_an_agent_of_another_database_stays_detached_and_says_which_number_it_uses(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    """It hears nothing: the number is part of the channel's name."""
    async with double.beating(), redis_client(other_url) as redis:
        await redis.set(OTHER, '"stale"', px=60_000)  # put there long ago
        with caplog.at_level(logging.WARNING, "unstale"):
            async with open_cache(other_url, max_silence=1.0, leader_ttl=0.5) as cache:
                assert await cache.get_or_load(KEY, Loader("first")) == "first"
                await double.apply(KEY)
                await eventually(lambda: "database number (1)" in caplog.text, timeout=30)
                assert cache.inspect().freshness.epoch is None
                assert not cache.attached
                assert cache.inspect().rules.hash == ""
                assert await cache.get_or_load(OTHER, Loader("loaded")) == "loaded"
        assert await redis.dbsize() == 1  # nothing that no worker would remove


async def test_what_a_worker_left_in_another_database_is_not_revived_by_its_messages(
    valkey: EmbeddedValkey, other_url: str
) -> None:
    """The worker moved to another number, the agents did not: they find its old state, and hear nothing."""
    async with leading_in(other_url) as before:
        await before.redis.set(KEY, '"stale"', px=60_000)
        async with leading_in(valkey.url) as worker, worker.beating(), open_cache(other_url) as cache:
            assert cache.inspect().freshness.epoch == before.epoch
            await worker.apply(KEY)
            assert not cache.attached
            assert cache.inspect().freshness.trust is Trust.DETACHED
            assert await cache.get_or_load(KEY, Loader("loaded")) == "loaded"


async def test_agents_of_two_databases_each_follow_their_own_worker(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble
) -> None:
    async with (
        leading_in(other_url) as other,
        other.beating(),
        double.beating(),
        attached_cache(valkey.url) as first,
        attached_cache(other_url) as second,
    ):
        for cache in (first, second):
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
        await eventually(lambda: first.inspect().freshness.last == last)
        assert held(first)
        epochs = [cache.inspect().freshness.epoch for cache in (first, second)]
        assert epochs == [double.epoch, other.epoch]
        # The messages of the other database cost nothing: no replay but that of the connect.
        assert [cache.counters().replays for cache in (first, second)] == [1, 1]


def held(cache: Cache) -> bool:
    return cache.inspect().local.near.peek(KEY) is not None


async def test_a_new_epoch_is_followed_beside_another_database(
    valkey: EmbeddedValkey, other_url: str, double: WorkerDouble
) -> None:
    async with leading_in(other_url) as other, other.beating(), attached_cache(valkey.url) as cache:
        for worker in (other, double, other, double):
            await worker.new_epoch()
            await eventually(lambda: cache.attached and cache.inspect().freshness.epoch == double.epoch)
        assert await cache.get_or_load(KEY, Loader("old")) == "old"
        last = await double.apply(KEY)
        await eventually(lambda: cache.inspect().freshness.last >= last)
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
                assert (cache.inspect().freshness.epoch or "").encode() == own
