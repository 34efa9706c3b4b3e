"""How fast a backlog of a million changed rows is drained, and in how much memory.

``bulk``: statements of 1,000 rows. ``single``: one row a transaction. The limit measured in the same run:
reading the same backlog with the same source and throwing it away (``read_only_rows_per_s``).
"""

import time
from typing import Any

import asyncpg
from harness import applied, arguments, finish, medians, peak_rss_mb, position_of, run, servers, worker
from redis.asyncio import Redis

from unstale.protocol.names import Names
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.postgres_connections import PostgresConnections

BULK = "update public.profiles set version = version + 1 where id >= $1 and id < $1 + 1000"
SINGLE = """
do $$
begin
    for i in {low}..{high} loop
        update public.profiles set version = version + 1 where id = i;
        commit;
    end loop;
end
$$
"""


async def backlog(connection: asyncpg.Connection, kind: str, rows: int) -> int:
    """Make the changes; returns a transaction id behind all of them."""
    await connection.execute("set synchronous_commit = off")
    if kind == "bulk":
        for low in range(1, rows, 1000):
            await connection.execute(BULK, low)
    else:
        for low in range(1, rows, 50_000):
            await connection.execute(SINGLE.format(low=low, high=min(low + 49_999, rows)))
    return int(await connection.fetchval("select max(xid::text::bigint) from unstale.outbox"))


async def measure(kind: str, rows: int) -> dict[str, float]:
    async with servers(fsync=False) as running:
        connection = await asyncpg.connect(running.database_url, command_timeout=600)
        redis = Redis.from_url(running.redis_url)
        try:
            await connection.execute(
                "insert into public.profiles select g, 'somebody' from generate_series(1, $1::int) as g", rows
            )
            await connection.execute("vacuum analyze public.profiles")
            first = int(await connection.fetchval("select max(xid::text::bigint) from unstale.outbox"))
            with worker(running) as process:
                await applied(redis, first, process=process)
            position = await position_of(redis)
            last = await backlog(connection, kind, rows)
            read = await read_only(running.worker_database_url, position, rows)
            with worker(running) as process:
                began_at = await first_move(redis, position)
                await applied(redis, last, process=process)
                seconds = time.monotonic() - began_at
                rss = peak_rss_mb(process.pid)
            return {"rows_per_s": rows / seconds, "rss_mb": rss, "read_only_rows_per_s": rows / read}
        finally:
            await connection.close()
            await redis.aclose()


async def first_move(redis: Any, position: str) -> float:
    """When the worker has become leader: the drain itself begins, not its interpreter."""
    fence = await redis.hget(Names().state, "fence")
    while await redis.hget(Names().state, "fence") == fence:
        pass
    return time.monotonic()


async def read_only(dsn: str, position: str, rows: int) -> float:
    source = OutboxSource(PostgresConnections(dsn, timeout=60))
    began, found, cursor = time.monotonic(), 0, None
    try:
        while True:
            page = await source.read(position, cursor)
            found += sum(len(entry.keys or ()) for entry in page.entries)
            if not page.more:
                break
            cursor = page.cursor
    finally:
        await source.close()
    assert found == rows, (found, rows)
    return time.monotonic() - began


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, rows=1_000_000)
    rows = options.rows // 10 if options.quick else options.rows
    runs = []
    for _ in range(options.repeats):
        runs.append({kind: await measure(kind, rows) for kind in ("bulk", "single")})
    finish("drain", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)
