"""What watches add to DDL that concerns none of them, and to a partition among many.

    python bench/ddl.py --json

`temp_table` is `create temp table` without the event triggers, and with them and 0 and 60 watched tables.
`partition` is one more partition of a table with 10 and with 2,000 of them, watched and not. Postgres itself
takes longer among many partitions, so `added_ms` is what the watch adds, and `ratio` compares that.

Each figure is the median CPU time of the server process, which another process on the machine hardly changes.
`rows` are the rows of catalogs and of unstale's tables that the command read, by Postgres' own statistics.
"""

import statistics
from pathlib import Path
from typing import Any

import asyncpg
from harness import arguments, finish, run

from unstale_worker.dev_servers import stack

WATCHES, FEW, MANY, ROUNDS = 60, 10, 2_000, 4
SETTINGS: dict[str, str | int] = {"fsync": "off", "max_locks_per_transaction": 2_048}
ROWS = """
select coalesce(sum(seq_tup_read), 0) + coalesce(sum(idx_tup_fetch), 0)
from pg_stat_xact_all_tables where schemaname in ('pg_catalog', 'unstale')
"""
TEMP_TABLE = "create temp table scratch (id int)"
PARTITION = "create table public.{name}_more partition of public.{name} for values in (0)"


def cpu(pid: int) -> int:
    """Nanoseconds of CPU that a process has used (Linux)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


async def main() -> None:
    options = arguments("Cost of watches for DDL", repeats=40)
    repeats = 8 if options.quick else options.repeats
    async with stack(settings=SETTINGS) as running:
        # As a superuser: event triggers are created, as they are on Supabase.
        connection = await asyncpg.connect(running.postgres.superuser_dsn)
        try:
            figures = {
                "temp_table": await temp_table(connection, repeats),
                "partition": await partition(connection, repeats),
            }
        finally:
            await connection.close()
    finish("ddl", figures, as_json=options.json, repeats=repeats)


async def temp_table(connection: asyncpg.Connection, repeats: int) -> dict[str, Any]:
    """The command without event triggers, and with them beside tables that are watched or not."""
    for number in range(WATCHES):
        await connection.execute(f"create table public.some_{number} (id int primary key)")
    found: dict[str, list[tuple[float, int]]] = {"no event trigger": [], "0": [], str(WATCHES): []}
    for _ in range(ROUNDS):
        for kind, measurements in found.items():
            enabled = "disable" if kind == "no event trigger" else "enable always"
            for name in ("unstale_ddl", "unstale_drop"):
                await connection.execute(f"alter event trigger {name} {enabled}")
            for number in range(WATCHES):
                call = (
                    "watch($1::text::regclass, '{id}')"
                    if kind == str(WATCHES)
                    else "unwatch($1::text::regclass)"
                )
                await connection.execute(f"select unstale.{call}", f"some_{number}")
            measurements += await measured(connection, TEMP_TABLE, repeats // ROUNDS)
    ms, rows = medians_of(found)
    return {"ratio": round(ms[str(WATCHES)] / ms["0"], 3), "ms": ms, "rows": rows}


async def partition(connection: asyncpg.Connection, repeats: int) -> dict[str, Any]:
    """One more partition, among few and among many, with a watch and without."""
    ms: dict[str, float] = {}
    added_ms: dict[str, float] = {}
    added_rows: dict[str, int] = {}
    for count in (FEW, MANY):
        name = f"parted_{count}"
        await connection.execute(
            f"create table public.{name} (id int, place int, primary key (id, place)) "
            "partition by list (place)"
        )
        for first in range(1, count + 1, 500):
            await connection.execute(
                "".join(
                    f"create table public.{name}_{n} partition of public.{name} for values in ({n});"
                    for n in range(first, min(first + 500, count + 1))
                ),
                timeout=600,
            )
        command = PARTITION.format(name=name)
        found: dict[str, list[tuple[float, int]]] = {
            "unwatched": await measured(connection, command, repeats)
        }
        await connection.execute(
            "select unstale.watch($1::text::regclass, '{id}')", f"public.{name}", timeout=600
        )
        found["watched"] = await measured(connection, command, repeats)
        took, rows = medians_of(found)
        ms |= {f"{count} {kind}": value for kind, value in took.items()}
        added_ms[str(count)] = round(took["watched"] - took["unwatched"], 3)
        added_rows[str(count)] = rows["watched"] - rows["unwatched"]
    ratio = round(added_ms[str(MANY)] / added_ms[str(FEW)], 3)
    return {"ratio": ratio, "ms": ms, "added_ms": added_ms, "added_rows": added_rows}


async def measured(connection: asyncpg.Connection, command: str, repeats: int) -> list[tuple[float, int]]:
    """Milliseconds of CPU of a command that is rolled back, and the rows that it read; of each repeat."""
    pid = await connection.fetchval("select pg_backend_pid()")
    found: list[tuple[float, int]] = []
    for _ in range(repeats + 3):  # the first ones fill the session's caches
        await connection.execute("begin")
        at_first, before = int(await connection.fetchval(ROWS)), int(await connection.fetchval(ROWS))
        began = cpu(pid)
        await connection.execute(command, timeout=60)
        took = (cpu(pid) - began) / 1e6
        # Without what the question itself reads.
        rows = int(await connection.fetchval(ROWS)) - before - (before - at_first)
        await connection.execute("rollback")
        found.append((took, rows))
    return found[3:]


def medians_of(found: dict[str, list[tuple[float, int]]]) -> tuple[dict[str, float], dict[str, int]]:
    """The medians of the milliseconds and of the rows of each kind."""
    return (
        {kind: round(statistics.median(ms for ms, _ in several), 3) for kind, several in found.items()},
        {kind: round(statistics.median(rows for _, rows in several)) for kind, several in found.items()},
    )


if __name__ == "__main__":
    run(main)
