"""The writer of bench/peers.py, and the listener that turns NOTIFY into DEL: programs beside the agents."""

import asyncio
import bisect
import contextlib
import itertools
import json
import random
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import asyncpg
import uvloop
from redis.asyncio import Redis

CHANNEL = "profile_changed"
WRITERS = 4
UPDATE = "update public.{table} set version = version + 1 where id = $1 returning version"
Acknowledged = list[tuple[int, int, float]]


async def connections(dsn: str, table: str, number: int) -> tuple[list[Any], list[Any]]:
    made = [await asyncpg.connect(dsn, server_settings={"application_name": "writes"}) for _ in range(number)]
    return made, [await each.prepare(UPDATE.format(table=table)) for each in made]


async def steadily(
    dsn: str, table: str, keys: Sequence[int], rate: float, ports: Sequence[int] = ()
) -> Acknowledged:
    """Change a row each 1/rate seconds; announce each to ``ports`` as soon as it is acknowledged."""
    sessions, statements = await connections(dsn, table, WRITERS)
    voice = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    acknowledged: Acknowledged = []
    changes = iter(enumerate(keys))
    began = time.monotonic() + 0.1

    async def write(statement: Any) -> None:
        for number, key in changes:
            pause = began + number / rate - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            version = await statement.fetchval(key)
            acknowledged.append((key, version, time.monotonic()))
            for port in ports:
                voice.sendto(json.dumps([key, version]).encode(), ("127.0.0.1", port))

    try:
        await asyncio.gather(*map(write, statements))
    finally:
        voice.close()
        for session in sessions:
            await session.close()
    return acknowledged


def popular(keys: int, number: int, *, exponent: float, seed: int) -> list[int]:
    """Keys to change, popular ones more often: what is read much is changed much."""
    chance = random.Random(seed)
    weights = list(itertools.accumulate(1 / rank**exponent for rank in range(1, keys + 1)))
    return [1 + bisect.bisect(weights, chance.random() * weights[-1]) for _ in range(number)]


async def as_fast_as_possible(dsn: str, table: str, keys: range, seconds: float) -> tuple[int, float]:
    """Single-row transactions of 8 sessions; returns how many, and the seconds they took."""
    sessions, statements = await connections(dsn, table, 8)
    done = 0
    began = time.monotonic()

    async def write(statement: Any, own: range) -> None:
        nonlocal done
        for key in itertools.cycle(own):
            if time.monotonic() - began > seconds:
                return
            await statement.fetchval(key)
            done += 1

    await asyncio.gather(*(write(each, keys[n :: len(statements)]) for n, each in enumerate(statements)))
    took = time.monotonic() - began
    for session in sessions:
        await session.close()
    return done, took


async def listener(dsn: str, redis_url: str, prefix: str) -> None:
    """LISTEN, and UNLINK the key of each payload. It connects again when it is cut off."""
    redis = Redis.from_url(redis_url)
    while True:
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            session = await asyncpg.connect(dsn, server_settings={"application_name": "told"})
            told: asyncio.Queue[str | None] = asyncio.Queue()
            session.add_termination_listener(lambda _, told=told: told.put_nowait(None))
            await session.add_listener(CHANNEL, lambda *event, told=told: told.put_nowait(event[-1]))
            print("{}", flush=True)
            while (keys := await batch(told)) is not None:
                await redis.unlink(*(prefix + key for key in keys))
        await asyncio.sleep(0.1)


async def batch(told: asyncio.Queue[str | None]) -> list[str] | None:
    """Everything that was told so far; None: the session has ended."""
    found = [await told.get()]
    while not told.empty():
        found.append(told.get_nowait())
    keys = [key for key in found if key is not None]
    return keys if len(keys) == len(found) else None


if __name__ == "__main__":
    uvloop.run(listener(*sys.argv[1:]))
