"""Stage of ``refresh.py``: a leader with refresh workers, their rules and loaders, and waiting for them."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from redis.asyncio import Redis

from unstale.protocol.names import Names
from unstale_worker.dev_servers import Stack

NAMES = Names()

SCHEMA = """
create table public.profiles (id bigint primary key, name text not null, version bigint not null default 0);
insert into public.profiles select n, 'User ' || n from generate_series(1, 60000) n;
select unstale.watch('public.profiles', '{id}');
grant select on public.profiles to unstale_worker;
"""

ROWS = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
ttl = "1h"
"""

GREETINGS = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "bench_loaders:greeting"
concurrency = 16
serve_stale = "1m"
ttl = "1h"
"""

LOADERS = """
import asyncio
import os

from redis.asyncio import Redis

from unstale import Refresh

SECONDS = float(os.environ["BENCH_MODEL_SECONDS"])


async def greeting(refresh: Refresh) -> dict[str, object]:
    if not SECONDS:
        return {}
    database = await refresh.pool.postgres()
    row = await database.fetchrow(
        "select name, version from public.profiles where id = $1", int(refresh.fields["user_id"])
    )
    await asyncio.sleep(SECONDS)
    return {"greeting": f"Hello {row['name']}", "version": row["version"]}


async def counted(refresh: Refresh) -> dict[str, object]:
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
        await redis.hincrby("bench:calls", refresh.fields["user_id"], 1)
        await asyncio.sleep(0.05)
    return {}
"""


@contextmanager
def processes(running: Stack, rules: str, *, seconds: float = 0.0) -> Iterator["Processes"]:
    """A leader, and refresh workers as the benchmark wants them."""
    with TemporaryDirectory(prefix="unstale-bench-") as name:
        folder = Path(name)
        (folder / "unstale.toml").write_text(rules)
        (folder / "bench_loaders.py").write_text(LOADERS)
        environment = {
            **os.environ,
            "DATABASE_URL": running.worker_database_url,
            "REDIS_URL": running.redis_url,
            "UNSTALE_CONFIG": str(folder / "unstale.toml"),
            "UNSTALE_HTTP_PORT": "0",
            "BENCH_MODEL_SECONDS": str(seconds),
        }
        started = Processes(folder, environment)
        try:
            yield started
        finally:
            started.end()


class Processes:
    """Workers of one benchmark."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "unstale_worker.cli.commands", "worker", *arguments],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL,
        )
        self._all.append(process)
        return process

    def end(self) -> None:
        for process in self._all:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._all:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def until(what: Any, *, seconds: float = 120.0) -> None:
    """Wait until an async predicate is true; a benchmark that waits in vain has failed."""
    deadline = time.monotonic() + seconds
    while not await what():
        if time.monotonic() > deadline:
            raise SystemExit("the refreshes did not come to an end in time")
        await asyncio.sleep(0.01)


async def settled(redis: Redis) -> bool:
    """Return True if no key waits to be refreshed."""
    return not await redis.exists(NAMES.refresh)


async def counted(redis: Redis) -> dict[str, int]:
    """Return how many refreshes ended in which way."""
    counts: Any = await redis.hgetall(NAMES.refresh_counts)
    return {name.decode(): int(number) for name, number in counts.items()}


async def help_comes(redis: Redis, *, workers: int) -> None:
    """Wait until the leader hears that many refresh workers."""

    async def heard() -> bool:
        return int(await redis.zcard(NAMES.refresh_workers)) >= workers

    await until(heard)
