"""The chaos run's agent process: uses its cache in every way, and writes its history down."""

import asyncio
import math
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import orjson

from chaos.clocks import move_on_signal
from chaos.commits import Commits
from chaos.world import Value, keys, load, rows_of, some_item, some_key, statement, tags_of
from chaos.writer import LOST, change_items
from history import Final as FinalRecord
from history import Record, Recorder, encode
from history.naive import Subject, subject
from history.recorder import seen_in
from unstale import Cache, RedisUnavailable, WaitTimeout
from unstale.settings import AgentSettings
from unstale_worker.demo import child

CONVERSATIONS: Final = 8
PAUSE: Final = 0.02
"""Mean seconds between two reads of a conversation."""
REPORT_EVERY: Final = 0.1
SAMPLES_A_REPORT: Final = 8
"""A claim that is wrong for a moment only must be seen."""


class Agent:
    """Reads in many conversations at once, and now and then changes a row itself."""

    def __init__(
        self, cache: Cache, judged: Subject, recorder: Recorder, pool: asyncpg.Pool, commits: Commits
    ) -> None:
        self._cache, self._subject, self._recorder, self._pool = cache, judged, recorder, pool
        self._commits = commits
        self.failures = 0
        """Reads and writes that the database refused."""
        self.calm = False
        """Set it: no more changes."""
        self.changing = 0
        """Changes under way."""

    def become_calm(self) -> None:
        """Change nothing from now on."""
        self.calm = True

    async def converse(self, chance: random.Random) -> None:
        """Read for ever."""
        while True:
            try:
                dice = chance.random()
                if dice < 0.025 and not self.calm:
                    self.changing += 1
                    try:
                        await self._change(some_item(chance), by_token=chance.random() < 0.5)
                    finally:
                        self.changing -= 1
                elif dice < 0.06:
                    await self._get_and_set(f"item:{some_item(chance)}", chance)
                else:
                    await self._read(some_key(chance), chance)
            except LOST:
                self.failures += 1
            await asyncio.sleep(chance.uniform(0, 2 * PAUSE))

    async def _read(self, key: str, chance: random.Random) -> None:
        bound = chance.choice((0.0, 0.3, 2.0)) if chance.random() < 0.06 else None
        await self._recorder.read(
            key,
            lambda: self._subject.get_or_load(
                key, self._loader(key, chance), max_staleness=bound, tags=tags_of(key)
            ),
            rows=rows_of(key),
            bound=bound,
        )

    async def _get_and_set(self, key: str, chance: random.Random) -> None:
        """The seed's own way: get, load, set. A hit is a read like any other."""
        found: list[Value] = []

        async def hit() -> Value:
            value: Value | None = await self._cache.get(key)
            if value is None:
                raise LookupError
            found.append(value)
            return value

        try:
            await self._recorder.read(key, hit, rows=rows_of(key))
        except LookupError:
            await self._cache.set(key, await self._loader(key, chance)())

    async def _change(self, item: int, *, by_token: bool) -> None:
        """Change a row, and make sure that it is seen here from now on."""
        async with self._pool.acquire(timeout=5) as connection:
            transaction = connection.transaction()
            await transaction.start()
            rows = await change_items(connection, [item])
            token = await connection.fetchval(statement("token"))
            before = time.monotonic()
            try:
                await transaction.commit()
            except LOST:
                self._commits.add(before, None, rows)
                raise
            self._commits.add(before, time.monotonic(), rows)
        if by_token:
            try:
                await self._cache.wait_for(token, timeout=3.0)
            except WaitTimeout:
                return
        else:
            try:
                await self._cache.delete(f"item:{item}", f"view:{item}")
                await self._cache.invalidate_tag(f"items:{item}")
            except RedisUnavailable:
                return
        self._recorder.confirm((row, version) for row, version, _ in rows)

    def _loader(self, key: str, chance: random.Random) -> Callable[[], Awaitable[Value | None]]:
        async def loader() -> Value | None:
            dice = chance.random()
            await asyncio.sleep(0.2 * dice if dice < 0.1 else 0)
            async with self._pool.acquire(timeout=5) as connection:
                value = await load(connection, key)
            # Between the read and its fill there is time to be overtaken, sometimes more than a lease lives.
            dice = chance.random()
            await asyncio.sleep(4.0 if dice < 0.003 else dice if dice < 0.08 else 0.03 * dice)
            return value

        return loader

    async def finish(self, write: Callable[[Record], object]) -> None:
        """Everything has settled: write down what this agent is served of every key."""
        for key in keys():
            async with asyncio.timeout(10):
                value = await self._subject.get_or_load(key, partial(self._plain, key), tags=tags_of(key))
            write(FinalRecord(key, seen_in(value, rows_of(key))))

    async def _plain(self, key: str) -> Value | None:
        async with self._pool.acquire(timeout=5) as connection:
            return await load(connection, key)


async def main(stop: asyncio.Event) -> None:
    """Read until ``stop`` is set, then write down what is cached."""
    folder, name = Path(os.environ["CHAOS_FOLDER"]), os.environ["CHAOS_NAME"]
    move_on_signal(f"{os.environ['CHAOS_SEED']} {name}")
    settings = AgentSettings.from_env(env_file=None)
    with (
        (folder / f"{name}.history").open("wb") as file,
        Commits.opened(folder / f"{name}.commits") as commits,
    ):

        def write(record: Record) -> None:
            file.write(encode(record))

        async with (
            asyncpg.create_pool(
                os.environ["DATABASE_URL"], min_size=0, max_size=6, timeout=5, command_timeout=8
            ) as pool,
            Cache(settings) as cache,
            subject(os.environ["CHAOS_SUBJECT"], cache, settings.redis_url.get_secret_value()) as judged,
        ):
            recorder = Recorder(cache, write)
            agent = Agent(cache, judged, recorder, pool, commits)
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, agent.become_calm)

            async def report() -> None:
                while True:
                    for _ in range(SAMPLES_A_REPORT):
                        await recorder.sample()
                        await asyncio.sleep(REPORT_EVERY / SAMPLES_A_REPORT)
                    file.flush()
                    _say(cache, recorder, agent)

            listener = asyncio.create_task(recorder.listen())
            await recorder.listening.wait()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(report())]
                for number in range(CONVERSATIONS):
                    chance = random.Random(f"{os.environ['CHAOS_SEED']} {name} {number}")
                    tasks.append(group.create_task(agent.converse(chance)))
                waiting = asyncio.create_task(stop.wait())
                await asyncio.wait([waiting, listener, *tasks], return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise RuntimeError("a task of the agent ended by itself")
                for task in tasks:
                    task.cancel()
            await recorder.sample()
            await agent.finish(write)
            listener.cancel()
            await asyncio.wait([listener])


def _say(cache: Cache, recorder: Recorder, agent: Agent) -> None:
    at = time.monotonic()
    staleness = cache.staleness
    fresh = at - staleness if math.isfinite(staleness) else None
    status = {
        "fresh": fresh,
        "reads": recorder.reads,
        "failures": agent.failures,
        "calm": agent.calm and not agent.changing,
    }
    sys.stdout.buffer.write(orjson.dumps(status) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    child.run(main)
