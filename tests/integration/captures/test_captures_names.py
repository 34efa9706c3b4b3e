"""No name of another object is part of a capture: types, schemas, domains and extensions may be renamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from servers import Database
from servers.outbox import changes, connected, position

SCHEMA = """
create schema app; create schema ext;
create extension citext schema ext;
create type app.plan as enum ('free', 'paid');
create domain app.tier as app.plan;
create domain app.code as app.label;
create type app.pair as (x float8, p app.plan);
create type app.span as range (subtype = float8);
create table app.accounts (
    id int, region app.plan default 'free', name ext.citext, n int default 0,
    plan app.plan default 'free', tier app.tier default 'paid', code app.code default 'c',
    pair app.pair, plans app.plan[], span app.span,
    primary key (id, region, name)
);
insert into app.accounts (id, name) values (1, 'a'), (2, 'b'), (3, 'c');
""".replace("create domain app.code", "create domain app.label as text; create domain app.code")

WATCHES = {
    "keys": "'{id,plan,tier,code}'",
    "filter": "'{id,plan,tier,code}', '{n,plan,tier,code,pair,plans,span,name}'",
}

COMMANDS = [
    ("the schema is renamed", "alter schema app rename to product"),
    ("an enum is renamed", "alter type product.plan rename to scheme"),
    ("an enum is moved", "alter type product.scheme set schema public"),
    ("a domain is renamed", "alter domain product.tier rename to level"),
    ("a domain is moved", "alter domain product.level set schema public"),
    ("a domain below a domain is renamed", "alter domain product.label rename to mark"),
    ("a composite type is renamed", "alter type product.pair rename to couple"),
    ("a range type is renamed", "alter type product.span rename to stretch"),
    ("an extension is moved", "alter extension citext set schema public"),
    ("the schema of an extension is renamed", "alter schema ext rename to extensions"),
    ("types change hands", "alter type public.scheme owner to supabase_admin"),
    ("the table is moved", "alter table product.accounts set schema public"),
    ("the table is renamed", "alter table public.accounts rename to customers"),
]

STATEMENTS = [
    "insert into {table} (id, name) values ({n}, 'x{n}'), ({n} + 1, 'y{n}')",
    "update {table} set n = n + 1 where id = {n}",
    "update {table} set n = n + 1 where id in ({n}, {n} + 1)",
    "delete from {table} where id = {n}",
    "delete from {table} where id >= {n}",
]


async def writes(connection: asyncpg.Connection, table: str, number: int) -> None:
    for statement in STATEMENTS:
        await connection.execute(statement.format(table=table, n=number))


@pytest.fixture
async def sessions(request: pytest.FixtureRequest) -> AsyncIterator[list[asyncpg.Connection]]:
    """Three superuser sessions: one does the DDL, one has cached plans, and one starts late."""
    database: Database = request.getfixturevalue(request.param)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(database.superuser_dsn)) for _ in range(3)]
        await opened[0].execute("set client_min_messages = error")
        yield opened


@pytest.mark.parametrize("watch", WATCHES)
@pytest.mark.parametrize("sessions", ["database", "plain_database"], indirect=True)
async def test_every_name_around_a_table_may_change(sessions: list[asyncpg.Connection], watch: str) -> None:
    altering, cached, late = sessions
    await altering.execute(SCHEMA)
    await altering.execute(f"select unstale.watch('app.accounts', {WATCHES[watch]})")
    table, number = "app.accounts", 100
    for _ in range(8):  # so often that plans are cached
        await writes(cached, table, number)
    for what, command in COMMANDS:
        await altering.execute(command)
        table = await altering.fetchval("select relation::text from unstale.watched")
        for session in (cached, altering, late):
            number += 10
            after = await position(altering)
            await writes(session, table, number)
            entries = await changes(altering, after)
            assert len(entries) == len(STATEMENTS), what
            for entry in entries:
                assert entry.keys is not None, what
                tuples = entry.tuples(4)
                assert tuples is not None
                assert tuples <= {(str(number + n), "free", "paid", "c") for n in (0, 1)}, what
    assert await altering.fetch("select * from unstale.check() where severity = 'error'") == []
