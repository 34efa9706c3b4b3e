"""One agent of bench/peers.py: a process that reads profiles through one way of caching them.

It takes commands from standard input, a JSON object a line, and answers each with one. It runs in the
environment of the peers, or in the project's: so it imports nothing of the project.
"""

import asyncio
import bisect
import itertools
import json
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from peers_adapters import Peer, Profile, adapter

LOAD_SECONDS = 0.002
"""Added to each load after its SELECT: a database that is not on this machine."""
ZIPF = 1.1
SELECT = "select id, name, bio, version from public.{table} where id = $1"
READERS = 8
WARMED = 64
TOUCHERS = 4
"""Tasks that keep keys in use: a key that a short TTL removes is soon cached again."""


class Loader:
    """Reads a row; on demand it waits between the read and its return, as a slow loader does."""

    def __init__(self, pool: asyncpg.Pool, table: str) -> None:
        self._pool = pool
        self._query = SELECT.format(table=table)
        self.loads = 0
        self.held: dict[int, asyncio.Event] = {}
        self.reached: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self, number: int) -> Profile:
        self.loads += 1
        for attempt in itertools.count():
            try:
                row = await self._pool.fetchrow(self._query, number)
                break
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                if attempt == 5:
                    raise
                await asyncio.sleep(0.01)
        if (gate := self.held.get(number)) is not None:
            self.reached.put_nowait(number)
            await gate.wait()
        else:
            await asyncio.sleep(LOAD_SECONDS)
        return dict(row or {})


class Announced(asyncio.DatagramProtocol):
    """Changes that the writer announces as soon as they are acknowledged: key and version."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent

    def datagram_received(self, data: bytes, address: Any) -> None:
        number, version = json.loads(data)
        self._agent.watch(number, version)


class Agent:
    def __init__(self, peer: Peer, loader: Loader) -> None:
        self._peer, self._loader = peer, loader
        self._fresh: dict[int, float] = {}
        self._watching: set[asyncio.Task[None]] = set()
        self._reading: dict[int, asyncio.Task[Profile]] = {}

    async def warm(self, low: int, high: int) -> dict[str, Any]:
        """Read each key once, some at a time."""
        for start in range(low, high, WARMED):
            await asyncio.gather(*map(self._peer.get, range(start, min(start + WARMED, high))))
        return {}

    async def mixed(self, seed: int, keys: int, rate: float, seconds: float) -> dict[str, Any]:
        """Reads at a steady rate, of few keys often and of many seldom; returns every one of them."""
        chance = random.Random(seed)
        weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, keys + 1)))
        reads: list[tuple[int, int, float]] = []
        numbers = iter(range(int(rate * seconds)))
        loads, cpu = self._loader.loads, time.process_time()
        began = time.monotonic()

        async def reader() -> None:
            for number in numbers:
                pause = began + number / rate - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)
                key = 1 + bisect.bisect(weights, chance.random() * weights[-1])
                at = time.monotonic()
                value = await self._peer.get(key)
                reads.append((key, value["version"], at))

        await asyncio.gather(*(reader() for _ in range(READERS)))
        return {
            "reads": reads,
            "loads": self._loader.loads - loads,
            "cpu": time.process_time() - cpu,
            "took": time.monotonic() - began,
        }

    async def listen(self) -> dict[str, Any]:
        """Open the port on which the writer announces its changes."""
        self._fresh.clear()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: Announced(self), local_addr=("127.0.0.1", 0), family=socket.AF_INET
        )
        return {"port": self._transport.get_extra_info("sockname")[1]}

    async def touch(self, low: int, high: int, seconds: float, give_up: float) -> dict[str, Any]:
        """Keep the keys in use while the writer changes them; returns when each was first read fresh."""
        until = time.monotonic() + seconds
        keys = list(range(low, high))

        async def toucher(start: int) -> None:
            for number in itertools.cycle(keys[start:] + keys[:start]):
                if time.monotonic() > until:
                    return
                await self._peer.get(number)
                await asyncio.sleep(1 / len(keys))

        await asyncio.gather(*(toucher(len(keys) * n // TOUCHERS) for n in range(TOUCHERS)))
        if self._watching:
            await asyncio.wait(self._watching, timeout=give_up)
        for task in self._watching:
            task.cancel()
        self._transport.close()
        return {"fresh": self._fresh}

    def watch(self, number: int, version: int) -> None:
        """Read a changed key until it is fresh."""
        task = asyncio.create_task(self._until_fresh(number, version))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _until_fresh(self, number: int, version: int) -> None:
        told = time.monotonic()
        while True:
            began = time.monotonic()
            if (await self._peer.get(number))["version"] >= version:
                self._fresh[number] = began
                return
            waited = time.monotonic() - told
            if waited < 0.003:
                # The event loop's timers know milliseconds only. This gives the core away for some 0.1 ms.
                time.sleep(50e-6)  # noqa: ASYNC251  as the comment says
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(max(0.001, waited * 0.05))

    async def from_redis(self, low: int, high: int) -> dict[str, Any]:
        """Read keys that another agent has cached: the first half one by one, the second 100 at once."""
        loads, half = self._loader.loads, (low + high) // 2
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(low, half):
            await self._peer.get(number)
        alone, alone_cpu = time.perf_counter() - wall, time.process_time() - cpu
        numbers = iter(range(half, high))

        async def reader() -> None:
            for number in numbers:
                await self._peer.get(number)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(reader() for _ in range(100)))
        many, many_cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {
            "us": alone / (half - low) * 1e6,
            "cpu_us": alone_cpu / (half - low) * 1e6,
            "per_s_of_100": (high - half) / many,
            "cpu_us_of_100": many_cpu / (high - half) * 1e6,
            "loads": self._loader.loads - loads,
        }

    async def from_memory(self, low: int, high: int, rounds: int) -> dict[str, Any]:
        """Read the same keys again and again, one by one."""
        loads = self._loader.loads
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            for number in range(low, high):
                await self._peer.get(number)
        number = rounds * (high - low)
        return {
            "us": (time.perf_counter() - wall) / number * 1e6,
            "cpu_us": (time.process_time() - cpu) / number * 1e6,
            "loads": self._loader.loads - loads,
        }

    async def hold(self, keys: list[int]) -> dict[str, Any]:
        """Begin to read keys that nobody has cached; answer when each loader has its row and waits."""
        for key in keys:
            self._loader.held[key] = asyncio.Event()
            self._reading[key] = asyncio.create_task(self._peer.get(key))
        for _ in keys:
            await asyncio.wait_for(self._loader.reached.get(), 10)
        return {}

    async def release(self) -> dict[str, Any]:
        """Let the loaders return, and wait for the reads."""
        for key in list(self._reading):
            self._loader.held.pop(key).set()
        await asyncio.gather(*self._reading.values())
        self._reading.clear()
        return {}

    async def read(self, keys: list[int]) -> dict[str, Any]:
        return {"versions": [(await self._peer.get(key))["version"] for key in keys]}

    async def memory(self) -> dict[str, Any]:
        return {"rss": rss()}


def rss() -> int:
    """Bytes of memory that this process holds now (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def main(name: str, redis_url: str, database_url: str, table: str) -> None:
    commands = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    peer = adapter(name)
    async with asyncpg.create_pool(
        database_url, min_size=2, max_size=8, server_settings={"application_name": "reads"}
    ) as pool:
        loader = Loader(pool, table)
        await peer.open(redis_url, database_url, loader)
        agent = Agent(peer, loader)
        print(json.dumps({}), flush=True)
        while line := await commands.readline():
            command = json.loads(line)
            answer = await getattr(agent, command.pop("do"))(**command)
            print(json.dumps(answer), flush=True)
        await peer.close()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
