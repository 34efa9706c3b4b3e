"""The demo's writer process: commit changes at a steady rate and report the time of each acknowledgement."""

import asyncio
import os
import random
import time
from typing import Final

import asyncpg

from unstale_worker.demo import child
from unstale_worker.demo.reports import REPORT_EVERY, Commit, World, WriterReport, statement
from unstale_worker.demo.zipf import Zipf
from unstale_worker.runtime.event_loop import stopped_within

MOODS: Final = ("calm", "curious", "cheerful", "tired", "proud", "worried")
PLANS: Final = ("free", "team", "business")
VOICES: Final = ("alloy", "coral", "sage", "verse")
TOPICS: Final = ("the day", "a book", "the sea", "music", "a plan", "dinner")
EVENNESS: Final = 0.6
"""Zipf exponent of changes per user, lower than that of reads: active users read more than they change."""
RATE_PER_CONNECTION: Final = 40.0
"""Changes per second that one connection can commit easily, also on a slow disk."""
MOST_CONNECTIONS: Final = 24
"""Maximum number of connections; the embedded Postgres allows 100 in total."""


class DemoWriter:
    """Changes rows over several connections, each of which owns its users and organizations.

    Therefore the changes of one row are committed one after the other, in the order of their versions.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._connections = max(4, min(MOST_CONNECTIONS, round(world.rate / RATE_PER_CONNECTION)))
        self._commits: list[Commit] = []
        self._unwatched = self._rollbacks = 0

    async def run(self, dsn: str, stop: asyncio.Event) -> None:
        """Write until ``stop`` is set."""
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report())
            writing = [group.create_task(self._write(dsn, index, stop)) for index in range(self._connections)]
            await asyncio.wait(writing)
            reporting.cancel()
        child.send(self._take_report())

    async def _write(self, dsn: str, index: int, stop: asyncio.Event) -> None:
        """Write over one connection to every n-th user and organization."""
        chance = random.Random(self._world.seed * 1000 + index)  # repeatable, not for secrets
        count = self._connections
        users = Zipf(
            [n for n in range(1, self._world.users + 1) if n % count == index], chance, exponent=EVENNESS
        )
        companies = [n for n in range(1, self._world.organizations + 1) if n % count == index]
        pause = count / self._world.rate
        connection = await asyncpg.connect(dsn)
        try:
            due = time.monotonic() + chance.random() * pause
            while not stop.is_set():
                if await stopped_within(stop, seconds=due - time.monotonic()):
                    return
                # A writer that fell behind does not catch up in a burst.
                due = max(due + pause, time.monotonic() - pause)
                await self._change(connection, chance, users, companies)
        finally:
            await connection.close()

    async def _change(
        self, connection: asyncpg.Connection, chance: random.Random, users: Zipf, companies: list[int]
    ) -> None:
        user, dice = users.draw(), chance.random()

        async def change(table: str, row: str, *arguments: object) -> None:
            self._committed(row, await connection.fetchval(statement(f"change_{table}"), *arguments))

        if dice < 0.02:
            await connection.execute(statement("see_user"), user)  # no version, so nothing to check
        elif dice < 0.70:
            await change("state", f"state:{user}", user, chance.choice(TOPICS))
        elif dice < 0.74:
            await change("profile", f"profile:{user}", user, chance.choice(MOODS))
        elif dice < 0.78:
            memory = f"likes {chance.choice(MOODS)} mornings"
            await change("memory", f"memories:{user}", user, memory, chance.randrange(3))
        elif dice < 0.86:
            await change("settings", f"settings:{user}", user, chance.choice(VOICES))
        elif dice < 0.92 and companies:
            organization = chance.choice(companies)
            await change("organization", f"organization:{organization}", organization, chance.choice(PLANS))
        elif dice < 0.96:
            await connection.execute(statement("recall_memory"), user)
            self._unwatched += 1
        else:
            transaction = connection.transaction()
            await transaction.start()
            await connection.fetchval(statement("change_profile"), user, "never committed")
            await transaction.rollback()
            self._rollbacks += 1

    def _committed(self, source: str, version: int) -> None:
        self._commits.append(Commit(source, version, time.monotonic()))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            child.send(self._take_report())

    def _take_report(self) -> WriterReport:
        report = WriterReport(tuple(self._commits), self._unwatched, self._rollbacks)
        self._commits, self._unwatched, self._rollbacks = [], 0, 0
        return report


async def main(stop: asyncio.Event) -> None:
    """Write until ``stop`` is set."""
    await DemoWriter(World.from_environment()).run(os.environ["DATABASE_URL"], stop)


if __name__ == "__main__":
    child.run(main)
