"""What a worker costs that has nothing to do: share of a core, and queries a second to Postgres."""

import asyncio
import time

import asyncpg
from harness import applied, arguments, cpu_seconds, finish, medians, run, servers, worker
from redis.asyncio import Redis

SETTLE_SECONDS = 3.0
"""Start-up (imports, checks, the first purge) is not idling."""


async def measure(seconds: float) -> dict[str, dict[str, float]]:
    async with servers() as running:
        connection = await asyncpg.connect(running.database_url)
        redis = Redis.from_url(running.redis_url)
        try:
            # The session's own statements are counted too, and are taken off below.
            first = int(await connection.fetchval("select max(xid::text::bigint) from unstale.outbox"))
            with worker(running) as process:
                await applied(redis, first, process=process)
                await asyncio.sleep(SETTLE_SECONDS)
                queries = await transactions(connection)
                cpu, began = cpu_seconds(process.pid), time.monotonic()
                await asyncio.sleep(seconds)
                elapsed = time.monotonic() - began
                used = cpu_seconds(process.pid) - cpu
                asked = await transactions(connection) - queries
            return {
                "worker": {"cpu_percent": 100 * used / elapsed, "queries_per_s": max(0.0, asked / elapsed)}
            }
        finally:
            await connection.close()
            await redis.aclose()


async def transactions(connection: asyncpg.Connection) -> int:
    """Transactions of the database so far; other sessions report theirs within a second of going idle."""
    await connection.execute("select pg_stat_clear_snapshot()")
    return int(
        await connection.fetchval(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        )
    )


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, seconds=20.0)
    seconds = options.seconds / 4 if options.quick else options.seconds
    runs = [await measure(seconds) for _ in range(options.repeats)]
    finish("idle", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)
