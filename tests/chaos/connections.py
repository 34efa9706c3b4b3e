"""What can happen to a connection, for a while; and how long a while is."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from servers.proxy import Proxy

How = Callable[[Proxy, random.Random], Awaitable[None]]
"""Does it to what passes a proxy, and has healed it when it returns."""


def short(chance: random.Random) -> float:
    """Seconds a fault lasts: mostly below `max_silence`, at times long enough for every mode."""
    return chance.uniform(0.1, 2.5) if chance.random() < 0.8 else chance.uniform(4.0, 11.0)


@asynccontextmanager
async def _healed(proxy: Proxy) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await proxy.heal()


async def _cut(proxy: Proxy, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        proxy.cut()
        await asyncio.sleep(chance.uniform(0, 0.3))


async def _refuse(proxy: Proxy, chance: random.Random) -> None:
    async with _healed(proxy):
        await proxy.refuse()
        proxy.cut()
        await asyncio.sleep(short(chance))


async def _half_open(proxy: Proxy, chance: random.Random) -> None:
    async with _healed(proxy):
        proxy.half_open()
        await asyncio.sleep(short(chance))


async def _hold(proxy: Proxy, chance: random.Random) -> None:
    async with _healed(proxy):
        proxy.hold()
        await asyncio.sleep(short(chance))


async def _slow(proxy: Proxy, chance: random.Random) -> None:
    async with _healed(proxy):
        proxy.slow(chance.choice((0.02, 0.1, 0.4)))
        await asyncio.sleep(chance.uniform(1.5, 4.0))  # shorter, and little would be said meanwhile


async def _lose_answers(proxy: Proxy, chance: random.Random) -> None:
    async with _healed(proxy):
        for _ in range(chance.randint(1, 5)):
            proxy.lose_answer()
            await asyncio.sleep(chance.uniform(0.02, 0.4))


CONNECTIONS: Final[Mapping[str, How]] = {
    "cut": _cut,
    "refused": _refuse,
    "half open": _half_open,
    "held": _hold,
    "slow": _slow,
    "answers lost": _lose_answers,
}
