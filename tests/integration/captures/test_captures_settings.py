"""A column filter compares values, whatever the writer's session says about their text."""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import pytest

from servers import Database
from servers.outbox import connected, tuples_of

SETTINGS = {
    "extra_float_digits": "0",
    "datestyle": "'sql, dmy'",
    "intervalstyle": "'sql_standard'",
    "bytea_output": "'escape'",
    "timezone": "'Pacific/Apia'",
    "lc_monetary": "'C'",
    "xmlbinary": "'hex'",
    "xmloption": "'document'",
    "client_encoding": "'latin1'",
    "quote_all_identifiers": "on",
}

SEVENTEENTH = ("0.3", "0.30000000000000004")

CHANGES = {
    "float8": SEVENTEENTH,
    "float4": ("'1.0000001'::float4", "'1.0000002'::float4"),
    "float8[]": tuple(f"array[{value}::float8]" for value in SEVENTEENTH),
    "floatrange": tuple(f"floatrange(0, {value})" for value in SEVENTEENTH),
    "floatmultirange": tuple(f"floatmultirange(floatrange(0, {value}))" for value in SEVENTEENTH),
    "pair": tuple(f"row({value}, 'a')::pair" for value in SEVENTEENTH),
    "pair[]": tuple(f"array[row({value}, 'a')::pair]" for value in SEVENTEENTH),
    "measures": tuple(f"array[{value}::float8]" for value in SEVENTEENTH),
    "point": tuple(f"point({value}, 0)" for value in SEVENTEENTH),
    "box": tuple(f"box(point(0, 0), point(1, {value}))" for value in SEVENTEENTH),
    "jsonb": ("'[1.0]'", "'[1.00]'"),
    "money": ("1.01::money", "1.02::money"),
    "interval[]": ("array['1 day'::interval]", "array['24 hours'::interval]"),
    "timestamptz[]": ("array['2026-01-01 00:00:00.000001Z'::timestamptz]",
                      "array['2026-01-01 00:00:00.000002Z'::timestamptz]"),
    "numeric": ("1.0", "1.00"),
    "text": ("chr(8364)", "chr(8365)"),
    "bytea": ("'\\x00'", "'\\x0000'"),
    "name": ("'a'", "'b'"),
    "bit(3)": ("b'101'", "b'100'"),
    "inet": ("'10.0.0.1/24'", "'10.0.0.1/25'"),
    "tsrange": ("tsrange('2026-01-01', '2026-01-02')", "tsrange('2026-01-01', '2026-01-03')"),
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_change_is_seen_under_every_setting(database: Database, rows: int) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(
            """
            create type floatrange as range (subtype = float8, subtype_diff = float8mi);
            create type pair as (x float8, label text);
            create domain measures as float8[];
            """
        )
        columns = [f"c{number}" for number in range(len(CHANGES))]
        await connection.execute(
            "create table everything (id int primary key, {})".format(
                ", ".join(f"{name} {kind}" for name, kind in zip(columns, CHANGES, strict=True))
            )
        )
        before = ", ".join(pair[0] for pair in CHANGES.values())
        await connection.execute(
            f"insert into everything select n, {before} from generate_series(1, {rows}) as n"
        )
        await connection.execute("select unstale.watch('everything', '{id}', $1)", columns)
        for name, value in SETTINGS.items():
            await connection.execute(f"set {name} = {value}")
        wanted = {(str(number),) for number in range(1, rows + 1)}
        for name, (kind, (old, new)) in zip(columns, CHANGES.items(), strict=True):
            found = await tuples_of(
                connection,
                f"update everything set {name} = {old}",
                f"update everything set {name} = {new}",
                f"update everything set {name} = {new}",
                f"update everything set {name} = null",
            )
            assert found == [wanted, wanted], kind


async def test_a_primary_key_of_any_type_tells_rows_apart(database: Database) -> None:
    async with connected(database.dsn) as connection:
        kinds = {
            "float8": SEVENTEENTH,
            "varchar(3)": ("'a'", "'A'"),
            "char(3)": ("'a'", "'b'"),
            "numeric": ("1.0", "2.0"),
            "date": ("'2026-01-01'", "'2026-01-02'"),
            "int[]": ("'{1}'", "'{2}'"),
            "inet": ("'10.0.0.1'", "'10.0.0.2'"),
            "boolean": ("true", "false"),
        }
        for number, (kind, (one, two)) in enumerate(kinds.items()):
            await connection.execute(f"create table t{number} (a {kind}, b int, n int, primary key (a, b))")
            await connection.execute(
                f"insert into t{number} values ({one}, 1, 0), ({two}, 1, 0), ({two}, 2, 0)"
            )
            await connection.execute(f"select unstale.watch('t{number}', '{{b}}', '{{n}}')")
            await connection.execute("set extra_float_digits = 0")
            assert await tuples_of(
                connection,
                f"update t{number} set n = n",
                f"update t{number} set n = 5 where b = 2",
                f"update t{number} set n = b",
                f"update t{number} set b = b + 5",
            ) == [{("2",)}, {("1",), ("2",)}, {("1",), ("2",), ("6",), ("7",)}], kind


async def test_a_primary_key_that_changes_its_spelling_only(database: Database) -> None:
    """1.0 and 1.00 are one primary key, and a reader sees the difference."""
    async with connected(database.dsn) as connection:
        await connection.execute("create table prices (amount numeric primary key, n int)")
        await connection.execute("insert into prices values (1.0, 1), (2.0, 2)")
        await connection.execute("select unstale.watch('prices', '{n}', '{n}')")
        assert await tuples_of(
            connection,
            "update prices set amount = 1.00 where n = 1",
            "update prices set amount = amount * 1.00",
        ) == [{("1",)}, {("1",), ("2",)}]
