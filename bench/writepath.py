"""What a watch costs the writers: pgbench with and without it, fsync on, worker attached.

    python bench/writepath.py --json

Three loads on pgbench's accounts: its TPC-B-like transaction and single updates by key (8 writers each), and
one bulk update of 100,000 rows (one writer). A pair shares the machine's mood, so each figure is the median
of the pairs' ratios; which half of a pair comes first alternates.

Throughput suffers from all that shares the cores: writers, pgbench, Redis, the worker. `cpu_ratio` is what a
database pays whose worker runs elsewhere: user and system time of all Postgres processes for a transaction,
with the sessions that read for the worker, against the same without the watch.
"""

import argparse
import asyncio
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import asyncpg
import redis.asyncio as redis_library
from harness import applied, arguments, finish, run, server_cpu_seconds, servers, worker

from unstale_worker.dev_servers import Stack

SCALE = 10
WRITERS = 8
BULK_ROWS = 100_000

TABLE = "public.pgbench_accounts"

RULES = f"""
[[watch]]
table = "{TABLE}"
keys = ["account:{{aid}}"]
"""

SINGLE_UPDATE = """\\set aid random(1, 100000 * :scale)
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
"""
BULK_UPDATE = "update pgbench_accounts set abalance = abalance + 1 where aid <= $1"

Measure = Callable[[], Awaitable[tuple[float, float]]]
"""A load's figure, and for how many transactions it is."""


async def main() -> None:
    """Measure, and print."""
    options = arguments("Cost of a watch for writers", repeats=5, seconds=10)
    seconds = 1 if options.quick else options.seconds
    async with servers(sql="") as running:
        pgbench(running, "-i", "-q", "-s", str(SCALE))
        connection = await asyncpg.connect(running.database_url)
        redis = redis_library.Redis.from_url(running.redis_url)
        try:
            await prepare(connection, watched=True)  # a worker whose table nobody watches ends at once
            with (
                worker(running, rules=RULES) as process,
                tempfile.TemporaryDirectory(prefix="unstale-bench-") as folder,
            ):
                await attached(connection)
                script = Path(folder) / "update.sql"
                script.write_text(SINGLE_UPDATE)

                async def read_to_end() -> None:
                    """Wait until the worker has read what was captured."""
                    last = await connection.fetchval(
                        "select max(o.xid::text::bigint) from unstale.outbox as o"
                    )
                    if last is not None:
                        await applied(redis, last, process=process)

                pairs = partial(measured, options, running, connection, read_to_end)
                figures = {
                    "tpcb": await pairs(lambda: throughput(running, seconds, "-b", "tpcb-like")),
                    "update": await pairs(lambda: throughput(running, seconds, "-f", str(script))),
                    "bulk": await pairs(lambda: bulk(connection), ratio="time_ratio"),
                }
                if process.poll() is not None:
                    raise SystemExit("the worker ended during the benchmark: the figures are worth nothing")
        finally:
            await redis.aclose()
            await connection.close()
    finish("writepath", figures, as_json=options.json, repeats=options.repeats)


async def measured(
    options: argparse.Namespace,
    running: Stack,
    connection: asyncpg.Connection,
    read_to_end: Callable[[], Awaitable[None]],
    measure: Measure,
    *,
    ratio: str = "throughput_ratio",
) -> dict[str, float]:
    """Medians over the pairs: with the watch, without it, and the first by the second; the same of CPU."""
    pairs: list[tuple[float, float]] = []
    cpu_pairs: list[tuple[float, float]] = []
    postmaster = running.postgres.pid
    assert postmaster is not None
    for number in range(options.repeats):
        found: dict[bool, float] = {}
        cpu_us: dict[bool, float] = {}
        for watched in (number % 2 == 0, number % 2 == 1):
            await prepare(connection, watched=watched)
            before = server_cpu_seconds(postmaster)
            found[watched], transactions = await measure()
            await read_to_end()
            cpu_us[watched] = (server_cpu_seconds(postmaster) - before) * 1e6 / transactions
        pairs.append((found[True], found[False]))
        cpu_pairs.append((cpu_us[True], cpu_us[False]))
    return {
        **summed_up(pairs, ratio, "watched", "unwatched"),
        **summed_up(cpu_pairs, "cpu_ratio", "cpu_watched_us", "cpu_unwatched_us"),
    }


def summed_up(pairs: list[tuple[float, float]], ratio: str, watched: str, unwatched: str) -> dict[str, float]:
    """The medians of pairs under these names."""
    return {
        ratio: round(statistics.median(with_watch / without for with_watch, without in pairs), 3),
        watched: round(statistics.median(with_watch for with_watch, _ in pairs), 1),
        unwatched: round(statistics.median(without for _, without in pairs), 1),
    }


async def prepare(connection: asyncpg.Connection, *, watched: bool) -> None:
    """The same starting point for each half: watched or not, vacuumed, an empty outbox."""
    if watched:
        await connection.execute("select unstale.watch($1::text::regclass, '{aid}')", TABLE)
    else:
        await connection.execute("select unstale.unwatch($1::text::regclass)", TABLE)
    await connection.fetchval("select unstale.purge(10000000, interval '0')")
    await connection.fetchval("select unstale.purge(1, interval '1 hour')")  # what captures go by from now on
    for table in ("unstale.outbox", TABLE):
        await connection.execute(f"vacuum {table}", timeout=120)


async def attached(connection: asyncpg.Connection) -> None:
    """Wait until a worker leads."""
    sql = "select count(*) from pg_stat_activity where application_name ~ '^unstale-worker:.*[0-9]$'"
    for _ in range(600):
        if await connection.fetchval(sql):
            return
        await asyncio.sleep(0.05)
    raise SystemExit("no worker leads within 30 seconds")


async def throughput(running: Stack, seconds: int, *load: str) -> tuple[float, float]:
    """Transactions per second of 8 writers, and how many there were."""
    output = await asyncio.to_thread(
        pgbench,
        running,
        "-n",
        "-M",
        "prepared",
        "-s",
        str(SCALE),
        "-c",
        str(WRITERS),
        "-j",
        "2",
        "-T",
        str(seconds),
        *load,
    )
    rate = re.search(r"tps = ([\d.]+)", output)
    transactions = re.search(r"actually processed: (\d+)", output)
    if rate is None or transactions is None:
        raise SystemExit(f"pgbench did not report a rate:\n{output}")
    return float(rate.group(1)), int(transactions.group(1))


async def bulk(connection: asyncpg.Connection) -> tuple[float, float]:
    """Milliseconds of one update of 100,000 rows."""
    began = time.perf_counter()
    await connection.execute(BULK_UPDATE, BULK_ROWS, timeout=120)
    return (time.perf_counter() - began) * 1000, 1


def pgbench(running: Stack, *arguments: str) -> str:
    """Run pgbench as the project role; its output."""
    done = subprocess.run(
        [running.postgres.programs / "pgbench", *arguments, running.database_url],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"pgbench failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    run(main)
