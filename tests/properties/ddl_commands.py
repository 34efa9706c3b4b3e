"""Random DDL for a watched table and its relatives, by the names that they have at the moment."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import asyncpg

Make = Callable[[asyncpg.Connection, random.Random], Awaitable[str | None]]

_numbers = itertools.count(1)

SCHEMAS = "('app', 'shop', 'other', 's1', 's2', 's3')"

TABLES = f"""
select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in {SCHEMAS} and c.relkind in ('r', 'p') order by c.oid
"""
WATCHED = """
select w.relation::text from unstale.watched as w
join pg_class as c on c.oid = w.relation where w.state = 'watched'
"""
TYPES = f"""
select format('%I.%I', n.nspname, t.typname), t.typtype::text
from pg_type as t join pg_namespace as n on n.oid = t.typnamespace
where n.nspname in {SCHEMAS} and (t.typtype in ('e', 'd') or t.typname ~ '^(pair|t[0-9])' and t.typtype = 'c'
    and exists (select from pg_class as c where c.oid = t.typrelid and c.relkind = 'c')) order by t.oid
"""
LABELS = f"""
select format('%I.%I', n.nspname, t.typname), e.enumlabel::text
from pg_enum as e join pg_type as t on t.oid = e.enumtypid join pg_namespace as n on n.oid = t.typnamespace
where n.nspname in {SCHEMAS} order by e.oid
"""
EDGES = f"""
select i.inhparent::regclass::text, i.inhrelid::regclass::text, c.relispartition
from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in {SCHEMAS} and c.relkind in ('r', 'p') order by 1, 2
"""
PARENTS = f"""
select c.oid::regclass::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
join pg_partitioned_table as p on p.partrelid = c.oid where n.nspname in {SCHEMAS} order by c.oid
"""
CAPTURES = """
select t.tgname::text, t.tgrelid::regclass::text from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid
where p.pronamespace = 'unstale'::regnamespace order by t.oid
"""


def any_value(rng: random.Random, type_name: str, kind: str, labels: list[str], parts: int) -> str:
    """Return an SQL literal for a column of this type."""
    if labels:
        return f"'{rng.choice(labels)}'"
    if type_name in ("int4", "int8", "int2", "numeric", "float8"):
        return str(rng.randint(1, 4))
    if type_name in ("text", "varchar"):
        return rng.choice(["'x'", "'y'", "'gone'", "null"])
    if kind == "c":
        return rng.choice(["null", f"'({rng.choice(['0.3', '0.30000000000000004'])}{',' * (parts - 1)})'"])
    return "null"


def new(prefix: str) -> str:
    """Return a name that nothing has."""
    return f"{prefix}{next(_numbers)}"


async def some(
    connection: asyncpg.Connection, rng: random.Random, query: str, *arguments: object
) -> list[str]:
    """Return one row of a query by chance, else an empty list."""
    rows = await connection.fetch(query, *arguments)
    return list(rng.choice(rows)) if rows else []


async def table(connection: asyncpg.Connection, rng: random.Random) -> str:
    """Return any table, most often the watched one."""
    found = await some(connection, rng, WATCHED if rng.random() < 0.6 else TABLES)
    return found[0] if found else "app.nothing"


async def column(connection: asyncpg.Connection, rng: random.Random, of: str) -> str:
    """Return one of its columns."""
    found = await some(
        connection, rng, "select quote_ident(attname) from pg_attribute where attrelid = to_regclass($1) "
        "and attnum > 0 and not attisdropped order by attnum", of
    )  # fmt: skip
    return found[0] if found else "nothing"


def altering(*templates: str) -> Make:
    """Alter a table: ``{t}`` is its name, ``{c}`` a column, ``{new}`` a name that is free."""

    async def make(connection: asyncpg.Connection, rng: random.Random) -> str:
        name = await table(connection, rng)
        bare = name.rpartition(".")[2]
        schema = rng.choice(["app", "shop", "other", "public"])
        return rng.choice(templates).format(
            t=name, c=await column(connection, rng, name), new=new("n"), bare=bare, schema=schema
        )

    return make


def naming(query: str, *templates: str) -> Make:
    """Alter what a query returns: ``{0}``, ``{1}``, …"""

    async def make(connection: asyncpg.Connection, rng: random.Random) -> str | None:
        found = await some(connection, rng, query)
        return rng.choice(templates).format(*found, new=new("t"), n=rng.randint(1, 9)) if found else None

    return make


async def attach(connection: asyncpg.Connection, rng: random.Random) -> str | None:
    """Make a table like a partitioned one, and attach it."""
    found = await some(connection, rng, PARENTS)
    if not found:
        return None
    name = f"other.{new('a')}"
    return (
        f"create table {name} (like {found[0]} including defaults); "
        f"alter table {found[0]} attach partition {name} for values in ({rng.randint(5, 99)})"
    )


COMMANDS: list[Make] = [
    altering(
        "alter table {t} add column {new} int default 7",
        "alter table {t} add column {new} float8 default random()",
    ),
    altering("alter table {t} drop column {c}", "alter table {t} drop column {c} cascade"),
    altering(
        "alter table {t} drop column {c}; alter table {t} add column {c} text default 'z'; "
        "alter table {t} rename column {c} to {new}"
    ),
    altering("alter table {t} rename column {c} to {new}", "alter view {t} rename column {c} to {new}"),
    altering("alter table {t} rename {c} to {new}; alter table {t} rename {new} to {c}"),
    altering(
        "alter table {t} alter column {c} type text",
        "alter table {t} alter column {c} type int using 1",
        "alter table {t} alter column {c} type bigint",
        "alter table {t} alter column {c} type varchar(9)",
    ),
    altering(
        "alter table {t} rename to {new}",
        "alter table {t} set schema {schema}",
        "alter index {t} rename to {new}",
    ),
    altering("alter table {t} disable trigger user", "alter table {t} disable trigger all"),
    altering(
        "alter table {t} set (fillfactor = 80)", "alter table {t} set unlogged; alter table {t} set logged"
    ),
    altering("alter table {t} owner to authenticated", "alter table {t} owner to postgres"),
    altering(
        "alter table {t} add constraint {new} unique (id, day)", "alter table {t} replica identity full"
    ),
    altering("alter table {t} drop constraint logs_pkey", "alter table {t} add primary key (id, day)"),
    altering("truncate {t}", "drop table {t}", "drop table {t} cascade"),
    altering(
        "create table {schema}.{new} (extra int) inherits ({t})", "create temp table {new} () inherits ({t})"
    ),
    altering("create table other.{new} (like {t} including all)", "create table other.{new} as table {t}"),
    naming(
        PARENTS,
        "create table other.{new} partition of {0} for values in ({n})",
        "create table other.{new} partition of {0} for values in ({n}) partition by list (id)",
        "create table other.{new} partition of {0} default",
        "create schema s{n} create table {new} partition of {0} for values in ({n})",
    ),
    attach,
    naming(
        EDGES,
        "alter table {0} detach partition {1}",
        "alter table {0} detach partition {1}; alter table {0} attach partition {1} for values in ({n})",
        "alter table {1} no inherit {0}",
        "alter table {1} no inherit {0}; alter table {1} inherit {0}",
        "drop table {1}",
        "alter table {0} detach partition {1} concurrently",
    ),
    naming(
        WATCHED,
        "create table other.{new} (like {0}) partition by list (day); "
        "alter table other.{new} attach partition {0} for values in (1, 2, 3, 4)",
        "create table other.{new} (like {0}); alter table {0} inherit other.{new}",
    ),
    naming(
        TYPES,
        "alter type {0} rename to {new}",
        "alter type {0} set schema other",
        "alter domain {0} rename to {new}",
        "alter type {0} owner to supabase_admin",
        "drop type {0} cascade",
        "alter type {0} add attribute {new} int cascade",
    ),
    naming(LABELS, "alter type {0} rename value '{1}' to '{new}'", "alter type {0} add value '{new}'"),
    naming(
        "select 1", "alter schema app rename to shop", "alter schema shop rename to app", "create schema shop"
    ),
    naming(
        CAPTURES,
        "drop trigger {0} on {1}",
        "alter trigger {0} on {1} rename to mine_{new}",
        "alter table {1} disable trigger {0}",
        "alter table {1} enable replica trigger {0}",
    ),
    naming(
        WATCHED,
        "select unstale.watch('{0}', '{{day}}')",
        "select unstale.watch('{0}', '{{id,day}}', '{{note}}')",
        "select unstale.unwatch('{0}'); select unstale.watch('{0}', '{{id}}')",
    ),
]
