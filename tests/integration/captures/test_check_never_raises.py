"""unstale.check() and unstale.watch_states() answer whatever became of the tables and of unstale itself."""

from __future__ import annotations

import pytest

from servers import Database
from workers import connected

SCHEMA = """
create schema shop;
create type shop.kind as enum ('a', 'b');
create table shop.items (id bigint, kind shop.kind, name text, primary key (id)) partition by range (id);
create table shop.items_1 partition of shop.items for values from (0) to (1000);
select unstale.watch('shop.items', '{id,kind}', '{name}');
"""
EVENTS = {
    "nothing": "select 1",
    "a table dropped": "drop table shop.items",
    "a schema dropped": "drop schema shop cascade",
    "a key column's type dropped": "drop type shop.kind cascade",
    "the primary key dropped": "alter table shop.items drop constraint items_pkey",
    "a filter column dropped": "alter table shop.items drop column name",
    "renamed to a name that needs quotes": """alter table shop.items rename to "It's ""here"" %I" """,
    "a schema renamed": "alter schema shop rename to store",
    "the owner may not use the schema": "alter schema shop owner to supabase_admin;"
    "revoke usage on schema shop from postgres",
    "a sequence in its place": "drop table shop.items; create sequence shop.items",
    "a temporary table in its place": "drop table shop.items; create temporary table items (id int)",
    "a partition dropped": "drop table shop.items_1",
    "a temporary child": "create table shop.plain (id int); select unstale.watch('shop.plain', '{id}');"
    "create temporary table child () inherits (shop.plain)",
    "captures dropped": "drop function unstale.capture_1_insert cascade;"
    "drop function unstale.capture_1_delete cascade",
    "a capture with arguments": "create function unstale.capture_1_insert(x int) "
    "returns int language sql as 'select 1'",
    "rows of unstale's own deleted": "delete from unstale.captured; delete from unstale.versions",
    "columns of the watch that never were": "update unstale.watched set key_columns = '{nothing}',"
    "key_numbers = '{99}'",
    "no bodies known": "update unstale.watched set bodies = null",
    "a relation that never was": "update unstale.watched set relation = 4294967295::oid::regclass",
    "a watch without columns": "update unstale.watched set key_columns = '{}', key_numbers = '{}'",
    "a system table": "update unstale.watched set relation = 'pg_class'::regclass",
    "a view": "create view shop.seen as select 1 as id;"
    "update unstale.watched set relation = 'shop.seen'::regclass",
    "describe is gone": "drop function unstale.describe",
}


@pytest.mark.parametrize("followed", [True, False], ids=["followed", "plain"])
@pytest.mark.parametrize("event", EVENTS)
async def test_whatever_happened_there_is_an_answer(
    database: Database, plain_database: Database, event: str, followed: bool
) -> None:
    there = database if followed else plain_database
    async with (
        connected(there.dsn) as owner,
        connected(there.superuser_dsn) as admin,
        connected(there.worker_dsn) as worker,
    ):
        await owner.execute(SCHEMA)
        await admin.execute(EVENTS[event])
        for described in ("{1}", "{}"):
            states = await worker.fetch(
                "select watch from unstale.watch_states($1::text::integer[])", described
            )
            assert 1 in [state["watch"] for state in states]
        await worker.fetch("select * from unstale.check()")
