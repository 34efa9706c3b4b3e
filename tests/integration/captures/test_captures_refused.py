"""What cannot be captured is refused by unstale.watch, with the reason and a code of our own."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database
from servers.outbox import connected

TABLES = """
create type pair as (a int, b int);
create domain amount as numeric;
create table good
    (id int primary key, at timestamptz, price numeric, label char(5), d amount, p pair, t text[], f float4);
create table keyless (id int, name text);
create view seen as select * from good;
create materialized view stored as select * from good;
create sequence numbers;
create unlogged table volatile (id int primary key);
create temporary table mine (id int primary key);
create table doubled (id int primary key, twice int generated always as (id * 2) virtual,
                      thrice int generated always as (id * 3) stored);
"""


@pytest.mark.parametrize(
    ("table", "keys", "columns", "code", "reason"),
    [
        ("seen", ["id"], None, "UN001", "it is a view"),
        ("stored", ["id"], None, "UN001", "it is a materialized view"),
        ("numbers", ["last_value"], None, "UN001", "it is a sequence"),
        ("volatile", ["id"], None, "UN001", "it is an unlogged table"),
        ("mine", ["id"], None, "UN001", "it is a temporary table"),
        ("pg_catalog.pg_class", ["oid"], None, "UN001", "it belongs to the system"),
        ("unstale.outbox", ["id"], None, "UN001", "it belongs to the system"),
        ("good", ["ID"], None, "UN002", 'it has no column "ID"'),
        ("good", ["id"], ["nothing"], "UN002", "it has no column nothing"),
        ("good", ["xmin"], None, "UN002", "it has no column xmin"),
        ("good", ["id", "at"], None, "UN003", "key column at has type timestamp with time zone"),
        ("good", ["price"], None, "UN003", "key column price has type numeric"),
        ("good", ["label"], None, "UN003", "key column label has type character"),
        ("good", ["d"], None, "UN003", "key column d has type public.amount"),
        ("good", ["p"], None, "UN003", "key column p has type public.pair"),
        ("good", ["t"], None, "UN003", "key column t has type text[]"),
        ("good", ["f"], None, "UN003", "key column f has type real"),
        ("doubled", ["twice"], None, "UN004", "key column twice is a virtual generated column"),
        ("doubled", ["id"], ["twice"], "UN004", "column twice is a virtual generated column"),
        ("good", [], None, "UN005", "must each name one column or more"),
        ("good", None, None, "UN005", "must each name one column or more"),
        ("good", ["id", "id"], None, "UN005", "none twice"),
        ("good", ["id", None], None, "UN005", "must each name one column or more"),
        ("good", [["id"]], None, "UN005", "must each name one column or more"),
        ("good", ["id"], [], "UN005", "must each name one column or more"),
        ("keyless", ["id"], ["name"], "UN008", "it has no primary key"),
    ],
)
async def test_refused_with_reason_and_remedy(
    database: Database, table: str, keys: list[str] | None, columns: list[str] | None, code: str, reason: str
) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(TABLES)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute("select unstale.watch($1::text::regclass, $2, $3)", table, keys, columns)
        assert refused.value.sqlstate == code
        assert reason.replace("key column twice", "column twice") in str(refused.value)
        assert refused.value.hint, "a refusal says what to do instead"
        assert await connection.fetchval("select count(*) from unstale.watched") == 0


async def test_a_stored_generated_column_is_fine_and_a_virtual_one_beside_it_too(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(TABLES)
        await connection.execute("select unstale.watch('doubled', '{id,thrice}')")
        await connection.execute("insert into doubled values (1), (2)")
        await connection.execute("update doubled set id = id + 10")
        assert (
            await connection.fetchval("select keys from unstale.outbox order by xid desc, id desc limit 1")
            is not None
        )


async def test_foreign_and_subscribed_tables(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            """
            create extension postgres_fdw;
            create server elsewhere foreign data wrapper postgres_fdw;
            create foreign table remote (id int) server elsewhere;
            create table parts (id int) partition by list (id);
            create foreign table part1 partition of parts for values in (1) server elsewhere;
            create table fed (id int primary key);
            create subscription s connection 'dbname=nowhere' publication p with (connect = false);
            """
        )
        await connection.execute(
            "insert into pg_subscription_rel (srsubid, srrelid, srsubstate) "
            "select oid, 'fed'::regclass, 'r' from pg_subscription"
        )
        try:
            for table, code in (("remote", "UN001"), ("parts", "UN001"), ("fed", "UN006")):
                with pytest.raises(asyncpg.PostgresError) as refused:
                    await connection.execute("select unstale.watch($1::text::regclass, '{id}')", table)
                assert refused.value.sqlstate == code
        finally:
            await connection.execute("alter subscription s set (slot_name = none)")
            await connection.execute("drop subscription s")


async def test_somebody_elses_table_needs_the_trigger_right(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute("create table theirs (id int primary key)")
    async with connected(database.dsn) as connection:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute("select unstale.watch('theirs', '{id}')")
        assert refused.value.sqlstate == "UN007"
        assert "grant trigger on table" in (refused.value.hint or "")


async def test_with_the_trigger_right_somebody_elses_table_is_captured(database: Database) -> None:
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            "create table theirs (id int primary key); grant trigger on theirs to postgres"
        )
    async with connected(database.dsn) as connection:
        await connection.execute("select unstale.watch('theirs', '{id}')")
        found = await connection.fetch("select severity, finding from unstale.check()")
        assert {(row["severity"], "session_replication_role" in row["finding"]) for row in found} == {
            ("warning", True)
        }
    async with connected(database.superuser_dsn) as connection:
        await connection.execute("insert into theirs values (5)")
        assert await connection.fetchval("select keys from unstale.outbox order by xid desc limit 1") == ["5"]
    async with connected(database.dsn) as connection:
        assert await connection.fetchval("select unstale.unwatch('theirs')")
        assert await connection.fetchval("select count(*) from pg_trigger where tgname like 'unstale%'") == 0
