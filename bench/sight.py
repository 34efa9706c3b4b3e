"""Does `unstale why` name the right cause, and what does it cost to keep causes?

``why``: 1,000 planted causes of all kinds, in random order, under a running worker; the share that is named
right. ``cost``: bytes of the log against the same entries without reasons, where each change has an entry of
its own (the worst case) and in batches; CPU time of a writer against a capture without the operation;
CPU time of the worker that goes into reasons. ``audit``: comparisons of a correct system under load and
faults, and what `unstale audit` found of values that are wrong on purpose; ``--audit-only`` does nothing
else.
"""

import asyncio
import random
import re
import statistics
import time
from typing import Any

import asyncpg
from audited import SCHEMA as AUDITED
from audited import audit
from harness import applied, arguments, cpu_seconds, finish, leads, medians, run, servers, worker
from redis.asyncio import Redis

from unstale import Cache
from unstale.protocol.names import Names
from unstale_worker.dev_servers import Stack
from unstale_worker.leader.planning import plan_page
from unstale_worker.leader.reasons import BatchReasons
from unstale_worker.redis.script_batches import split
from unstale_worker.rules import Rules
from unstale_worker.sources import OutboxEntry, Page, WatchVersion
from unstale_worker.tracing.why import why

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.orgs"
keys = ["member:{member}:org"]
query = "select member from public.members where org = {id}"
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text not null default '');
create table public.orgs (id bigint primary key, name text not null default '');
create table public.members (org bigint, member bigint);
insert into public.profiles (id) select generate_series(1, 10000);
insert into public.orgs (id) select generate_series(1, 10000);
insert into public.members select n, n from generate_series(1, 10000) as n;
create index on public.members (org);
select unstale.watch('public.profiles', '{id}');
select unstale.watch('public.orgs', '{id}');
grant select on public.members to unstale_worker;
"""
SQL = {
    "update": "update public.profiles set name = 'b' where id = $1",
    "delete": "delete from public.profiles where id = $1",
    "insert": "insert into public.profiles (id) values (10000 + $1)",
    "fan-out": "update public.orgs set name = 'b' where id = $1",
    "annotated": "update public.profiles set name = 'c' where id = $1",
}
CALLS = ("cache.delete", "cache.set", "cache.invalidate_pattern")
UPDATES = """
do $$
begin
    for i in 1..{count} loop
        update {table} set name = '' where id = i;
        commit;
    end loop;
end
$$
"""


async def causes(running: Stack, planted: int) -> dict[str, float]:
    """Plant causes, and compare what `why` says of each key."""
    draw, redis = random.Random(11), Redis.from_url(running.redis_url)
    connections = [await asyncpg.connect(running.database_url) for _ in range(4)]
    kinds = [draw.choice([*SQL, *SQL, *CALLS]) for _ in range(planted)]
    wanted: dict[str, tuple[Any, ...]] = {}

    async def plant(number: int, kind: str, connection: asyncpg.Connection, cache: Cache) -> None:
        key = f"user:{number}:profile"
        if kind in CALLS:
            name = kind.removeprefix("cache.")
            if name == "set":
                key = f"free:{number}"
                await cache.set(key, "x", ttl=60)
            else:
                await (cache.delete(key) if name == "delete" else cache.invalidate_pattern(key))
            wanted[key] = ("pattern" if name == "invalidate_pattern" else name, None, None, None, None)
            return
        async with connection.transaction():
            note = {"number": number} if kind == "annotated" else None
            if note:
                await connection.execute(
                    "select unstale.because(jsonb_build_object('number', $1::int))", number
                )
            await connection.execute(SQL[kind], number)
            xid = await connection.fetchval("select pg_current_xact_id()::text::bigint")
        key = {"fan-out": f"member:{number}:org", "insert": f"user:{10_000 + number}:profile"}.get(kind, key)
        table = "public.orgs" if kind == "fan-out" else "public.profiles"
        operation = kind if kind in ("insert", "delete") else "update"
        wanted[key] = ("changes", table, operation, xid, note)

    async def share(first: int, cache: Cache) -> None:
        for number in range(first, planted, len(connections)):
            await plant(number + 1, kinds[number], connections[first], cache)

    try:
        with worker(running, rules=RULES) as process:
            await leads(redis, process=process)
            async with Cache.from_env(env_file=None, redis_url=running.redis_url) as cache:
                await asyncio.gather(*(share(first, cache) for first in range(len(connections))))
            last = await connections[0].fetchval("select max(xid::text::bigint) from unstale.outbox")
            await applied(redis, last, process=process)
        right, rules, seconds = 0, Rules.parse(RULES), time.perf_counter()
        for key, planned in wanted.items():
            removals = (await why(redis, Names(), rules, key, most=1)).removals
            found = removals[0] if removals else None
            right += found is not None and planned == (
                *(found.kind, found.table, found.operation, found.xid),
                found.annotation,
            )
        seconds = time.perf_counter() - seconds
        assert len(wanted) == planted
        return {
            "right_cause_share": right / planted,
            "planted": planted,
            "ms_an_answer": seconds * 1e3 / planted,
        }
    finally:
        await redis.aclose()
        for connection in connections:
            await connection.close()


async def log_bytes(running: Stack, changes: int) -> dict[str, float]:
    """Compare the log with the same messages as it kept them without reasons."""
    connection, redis = await asyncpg.connect(running.database_url), Redis.from_url(running.redis_url)
    ratios = {}
    try:
        with worker(running, rules=RULES) as process:
            await leads(redis, process=process)
            for name in ("log_bytes_ratio", "log_bytes_ratio_batches"):
                await connection.execute(SQL["update"], 5_000)  # the worker leads once this is applied
                last = await connection.fetchval("select max(xid::text::bigint) from unstale.outbox")
                await applied(redis, last, process=process)
                await redis.xtrim(Names().log, maxlen=0)
                if name == "log_bytes_ratio":
                    for number in range(5_001, 5_001 + changes):
                        await connection.execute(SQL["update"], number)
                        last = await connection.fetchval("select max(xid::text::bigint) from unstale.outbox")
                        await applied(redis, last, process=process)  # so each has an entry of its own
                else:
                    await connection.execute(UPDATES.format(table="public.profiles", count=changes))
                last = await connection.fetchval("select max(xid::text::bigint) from unstale.outbox")
                await applied(redis, last, process=process)
                entries: Any = await redis.xrange(Names().log)
                for entry, fields in entries:
                    body = fields[b"m"]
                    body = body if b'"patterns":' in body else body + b',"patterns":[]'
                    await redis.xadd("former", {"m": body}, id=entry)
                now, former = [
                    await redis.memory_usage(stream, samples=0) or 0 for stream in (Names().log, "former")
                ]
                ratios[name] = now / former
                ratios[f"{name}_changes_an_entry"] = changes / len(entries)
                await redis.delete("former")
        return ratios
    finally:
        await connection.close()
        await redis.aclose()


async def write_ratio(running: Stack, count: int, rounds: int) -> float:
    """CPU time of a backend that updates single rows: without the operation, by with it."""
    connection = await asyncpg.connect(running.database_url, command_timeout=600)
    try:
        await connection.execute("set synchronous_commit = off")
        for table in ("with_operation", "without_operation"):
            await connection.execute(f"create table public.{table} (id bigint primary key, name text)")
            await connection.execute(
                f"insert into public.{table} select n, '' from generate_series(1, {count}) as n"  # noqa: S608
            )
            await connection.execute(f"select unstale.watch('public.{table}', '{{id}}')")
        for (definition,) in await connection.fetch(
            "select pg_get_functiondef(tgfoid) from pg_trigger "
            "where tgrelid = 'public.without_operation'::regclass"
        ):
            without = re.sub(r", '[iud]'(?=[\s;)])", "", definition.replace("keys, operation)", "keys)"))
            if "tg_op" not in definition:
                assert without != definition
                await connection.execute(without)
        pid, ratios = await connection.fetchval("select pg_backend_pid()"), []
        for number in range(rounds):
            spent = {}
            order = ["public.with_operation", "public.without_operation"]
            for table in order if number % 2 else reversed(order):
                before = cpu_seconds(pid)
                await connection.execute(UPDATES.format(table=table, count=count))
                spent[table] = cpu_seconds(pid) - before
            ratios.append(spent["public.without_operation"] / spent["public.with_operation"])
        operations = await connection.fetch(
            "select distinct operation is null as without from unstale.outbox"
        )
        assert {row["without"] for row in operations} == {True, False}
        return statistics.median(ratios)
    finally:
        await connection.close()


async def reason_us() -> dict[str, float]:
    """CPU time of the worker that goes into the reasons of pages of 5,000 changes, in µs a change."""

    class Versions:
        async def watch_version(self, watch: int, version: int) -> WatchVersion:
            return WatchVersion("public", "profiles", ("id",))

    rules, figures = Rules.parse(RULES), {}
    for name, rows in (("reason_us_a_change", 1), ("reason_us_a_row_in_bulk", 500)):
        count = 5_000 // rows
        entries = [OutboxEntry(1, 1, [str(n * rows + row) for row in range(rows)]) for n in range(count)]
        page = Page("", "1:1:", "1:1:", False, None, "", "", True, 1, entries, 0.0, range(count), "u" * count)
        plan = await plan_page(page, rules, Versions())
        bodies, spent = list(split(list(plan.keys), [], most_keys=1_000)), []
        for _ in range(50):
            began = time.process_time()
            reasons = BatchReasons(page, plan, read_at="1790000000000.1", read_before="1790000000000.0")
            for body in bodies:
                reasons(body)
            spent.append(time.process_time() - began)
        figures[name] = min(spent) / 5_000 * 1e6
    return figures


async def main() -> None:
    """Measure, and print."""
    options = arguments(__doc__ or "", repeats=3, planted=1_000, comparisons=1_000_000, audit_only=False)
    planted = options.planted // 10 if options.quick else options.planted
    runs: list[dict[str, Any]] = []
    for _ in range(0 if options.audit_only else options.repeats):
        async with servers(sql=SCHEMA, fsync=False) as running:
            named = await causes(running, planted)
            cost = await log_bytes(running, 200 if options.quick else 2_000)
            ratio = await write_ratio(
                running, 500 if options.quick else 5_000, rounds=4 if options.quick else 20
            )
            runs.append({"why": named, "cost": {**cost, "write_ratio": ratio, **await reason_us()}})
    async with servers(sql=AUDITED, fsync=False) as running:
        found = await audit(running, options.comparisons // 10 if options.quick else options.comparisons)
    figures = {**(medians(runs) if runs else {}), "audit": found}
    finish("sight", figures, as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)
