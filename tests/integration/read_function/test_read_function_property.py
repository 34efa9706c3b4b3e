"""Whatever transactions do and wherever a reader stops, nothing is lost; only unfinished xids come again."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import AsyncExitStack

import asyncpg
import pytest

from servers import Database
from servers.outbox import Batch, connected, position, read

WRITERS = 4
STEPS = 120


class Writer:
    """One connection that opens, fills, and ends transactions; knows what it committed."""

    def __init__(self, connection: asyncpg.Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.serial = 0
        self.open = False
        self.pending: list[str] = []
        self.committed: list[str] = []

    async def step(self, chance: random.Random) -> None:
        if not self.open:
            await self.connection.execute("begin")
            self.open, self.pending = True, []
            if chance.random() < 0.5:
                return
        match chance.choices(["write", "savepoint", "commit", "rollback", "nothing"], [5, 2, 4, 1, 1])[0]:
            case "write":
                await self.write(chance.randint(1, 6))
            case "savepoint":
                kept = len(self.pending)
                await self.connection.execute("savepoint s")
                await self.write(chance.randint(1, 3))
                if chance.random() < 0.5:
                    await self.connection.execute("rollback to savepoint s")
                    del self.pending[kept:]
                else:
                    await self.connection.execute("release savepoint s")
            case "commit":
                await self.finish("commit")
            case "rollback":
                await self.finish("rollback")
            case "nothing":
                # A transaction with an xid and without entries.
                await self.connection.execute("select pg_current_xact_id()")

    async def write(self, entries: int) -> None:
        for _ in range(entries):
            self.serial += 1
            key = f"{self.number}:{self.serial}"
            await self.connection.execute(
                "insert into unstale.outbox (watch, version, keys) values (1, 1, $1)", [key]
            )
            self.pending.append(key)

    async def finish(self, how: str) -> None:
        if self.open:
            await self.connection.execute(how)
            if how == "commit":
                self.committed += self.pending
            self.open, self.pending = False, []


class Reader:
    """Reads in pages of random size; now and then crashes and goes on from the position it stored last."""

    def __init__(self, connection: asyncpg.Connection, start: str) -> None:
        self.connection = connection
        self.stored = start
        self.applied: Counter[str] = Counter()
        self.page: Batch | None = None

    async def step(self, chance: random.Random) -> None:
        before = self.page
        batch = await read(
            self.connection,
            self.stored,
            upto=before.snapshot if before else None,
            cursor=(before.last_xid or 0, before.last_id or 0) if before else None,
            max_entries=chance.choice([1, 2, 3, 5, 1000]),
            max_elements=chance.choice([1, 2, 4, 1000]),
        )
        assert batch.covered
        self.applied.update(key or "" for entry in batch.entries for key in entry.keys or [])
        if not batch.more or chance.random() < 0.2:
            # The batch is done, or the reader dies here: this position is all that is left.
            self.stored, self.page = batch.position, None
        else:
            self.page = batch


@pytest.mark.parametrize("seed", range(12))
async def test_nothing_is_lost(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        writers = [
            Writer(await stack.enter_async_context(connected(database.dsn)), number)
            for number in range(WRITERS)
        ]
        connection = await stack.enter_async_context(connected(database.worker_dsn))
        reader = Reader(connection, await position(connection))
        for _ in range(STEPS):
            actors: list[Writer | Reader] = [*writers, reader]
            await chance.choice(actors).step(chance)
        for writer in writers:
            await writer.finish("commit")
        while True:
            batch = await read(connection, reader.stored)
            reader.page = None
            reader.applied.update(key or "" for entry in batch.entries for key in entry.keys or [])
            reader.stored = batch.position
            if not batch.entries:
                break
        committed = {key for writer in writers for key in writer.committed}
        assert set(reader.applied) == committed, f"seed {seed}"
        # A reader that dies in the middle of a transaction's entries begins that transaction again.
        assert max(reader.applied.values(), default=0) <= 40


@pytest.mark.parametrize("seed", range(6))
async def test_complete_batches_deliver_exactly_once(database: Database, seed: int) -> None:
    """A reader that dies only between batches gets every entry once."""
    chance = random.Random(1000 + seed)
    async with AsyncExitStack() as stack:
        writers = [
            Writer(await stack.enter_async_context(connected(database.dsn)), number)
            for number in range(WRITERS)
        ]
        connection = await stack.enter_async_context(connected(database.worker_dsn))
        stored = await position(connection)
        applied: Counter[str] = Counter()
        for step in range(STEPS):
            if step % 6 and step != STEPS - 1:
                await chance.choice(writers).step(chance)
                continue
            if step == STEPS - 1:
                for writer in writers:
                    await writer.finish("commit")
            batch = await read(connection, stored, max_entries=chance.randint(1, 4))
            applied.update(key or "" for entry in batch.entries for key in entry.keys or [])
            while batch.more:
                await chance.choice(writers).step(chance)
                batch = await read(
                    connection,
                    stored,
                    upto=batch.snapshot,
                    cursor=(batch.last_xid or 0, batch.last_id or 0),
                    max_entries=chance.randint(1, 4),
                )
                applied.update(key or "" for entry in batch.entries for key in entry.keys or [])
            stored = batch.position
        for writer in writers:
            await writer.finish("commit")
        final = await read(connection, stored)
        applied.update(key or "" for entry in final.entries for key in entry.keys or [])
        committed = {key for writer in writers for key in writer.committed}
        assert set(applied) == committed, f"seed {seed}"
        assert set(applied.values()) <= {1}, f"seed {seed}"
