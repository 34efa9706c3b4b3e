"""The chaos run's writer process: every kind of transaction, with the moments its commit lies between."""

import asyncio
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from chaos.commits import Commits, Rows
from chaos.world import GROUPS, ITEMS, NOTES, some_item, statement
from unstale_worker.demo import child

LANES: Final = 4
"""Connections that make small changes."""
PAUSE: Final = 0.07
"""Mean seconds between two changes of a lane."""
HEAVY_PAUSE: Final = 1.0
"""Mean seconds between two bulk statements, truncations or changes of a table."""
LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What Postgres' death looks like."""

Connection = asyncpg.Connection | PoolConnectionProxy
Work = Callable[[asyncpg.Connection], Awaitable[Rows]]


class Undone(Exception):
    """Raised inside a transaction to roll it back."""


class Writer:
    """Commits, rolls back, waits and alters until it is told to stop."""

    def __init__(self, dsn: str, seed: int, commits: Commits) -> None:
        self._dsn, self._seed, self._commits = dsn, seed, commits
        self.done: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until ``stop`` is set."""
        lanes = [self._lane(n, self._small, PAUSE, stop) for n in range(LANES)]
        lanes += [
            self._lane(LANES, self._heavy, HEAVY_PAUSE, stop),
            self._lane(LANES + 1, self._long, HEAVY_PAUSE, stop),
        ]
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane)

    async def _lane(
        self,
        number: int,
        act: Callable[[asyncpg.Connection, random.Random, asyncio.Event], Awaitable[None]],
        pause: float,
        stop: asyncio.Event,
    ) -> None:
        chance = random.Random(f"{self._seed} writer {number}")
        connection: asyncpg.Connection | None = None
        while not stop.is_set():
            try:
                if connection is None or connection.is_closed():
                    connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=10)
                await act(connection, chance, stop)
            except LOST:
                self.done["refused"] += 1
                if connection is not None:
                    connection.terminate()
                    connection = None
            await _sleep(chance.uniform(0, 2 * pause), stop)
        if connection is not None:
            connection.terminate()

    async def _commit(self, connection: asyncpg.Connection, kind: str, work: Work) -> None:
        """One transaction; a commit whose answer was lost is in doubt until the journal is read."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            rows = await work(connection)
        except Undone:
            await transaction.rollback()
            self.done[kind] += 1
            return
        except asyncpg.LockNotAvailableError:
            await transaction.rollback()
            return
        before = time.monotonic()
        try:
            await transaction.commit()
        except LOST:
            self._commits.add(before, None, rows)
            raise
        self._commits.add(before, time.monotonic(), rows)
        self.done[kind] += 1

    # --- small ----------------------------------------------------------------------------------

    async def _small(
        self, connection: asyncpg.Connection, chance: random.Random, stop: asyncio.Event
    ) -> None:
        dice = chance.random()
        item, note, group = some_item(chance), chance.randrange(NOTES), chance.randrange(GROUPS)

        async def several(connection: asyncpg.Connection) -> Rows:
            rows = await change_items(connection, chance.sample(range(ITEMS), 4))
            return rows + await change_groups(connection, [group])

        async def touch(connection: asyncpg.Connection) -> Rows:
            await connection.execute(statement("touch_items"), [item])
            return []

        async def undone(connection: asyncpg.Connection) -> Rows:
            await change_items(connection, [item])
            raise Undone

        async def partly(connection: asyncpg.Connection) -> Rows:
            rows = await change_items(connection, [item])
            try:
                async with connection.transaction():
                    await change_items(connection, [item])
                    raise Undone
            except Undone:
                return rows

        async def written(connection: asyncpg.Connection) -> Rows:
            return await change_note(connection, note, delete=chance.random() < 0.4)

        if dice < 0.45:
            await self._commit(connection, "change", lambda c: change_items(c, [item]))
        elif dice < 0.55:
            await self._commit(connection, "fan-out", lambda c: change_groups(c, [group]))
        elif dice < 0.7:
            await self._commit(connection, "insert or delete", written)
        elif dice < 0.8:
            await self._commit(connection, "change of several", several)
        elif dice < 0.86:
            await self._commit(connection, "unwatched column", touch)
        elif dice < 0.93:
            await self._commit(connection, "rollback", undone)
        else:
            await self._commit(connection, "savepoint", partly)

    # --- heavy, and long ------------------------------------------------------------------------

    async def _heavy(
        self, connection: asyncpg.Connection, chance: random.Random, stop: asyncio.Event
    ) -> None:
        async def altered(connection: asyncpg.Connection) -> Rows:
            await connection.execute(statement("lock_timeout"), "500ms")
            await connection.execute(
                statement(chance.choice(("ddl_add", "ddl_drop", "ddl_rewrite", "ddl_rewrite_back")))
            )
            return []

        async def truncated(connection: asyncpg.Connection) -> Rows:
            await connection.execute(statement("lock_timeout"), "500ms")
            await connection.execute(statement("lock_notes"))
            rows = _rows(await connection.fetch(statement("journal_truncate")))
            await connection.execute(statement("truncate_notes"))
            return rows

        match chance.choice(("bulk", "bulk", "truncate", "ddl")):
            case "bulk":
                first = chance.randrange(ITEMS // 2)
                await self._commit(
                    connection,
                    "bulk statement",
                    lambda c: change_items(c, range(first, first + ITEMS // 2)),
                )
            case "truncate":
                await self._commit(connection, "truncate", truncated)
            case _:
                await self._commit(connection, "ddl", altered)

    async def _long(self, connection: asyncpg.Connection, chance: random.Random, stop: asyncio.Event) -> None:
        async def open_for_long(connection: asyncpg.Connection) -> Rows:
            rows = await change_note(connection, chance.randrange(NOTES), delete=False)
            await _sleep(chance.uniform(1.0, 6.0), stop)
            if chance.random() < 0.3:
                raise Undone
            return rows

        await self._commit(connection, "long writer", open_for_long)


async def change_items(connection: Connection, ids: Iterable[int]) -> Rows:
    """A new version of these items."""
    wanted = list(ids)
    await connection.execute(statement("lock_items"), wanted)
    return _rows(await connection.fetch(statement("change_items"), wanted, f"payload {time.monotonic_ns()}"))


async def change_groups(connection: asyncpg.Connection, ids: list[int]) -> Rows:
    """A new version of these groups."""
    await connection.execute(statement("lock_groups"), ids)
    return _rows(await connection.fetch(statement("change_groups"), ids))


async def change_note(connection: asyncpg.Connection, note: int, *, delete: bool) -> Rows:
    """A new version of a note, or none."""
    await connection.execute(statement("lock_note"), note)
    return _rows(await connection.fetch(statement("delete_note" if delete else "put_note"), note))


def _rows(found: list[asyncpg.Record]) -> Rows:
    return [(row, version, present) for row, version, present in found]


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def main(stop: asyncio.Event) -> None:
    """Write until ``stop`` is set, then say how often what was done."""
    with Commits.opened(Path(os.environ["CHAOS_COMMITS"])) as commits:
        writer = Writer(os.environ["DATABASE_URL"], int(os.environ["CHAOS_SEED"]), commits)
        await writer.run(stop)
    sys.stdout.buffer.write(orjson.dumps(writer.done) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    child.run(main)
