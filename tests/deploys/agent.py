"""One agent process of a deploy, of this version or the one before: reads, and records its history.

``python -m deploys.agent FILE TEMPLATE``. It says ``ready`` once it follows. A line on stdin ends it:
``end``, or ``final`` to write down first what it is served of every row.
"""

import asyncio
import importlib.util
import os
import random
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from unstale import Cache

if importlib.util.find_spec("unstale.protocol") is None:
    # Version 0.1.0 has the globs elsewhere, and the package `history` names them.
    sys.modules["unstale.protocol"] = types.ModuleType("unstale.protocol")
    sys.modules["unstale.protocol.globs"] = importlib.import_module("unstale.names")

from history import Final, Record, Recorder, encode
from history.recorder import seen_in

ROWS = 8
CONVERSATIONS = 3


class Agent:
    """Reads one template's keys in several conversations."""

    def __init__(self, cache: Cache, pool: asyncpg.Pool, template: str) -> None:
        self._cache, self._pool, self._template = cache, pool, template

    async def read(self, number: int) -> Any:
        """Read a row through the cache."""
        key = self._template.format(id=number)
        return await self._cache.get_or_load(key, partial(self._load, number))

    async def _load(self, number: int) -> dict[str, object]:
        version = await self._pool.fetchval("select version from items where id = $1", number)
        await asyncio.sleep(0.02 * random.random())  # changes overtake one load in a few
        return {"versions": {f"item:{number}": version}}

    async def converse(self, recorder: Recorder) -> None:
        """Read one row after another."""
        while True:
            number = random.randint(1, ROWS)
            row = f"item:{number}"
            await recorder.read(self._template.format(id=number), partial(self.read, number), rows=(row,))
            await recorder.sample()
            await asyncio.sleep(0.1 * random.random())


async def told() -> str:
    """Return the line on stdin that ends this process."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return (await reader.readline()).decode().strip()


async def main(file: Path, template: str) -> None:
    """Read until stdin says how to end."""
    with file.open("wb") as history:

        def write(record: Record) -> None:
            history.write(encode(record))

        async with (
            asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=3) as pool,
            Cache.from_env(env_file=None) as cache,
        ):
            agent, recorder = Agent(cache, pool, template), Recorder(cache, write)
            listener = asyncio.create_task(recorder.listen())
            await recorder.listening.wait()
            for _ in range(3_000):
                if cache.attached:
                    break
                await asyncio.sleep(0.02)
            readers = [asyncio.create_task(agent.converse(recorder)) for _ in range(CONVERSATIONS)]
            print("ready", flush=True)
            ending = asyncio.create_task(told())
            done, _ = await asyncio.wait([ending, *readers], return_when=asyncio.FIRST_COMPLETED)
            for task in (*readers, listener):
                task.cancel()
            await asyncio.wait([*readers, listener])
            if ending not in done:
                raise RuntimeError("a reader ended by itself") from readers[0].exception()
            if ending.result() == "final":
                for number in range(1, ROWS + 1):
                    write(Final(f"item:{number}", seen_in(await agent.read(number), (f"item:{number}",))))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
