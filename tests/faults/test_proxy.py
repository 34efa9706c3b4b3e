"""The faulty network itself: each fault does what the cases rely on, against a real Valkey."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, TimeoutError

from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedValkey
from workers import redis_at


def impatient(proxy: Proxy, valkey: EmbeddedValkey) -> Redis:
    return Redis.from_url(proxy.url(valkey.url), retry=Retry(NoBackoff(), 0), socket_timeout=0.3)


async def test_each_fault_and_its_healing(valkey: EmbeddedValkey) -> None:
    async with Proxy(valkey.port) as proxy, impatient(proxy, valkey) as client:
        assert await client.ping()
        proxy.cut()
        with pytest.raises(RedisError):
            await client.ping()
        assert await client.ping()

        await proxy.refuse()
        proxy.cut()
        with pytest.raises(RedisError):
            await client.ping()
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await proxy.heal()
        assert await client.ping()

        for fault in (proxy.hold, proxy.half_open, lambda: proxy.slow(1.0)):
            fault()
            with pytest.raises(TimeoutError):
                await client.ping()
            await proxy.heal()
            assert await client.ping()


async def test_did_the_work_and_lost_the_answer(valkey: EmbeddedValkey) -> None:
    async with (
        Proxy(valkey.port) as proxy,
        impatient(proxy, valkey) as client,
        redis_at(valkey.url) as direct,
    ):
        proxy.lose_answer(b"wanted")
        assert await client.incr("other") == 1
        with pytest.raises(RedisError):
            await client.incr("wanted")
        await asyncio.wait_for(proxy.lost.wait(), 5)
        assert await direct.get("wanted") == b"1"
        assert await client.incr("wanted") == 2
        await direct.delete("wanted", "other")


async def test_half_open_may_spare_new_connections(valkey: EmbeddedValkey) -> None:
    async with Proxy(valkey.port) as proxy, impatient(proxy, valkey) as client:
        assert await client.ping()
        proxy.half_open(new=False)
        with pytest.raises(TimeoutError):
            await client.ping()
        assert await client.ping()


async def test_new_connections_go_where_the_target_is(valkey: EmbeddedValkey) -> None:
    async with EmbeddedValkey() as other, Proxy(valkey.port) as proxy:
        async with redis_at(valkey.url) as client:
            await client.config_set("requirepass", other.password)
        async with Redis.from_url(f"redis://:{other.password}@127.0.0.1:{proxy.port}") as client:
            before = (await client.info("server"))["run_id"]
            proxy.target = other.port
            assert (await client.info("server"))["run_id"] == before
            await client.connection_pool.disconnect()
            assert (await client.info("server"))["run_id"] != before
        async with Redis(port=valkey.port, password=other.password) as client:
            await client.config_set("requirepass", valkey.password)
