"""15: one transaction of a million rows: applied whole, in bounded memory.

Guards: paging inside one fixed snapshot (``unstale.read``), `MAX_ELEMENTS` of the source, scripts of
`script_keys`. The worker is told to read as many entries as it may, so that only the bound on elements
helps.
"""

from pathlib import Path

from faults.stage import staged
from servers import Database, eventually
from workers import state_of, worker_process

ROWS = 1_000_000
MOST_GROWTH = 96 * 1024
"""Kilobytes the worker may grow by: the keys alone would take about 200 MB as Python strings."""


def peak_kilobytes(pid: int) -> int:
    """Most resident memory the process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


async def test_a_million_rows_in_bounded_memory(database: Database, redis_url: str) -> None:
    async with staged(database.dsn, redis_url) as (stage, redis):
        with worker_process(database.worker_dsn, redis_url, UNSTALE_READ_ENTRIES="100000") as worker:
            cache = await stage.open_agent()
            await stage.warm()
            before = peak_kilobytes(worker.pid)
            async with stage.db.transaction():
                await stage.db.execute(
                    "insert into profiles select g, 'x', 1 from generate_series(21, $1::int) g", ROWS
                )
                await stage.db.execute("update profiles set version = version + 1 where id <= 20")
            await stage.settled(redis)
            growth = peak_kilobytes(worker.pid) - before
            assert growth < MOST_GROWTH, f"the worker grew by {growth} kB"
            assert int((await state_of(redis))["log_bytes"]) <= 32 * 1024 * 1024
            await eventually(lambda: cache.attached)
            assert await stage.read(7) == 2
