"""Shared by the tests of the SQL side: connections, and the outbox as plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from servers import eventually


class Entry(NamedTuple):
    """One entry of a batch; `tuples` is None for "the whole table", else the set of its key tuples."""

    watch: int
    version: int
    keys: list[str | None] | None

    def tuples(self, width: int = 1) -> set[tuple[str | None, ...]] | None:
        """Return the key tuples, `width` columns each."""
        if self.keys is None:
            return None
        return {tuple(self.keys[i : i + width]) for i in range(0, len(self.keys), width)}


@dataclass(frozen=True, slots=True)
class Batch:
    """A row that ``unstale.read()`` returned."""

    database: str
    snapshot: str
    position: str
    more: bool
    last_xid: int | None
    last_id: int | None
    insert_lsn: str
    flushed_lsn: str
    covered: bool
    current_xmax: int
    entries: list[Entry]


READ = """
select (b).database, (b).snapshot::text, (b).position::text, (b).more,
    (b).last_xid::text::bigint, (b).last_id, (b).insert_lsn::text,
    (b).flushed_lsn::text, (b).covered, (b).current_xmax::text::bigint, (b).entries
from (
    select unstale.read(
        $1::text::pg_snapshot, $2::text::pg_snapshot, $3::text::xid8, $4, $5, $6
    ) as b offset 0
) as read
"""


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the block; roll an open transaction back."""
    connection: asyncpg.Connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def read(
    connection: asyncpg.Connection,
    after: str | None,
    *,
    upto: str | None = None,
    cursor: tuple[int, int] | None = None,
    max_entries: int = 5000,
    max_elements: int = 100_000,
) -> Batch:
    """Read one page."""
    row = await connection.fetchrow(
        READ,
        after,
        upto,
        str(cursor[0]) if cursor else None,
        cursor[1] if cursor else None,
        max_entries,
        max_elements,
    )
    assert row is not None
    return Batch(
        database=row[0],
        snapshot=row[1],
        position=row[2],
        more=row[3],
        last_xid=row[4],
        last_id=row[5],
        insert_lsn=row[6],
        flushed_lsn=row[7],
        covered=row[8],
        current_xmax=row[9],
        entries=[Entry(*entry) for entry in row[10]],
    )


async def may_tell_again(connection: asyncpg.Connection) -> None:
    """Wait until the next commit may tell of its changes: 100 ms after the last, by its clock."""
    await eventually(
        lambda: connection.fetchval(
            "select extract(epoch from clock_timestamp()) * 1000 > last_value + 100 from unstale.wakeups_told"
        ),
        message="100 ms have passed",
    )


async def position(connection: asyncpg.Connection) -> str:
    """Return a position that contains every commit so far."""
    return (await read(connection, None)).position


async def changes(connection: asyncpg.Connection, after: str) -> list[Entry]:
    """Return the entries written after a position."""
    batch = await read(connection, after)
    assert batch.covered
    assert not batch.more
    return batch.entries


async def tuples_of(
    connection: asyncpg.Connection, *statements: str, width: int = 1
) -> list[set[tuple[str | None, ...]] | None]:
    """Run statements, and return the keys of each entry they wrote, in order."""
    after = await position(connection)
    for statement in statements:
        await connection.execute(statement)
    return [entry.tuples(width) for entry in await changes(connection, after)]
