"""A worker with nothing but a project's URL and a key: how soon, how fast, and after an outage.

``latency``: from the acknowledged commit until three agents have dropped their copy. The Realtime double
looks at the WAL every 100 ms, as the service does. ``drain``: a backlog read by function calls.
``outage``: HTTPS and Realtime are gone for a minute while changes go on. The double is a process of its own.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from drain import backlog, first_move
from harness import (
    applied,
    arguments,
    finish,
    leads,
    line,
    medians,
    peak_rss_mb,
    position_of,
    run,
    servers,
    worker,
)
from latency import measure
from redis.asyncio import Redis

from unstale.protocol.names import Names
from unstale_worker.dev_servers import Stack

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


@dataclass(frozen=True, slots=True)
class Dsns:
    """What the double asks of a test's database."""

    superuser_dsn: str
    authenticator: str
    name: str = "postgres"

    @property
    def server(self) -> "Dsns":
        return self

    def dsn(self, *, user: str, database: str) -> str:
        return self.authenticator


async def double(superuser_dsn: str, authenticator: str) -> None:
    """Be the project; say URL and key, then obey ``outage``, ``back`` and ``requests``."""
    from supabase_double import SupabaseDouble

    async with SupabaseDouble(Dsns(superuser_dsn, authenticator)) as project:
        print(json.dumps([project.url, project.keys.secret]), flush=True)
        loop = asyncio.get_running_loop()
        while command := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if command == "outage":
                project.rest.faults.refuse = True
                await project.outage()
            elif command == "back":
                project.rest.faults.refuse = False
                await project.back()
            print(len(project.rest.requests), flush=True)


@dataclass(frozen=True, slots=True)
class Remote:
    """The double in its process."""

    process: subprocess.Popen[str]
    environment: dict[str, str]

    async def tell(self, command: str) -> int:
        """Give a command; returns the number of requests so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return int(await line(self.process))


def start(running: Stack) -> subprocess.Popen[str]:
    """The double's process."""
    authenticator = running.postgres.dsn(user="authenticator", database="postgres")
    return subprocess.Popen(
        [sys.executable, __file__, "--role", "double", running.postgres.superuser_dsn, authenticator],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@asynccontextmanager
async def project(running: Stack) -> AsyncIterator[Remote]:
    """A project over the running database, and what a worker has to be told of it."""
    admin = await asyncpg.connect(running.postgres.superuser_dsn)
    await admin.execute("create publication supabase_realtime for table public.unstale_wakeup")
    await admin.close()
    process = start(running)
    try:
        url, key = await line(process)
        yield Remote(process, {"UNSTALE_SOURCE": "supabase", "SUPABASE_URL": url, "SUPABASE_SECRET_KEY": key})
    finally:
        process.kill()
        process.wait()


async def latency(seconds: float, repeats: int) -> list[dict[str, Any]]:
    """At 20 and 200 changes a second, and what it costs while nothing changes."""
    runs: list[dict[str, Any]] = []
    async with servers() as running, project(running) as remote:
        connection = await asyncpg.connect(running.database_url)
        total = int(220 * seconds * repeats) + 10
        await connection.execute(
            "insert into public.profiles select g, 'somebody' from generate_series(0, $1::int) as g", total
        )
        await connection.execute("vacuum analyze public.profiles")
        redis = Redis.from_url(running.redis_url)
        with worker(running, **remote.environment) as process:
            await leads(redis, process=process)
            low = 1
            for _ in range(repeats):
                figures: dict[str, Any] = {}
                for rate in (20, 200):
                    told = await connection.fetchval("select count(*) from public.unstale_wakeup")
                    asked, began = await remote.tell("requests"), time.monotonic()
                    figures[str(rate)] = await measure(running, "user", process, rate, seconds, low)
                    took = time.monotonic() - began
                    figures[str(rate)]["requests_per_s"] = (await remote.tell("requests") - asked) / took
                    rows = await connection.fetchval("select count(*) from public.unstale_wakeup") - told
                    figures[str(rate)]["wakeups_per_s"] = max(0, rows) / took
                    low += int(rate * seconds)
                asked = await remote.tell("requests")
                await asyncio.sleep(5)
                figures["idle_requests_per_s"] = (await remote.tell("requests") - asked) / 5
                runs.append(figures)
        await connection.close()
        await redis.aclose()
    return runs


async def drain(kind: str, rows: int) -> dict[str, float]:
    """A backlog that came together while no worker ran."""
    async with servers(fsync=False) as running, project(running) as remote:
        connection = await asyncpg.connect(running.database_url, command_timeout=600)
        redis = Redis.from_url(running.redis_url)
        await connection.execute(
            "insert into public.profiles select g, 'somebody' from generate_series(1, $1::int) as g", rows
        )
        await connection.execute("vacuum analyze public.profiles")
        first = int(await connection.fetchval("select max(xid::text::bigint) from unstale.outbox"))
        with worker(running, **remote.environment) as process:
            await applied(redis, first, process=process)
        position = await position_of(redis)
        last = await backlog(connection, kind, rows)
        with worker(running, **remote.environment) as process:
            began = await first_move(redis, position)
            await applied(redis, last, process=process)
            seconds = time.monotonic() - began
            rss = peak_rss_mb(process.pid)
        await connection.close()
        await redis.aclose()
        return {"rows_per_s": rows / seconds, "rss_mb": rss}


async def outage(seconds: float) -> dict[str, float]:
    """Everything of the project is away while changes go on; from its return until the last is applied."""
    async with servers() as running, project(running) as remote:
        connection = await asyncpg.connect(running.database_url)
        redis = Redis.from_url(running.redis_url)
        with worker(running, **remote.environment) as process:
            await leads(redis, process=process)
            await asyncio.sleep(3)
            epoch = await redis.hget(Names().state, "epoch")
            await remote.tell("outage")
            until, written = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                written += 1
                await connection.execute("insert into public.profiles values ($1, 'x')", written)
                await redis.set(f"user:{written}:profile", "{}")
                await asyncio.sleep(0.02)
            last = int(await connection.fetchval("select max(xid::text::bigint) from unstale.outbox"))
            began = time.monotonic()
            await remote.tell("back")
            await applied(redis, last, process=process)
            took = time.monotonic() - began
            left = await redis.exists(*[f"user:{number}:profile" for number in range(1, written + 1)])
            assert await redis.hget(Names().state, "epoch") == epoch, "the worker dropped everything instead"
        await connection.close()
        await redis.aclose()
        return {"recovery_s": took, "changes": written, "lost": left}


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, seconds=10.0, rows=300_000, away=60.0)
    quick = 10 if options.quick else 1
    runs = await latency(options.seconds / quick * (2.5 if options.quick else 1), options.repeats)
    figures = medians(runs)
    drains = []
    for _ in range(options.repeats):
        drains.append({kind: await drain(kind, options.rows // quick) for kind in ("bulk", "single")})
    figures["drain"] = medians(drains)
    figures["outage"] = medians([await outage(options.away / quick) for _ in range(options.repeats)])
    finish("over_https", figures, as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        run(lambda: double(*sys.argv[3:5]))
    else:
        run(main)
