"""Captures after a restore of the whole database: the tables have other numbers, and so may their columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import Database
from servers.dumps import dump, restore
from servers.outbox import connected, tuples_of

PEOPLE = """
create table people (junk int, id int primary key, name text);
alter table people drop column junk;
insert into people values (1, 'ann'), (2, 'ben');
create table notes (id int, person int, day date) partition by list (day);
create table notes_today partition of notes default;
insert into notes values (1, 1, now()), (2, 2, now());
select unstale.watch('people', '{id}', '{name}'), unstale.watch('notes', '{person}');
"""
FINDINGS = "select subject, finding from unstale.check() where severity in ('error', 'warning')"


async def restored(database: Database, folder: Path) -> None:
    await restore(database, await dump(database, folder / "all.dump"), "--clean", "--if-exists")


async def test_they_go_on_and_say_what_they_cost(database: Database, tmp_path: Path) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(PEOPLE)
    await restored(database, tmp_path)
    writes = ("update people set name = 'x' where id = 1", "delete from notes_today where id = 2")
    async with connected(database.dsn) as connection:
        assert await tuples_of(connection, *writes) == [{("1",)}, {("2",)}]
        slower = "its captures came with a dump: each statement looks up whether they belong to its table"
        assert [tuple(row) for row in await connection.fetch(FINDINGS)] == [
            ("public.notes", slower),
            ("public.people", slower),
        ]
        assert not await connection.fetch(
            "select from unstale.watch_states((select array_agg(w.id) from unstale.watched as w)) "
            "where broken is not null"
        )
        await connection.execute(
            "select unstale.watch('people', '{id}', '{name}'), unstale.watch('notes', '{person}')"
        )
        assert not await connection.fetch(FINDINGS)
        assert await tuples_of(connection, "update people set name = 'y' where id = 2") == [{("2",)}]


@pytest.mark.parametrize(
    "change", ["alter table people add column age int", "alter table people set (fillfactor = 90)"]
)
async def test_a_column_is_not_known_by_the_number_it_had_in_another_table(
    database: Database, tmp_path: Path, change: str
) -> None:
    """Renamed, a key column goes on feeding its rule by its number. A dump does not keep the number."""
    async with connected(database.dsn) as connection:
        await connection.execute(PEOPLE)
        await connection.execute("alter table people rename column id to uid")
        assert await tuples_of(connection, "update people set name = 'x' where uid = 1") == [{("1",)}]
    await restored(database, tmp_path)
    async with connected(database.dsn) as connection:
        assert await tuples_of(connection, "update people set name = 'y' where uid = 1") == [{("1",)}]
        await connection.execute(change)
        (keys,) = await tuples_of(connection, "update people set name = 'z' where uid = 1")
        assert keys in (None, {("1",)}), "the table as a whole, or the row: never a name as an id"
