"""30: the disk is full under the outbox.

Guards: the entry is written in the transaction of the change, so both happen or neither; the purge
bounds what the outbox takes, with no worker at all. The disk is full for one backend: RLIMIT_FSIZE,
which every user may lower.
"""

import os
import subprocess
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from faults.stage import staged
from servers import Database
from workers import LONG_LEASE, connected, running_worker, state_of

FULL = 17 * 1024 * 1024
"""Above a WAL segment, so that only the outbox, which is larger, cannot grow."""
FILL = """
insert into unstale.outbox (watch, version, keys)
select 1, 1, array_agg(key) from (
    select g, string_agg(md5(g::text || k::text), '') as key
    from generate_series(1, 3200) as g, generate_series(1, 190) as k group by g, k / 10
) as long group by g
"""
"""Entries of 6 kB with few keys: 600,000 keys would cost the worker seconds."""


def limit_files(pid: int, size: int | None) -> None:
    """Let no file of this process grow beyond ``size`` bytes; None: any size."""
    owner = Path(f"/proc/{pid}").stat()
    limit = f"--fsize={'unlimited' if size is None else size}:"
    setting = partial(subprocess.run, ["prlimit", "--pid", str(pid), limit], check=True)
    if owner.st_uid == os.getuid():
        setting()
    else:
        setting(user=owner.st_uid, group=owner.st_gid, extra_groups=[])


async def test_change_and_entry_happen_both_or_neither(database: Database, redis_url: str) -> None:
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        connected(database.dsn) as writer,
        running_worker(database.worker_dsn, redis_url, **LONG_LEASE),
    ):
        await stage.open_agent()
        await stage.db.execute("insert into profiles select g, 'x', 1 from generate_series(21, 3000) g")
        async with connected(database.superuser_dsn) as operator:
            await operator.execute(FILL)
            size = await operator.fetchval("select pg_relation_size('unstale.outbox')")
        assert size > FULL
        await stage.applied(redis)
        await stage.warm()
        backend = writer.get_server_pid()
        limit_files(backend, FULL)
        with pytest.raises(asyncpg.PostgresError, match="could not extend file"):
            await writer.execute("update profiles set version = version + 1")
        limit_files(backend, None)
        await stage.settled(redis)
        await writer.execute("update profiles set version = version + 1")
        await stage.settled(redis)
        await stage.warm()
        await stage.settled(redis)


async def test_the_outbox_is_bounded_without_any_worker(database: Database, redis_url: str) -> None:
    """What was purged unread is not skipped silently: every owned key is dropped, under a new epoch."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
            epoch = (await state_of(redis))["epoch"]
        for user in (1, 2, 3):
            await stage.write(user)
        async with connected(database.superuser_dsn) as operator:
            await operator.execute(FILL)
            await operator.execute("vacuum analyze unstale.outbox")
            purged = 1
            while purged:
                purged = await operator.fetchval("select unstale.purge(5000, null, 1000)")
            assert await operator.fetchval("select count(*) from unstale.outbox") <= 1_000
        async with running_worker(database.worker_dsn, redis_url) as worker:
            assert worker.status().counters.recoveries == 1
            assert (await state_of(redis))["epoch"] != epoch
            await stage.settled(redis)
            assert [await stage.read(user) for user in (1, 2, 3)] == [2, 2, 2]
