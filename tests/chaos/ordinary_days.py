"""An ordinary day of a database: a table is swapped, a dump restored in place, partitions are built again."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from chaos.commits import Commits, Rows
from chaos.stage import MAX_SILENCE, Stage
from chaos.world import GROUPS, ITEMS, NOTES, RULES, statement, watch, wider_rules
from chaos.writer import LOST
from unstale_worker.dev_servers.migrations import migrations_folder

LEAVES: Final = (
    ("notes_low", "notes_low_first", 0, 10),
    ("notes_low", "notes_low_second", 10, 20),
    ("notes_high", "notes_high_first", 20, 30),
    ("notes_high", "notes_high_second", 30, 40),
)
"""Parent, leaf, and its range of ids."""
ATTEMPTS: Final = 40
"""Writers hold locks, and a deadlock ends one of the two."""
MEETING_SECONDS: Final = 30.0
"""So long each session waits for the other, before it commits."""

REFUSAL_SECONDS: Final = 60.0
WRONG_CONFIGURATION: Final = 2
"""The exit code of a process that may not run like this."""

Work = Callable[[asyncpg.Connection], Awaitable[Rows]]


async def swap_table(stage: Stage, chance: random.Random) -> None:
    """A table is swapped for a copy of itself; it is watched again in the same transaction, or later."""
    at_once = chance.random() < 0.5

    async def swapped(connection: asyncpg.Connection) -> Rows:
        await connection.execute(statement("swap_items"))
        if at_once:
            await watch(connection, "items", stage.rules)
        return []

    async def watched(connection: asyncpg.Connection) -> Rows:
        await watch(connection, "items", stage.rules)
        return []

    began = time.monotonic()
    await _transaction(stage, swapped)
    if not at_once:
        await asyncio.sleep(chance.uniform(0.5, 5))
        await _transaction(stage, watched)
        # Until the table is watched again nothing is captured: the worker says so, and drops its keys.
        ended = time.monotonic()
        stage.uncaptured.append((began, ended, "item:"))
        stage.unpromised.append((began, ended + MAX_SILENCE))


async def restore_in_place(stage: Stage, chance: random.Random) -> None:
    """A dump is restored over the database: rows and outbox are those of the dump, the server goes on."""
    migrations = [path.read_text() for path in sorted(migrations_folder().glob("*.sql"))]
    items = chance.sample(range(ITEMS), ITEMS // 3)
    groups = chance.sample(range(GROUPS), GROUPS // 3)
    notes = chance.sample(range(NOTES), NOTES // 3)

    async def restored(connection: asyncpg.Connection) -> Rows:
        await connection.execute(statement("lock_everything"))
        await connection.execute(statement("drop_unstale"))
        rows: Rows = []
        for table, ids in (("items", items), ("groups", groups), ("notes", notes)):
            for number in ids:  # nothing captures these
                rows += _rows(await connection.fetch(statement(f"replace_{table}"), number))
        for sql in migrations:
            await connection.execute(sql)
        for table in ("items", "groups", "notes"):
            await watch(connection, table, stage.rules)
        return rows

    async with stage.postgres.event_triggers_allowed():
        await _transaction(stage, restored)


async def build_partitions(stage: Stage, chance: random.Random) -> None:
    """Two sessions build a leaf below different parents at once, and rows are written straight into them."""
    pair = chance.choice(LEAVES[:2]), chance.choice(LEAVES[2:])
    met = asyncio.Barrier(2)

    def built(leaf: tuple[str, str, int, int]) -> Work:
        async def work(connection: asyncpg.Connection) -> Rows:
            await connection.execute(await connection.fetchval(statement("new_leaf"), *leaf))
            try:
                async with asyncio.timeout(MEETING_SECONDS):
                    await met.wait()
            except (TimeoutError, asyncio.BrokenBarrierError):
                await met.abort()  # the other one was refused a lock: begin again together
                await met.reset()
                raise asyncpg.LockNotAvailableError from None
            return []

        return work

    def written(leaf: tuple[str, str, int, int]) -> Work:
        async def work(connection: asyncpg.Connection) -> Rows:
            number = chance.randrange(leaf[2], leaf[3])
            await connection.execute(statement("lock_note"), number)
            return _rows(
                await connection.fetch(await connection.fetchval(statement("put_leaf"), leaf[1], number))
            )

        return work

    await asyncio.gather(*(_transaction(stage, built(leaf)) for leaf in pair))
    for leaf in pair:
        await _transaction(stage, written(leaf))


async def deploy_rules(stage: Stage, chance: random.Random) -> None:
    """Other rules come into force step by step: meanwhile database, workers and agents differ."""
    wider = stage.rules.read_text() == RULES.read_text()
    text = wider_rules() if wider else RULES.read_text()
    following = stage.folder / "following.toml"
    following.write_text(text)

    async def watched(connection: asyncpg.Connection) -> Rows:
        for table in ("items", "groups"):
            await watch(connection, table, following)
        return []

    async def pushed() -> None:
        await _transaction(stage, watched)

    async def restarted() -> None:
        stage.rules.write_text(text)
        for slot in (*stage.workers, *stage.refreshers):
            await slot.process.finish()
            await asyncio.sleep(chance.uniform(0, 1.5))
            await slot.process.start()
        for slot in stage.workers:
            await slot.process.ready()  # it has read the rules

    steps = [pushed, restarted]
    if not wider and chance.random() < 0.5:  # captures that write too much do no harm
        steps.reverse()
    for step in steps:
        await step()
        await asyncio.sleep(chance.uniform(0, 2))


async def start_second_namespace(stage: Stage, chance: random.Random) -> None:
    """A worker of another namespace, with the same keys, is started on the same Redis: it is refused."""
    await stage.recovered()  # while Redis is empty, any namespace may have it
    with (stage.folder / "stranger.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "unstale_worker.cli.commands", "worker",
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            env={**stage.workers[0].process.variables("stranger"), "UNSTALE_NAMESPACE": "other"},
        )  # fmt: skip
    try:
        async with asyncio.timeout(REFUSAL_SECONDS):
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert code == WRONG_CONFIGURATION, f"a second namespace on one Redis ended with {code}, see stranger.log"


async def _transaction(stage: Stage, work: Work) -> None:
    """Commit, again after a lock that could not be had, and note the rows down."""
    for attempt in range(ATTEMPTS):
        try:
            async with _connected(stage) as connection:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(statement("lock_timeout"), "8s")  # longer than a long writer
                rows = await work(connection)
                before = time.monotonic()
                await transaction.commit()
                with Commits.opened(stage.folder / "ordinary-days.commits") as commits:
                    commits.add(before, time.monotonic(), rows)
                return
        except LOST:  # a lock that could not be had, or the server, which may be killed at the same time
            if attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(random.uniform(0, 0.2))


@asynccontextmanager
async def _connected(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stage.postgres.dsn())
    try:
        yield connection
    finally:
        await connection.close()


def _rows(found: list[asyncpg.Record]) -> Rows:
    return [(row, version, present) for row, version, present in found]
