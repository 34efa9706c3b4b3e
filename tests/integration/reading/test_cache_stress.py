"""Readers, a writer and faults at once: nothing older than what was heard of is served, and all ends true."""

import asyncio
import random

from servers import eventually
from unstale import Cache, Invalidated
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache

USERS = 5
CHANGES = 150


def key_of(user: int) -> str:
    return f"user:{user}:profile"


class Database:
    """Rows with versions, and the order in which each becomes visible and applied."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(map(key_of, range(USERS)), 0)

    async def read(self, key: str, chance: random.Random) -> int:
        """A read that takes a moment before and after the row is seen."""
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        version = self.versions[key]
        await asyncio.sleep(chance.random() * 0.003)
        return version


class Agent:
    """Reads through one cache and checks each read against what this process had heard of when it began."""

    def __init__(self, cache: Cache, database: Database, seed: int) -> None:
        self._cache, self._database = cache, database
        self._chance = random.Random(seed)
        self.floors = dict.fromkeys(database.versions, 0)
        self.reads = 0

    async def listen(self) -> None:
        """Raise the floor of a key to the version that an invalidation names in a trace key of its own."""
        async with self._cache.subscribe("trace:*") as events:
            async for event in events:
                for trace in event.keys if isinstance(event, Invalidated) else ():
                    key, _, version = trace.removeprefix("trace:").rpartition(":")
                    self.floors[key] = max(self.floors[key], int(version))

    async def converse(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            key = key_of(self._chance.randrange(USERS))
            floor = self.floors[key]
            match self._chance.randrange(4):
                case 0:
                    value = await self._cache.get(key)
                    if value is None:
                        value = await self._database.read(key, self._chance)
                        await self._cache.set(key, value)
                case 1:
                    value = await self._cache.get_or_load(
                        key, lambda key=key: self._database.read(key, self._chance), shared=True
                    )
                case _:
                    value = await self._cache.get_or_load(
                        key, lambda key=key: self._database.read(key, self._chance)
                    )
            assert value >= floor, f"{key}: read {value} after {floor} was heard of"
            self.reads += 1
            await asyncio.sleep(self._chance.random() * 0.002)


async def test_no_read_is_older_than_what_was_heard_of_when_it_began(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    database, stop = Database(), asyncio.Event()
    chance = random.Random(7)
    async with attached_cache(valkey.url) as one, attached_cache(valkey.url) as two:
        agents = [Agent(cache, database, seed) for seed, cache in enumerate((one, two))]
        listeners = [asyncio.create_task(agent.listen()) for agent in agents]
        readers = [asyncio.create_task(agent.converse(stop)) for agent in agents for _ in range(8)]
        for number in range(CHANGES):
            key = key_of(chance.randrange(USERS))
            database.versions[key] += 1
            if chance.random() < 0.2:
                await agents[number % 2]._cache.delete(key)  # the writer's own, direct invalidation
            await double.apply(key, f"trace:{key}:{database.versions[key]}", lost=chance.random() < 0.1)
            match chance.randrange(40):
                case 0:
                    await double.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                case 1:
                    await double.redis.unlink(key)  # eviction
                case 2:
                    await double.new_epoch()
            await asyncio.sleep(chance.random() * 0.01)
        stop.set()
        await asyncio.gather(*readers)
        await eventually(lambda: one.attached and two.attached)
        for cache in (one, two):

            async def true(cache: Cache = cache) -> bool:
                return all(
                    [
                        await cache.get_or_load(key, lambda key=key: database.read(key, chance)) == version
                        for key, version in database.versions.items()
                    ]
                )

            await eventually(true)
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    assert sum(agent.reads for agent in agents) > CHANGES
