"""CPU that a capture costs a writer, without the noise of other processes.

One session updates a table in a loop inside the server. The kernel counts its CPU in nanoseconds (Linux).
The kinds of watch take turns in short slices, so a busy machine slows all of them alike; each figure is the
median of its slices. "none" is the floor: the same updates without a watch.
"""

import statistics
from pathlib import Path

import asyncpg
from harness import arguments, finish, run, servers

SETUP = """
create table public.{name} (id int primary key, owner int, n int, text text default repeat('x', 80));
insert into public.{name} select g, g % 100, 0 from generate_series(1, {rows}) as g;
create procedure public.single_{name}(count int) language plpgsql as $$
    begin
        for i in 1..count loop
            update public.{name} set n = n + 1 where id = 1 + (i * 7919) % 20000;
            commit;
        end loop;
    end
$$
"""
WATCHES = {
    "none": None,
    "key": ("{id}", None),
    "key and filter": ("{id}", ["n"]),
    "other key": ("{owner}", None),
    "worker asleep": ("{id}", None),
}
"""Kinds of watch: key columns and column filter."""
BULK = "update public.{name} set n = n + 1"
ROWS, SINGLE = 100_000, 400


def cpu(pid: int) -> int:
    """Nanoseconds of CPU that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


async def main() -> None:
    options = arguments("CPU of captures", repeats=40)
    repeats = 4 if options.quick else options.repeats
    single: dict[str, list[float]] = {kind: [] for kind in WATCHES}
    bulk: dict[str, list[float]] = {kind: [] for kind in WATCHES}
    async with servers(sql="", fsync=False) as running:
        # As a superuser: event triggers are created, as they are on Supabase.
        connection = await asyncpg.connect(running.postgres.dsn(user="supabase_admin"))
        try:
            pid = await connection.fetchval("select pg_backend_pid()")
            tables = {kind: f"t{number}" for number, kind in enumerate(WATCHES)}
            for kind, name in tables.items():
                for command in SETUP.format(name=name, rows=ROWS).split(";\n", 2):
                    await connection.execute(command)
                if (watch := WATCHES[kind]) is not None:
                    await connection.execute(
                        "select unstale.watch($1::text::regclass, $2::text::text[], $3)", name, *watch
                    )
            for number in range(repeats):
                for kind, name in tables.items():
                    until = 10_000_000_000 if kind == "worker asleep" else 1
                    await connection.execute(f"select setval('unstale.notify_wanted', {until})")
                    began = cpu(pid)
                    await connection.execute(f"call public.single_{name}({SINGLE})")
                    single[kind].append((cpu(pid) - began) / 1e3 / SINGLE)
                    if number % 4 == 0:
                        began = cpu(pid)
                        await connection.execute(BULK.format(name=name), timeout=120)
                        bulk[kind].append((cpu(pid) - began) / 1e6)
                        await connection.execute("truncate unstale.outbox")
                        await connection.execute(f"vacuum public.{name}", timeout=120)
        finally:
            await connection.close()
    figures = {
        "single_row_us": {kind: round(statistics.median(found), 1) for kind, found in single.items()},
        "bulk_100000_ms": {kind: round(statistics.median(found), 1) for kind, found in bulk.items()},
    }
    finish("capture_cpu", figures, as_json=options.json, repeats=repeats)


if __name__ == "__main__":
    run(main)
