"""How fast changed keys are made new, what readers of a slow greeting notice, and what killed workers cost.

``row``: commit until the new row is readable in Redis, one at a time (p50), beside the time until the
old one is gone; and 50,000 rows of one transaction (per_s). ``greeting``: a model of 700 ms behind
``serve_stale``; its input changes every second while an agent without a near cache reads.
``killed_workers``: four refresh workers, one killed every 5 s for a minute, while rows change;
afterwards every value is compared with the database, and every fill that Redis saw with the one before
it. ``pydocket``: what a job that does nothing costs, in pydocket alone and as a refresh.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
from harness import arguments, finish, leads, medians, percentile, run, servers
from redis.asyncio import Redis

from unstale import Cache
from unstale.names import Names
from unstale_worker.embedded import Stack

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
            [sys.executable, "-m", "unstale_worker.cli", "worker", *arguments],
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
    """Wait for an async predicate; a benchmark that waits in vain has failed."""
    deadline = time.monotonic() + seconds
    while not await what():
        if time.monotonic() > deadline:
            raise SystemExit("the refreshes did not come to an end in time")
        await asyncio.sleep(0.01)


async def settled(redis: Redis) -> bool:
    return not await redis.exists(NAMES.refresh)


# --- rows -------------------------------------------------------------------------------------------


async def rows(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, samples: int, bulk: int
) -> dict[str, float]:
    with processes(running, ROWS) as workers:
        await leads(redis, process=workers.start())
        delays, gone = [], []
        for number in range(1, samples + 1):
            key = f"user:{number}:profile"
            await redis.set(key, b"{}", px=600_000)
            await db.execute("update public.profiles set version = version + 1 where id = $1", number)
            committed = time.perf_counter()
            while (found := await redis.get(key)) == b"{}":
                pass
            gone.append(time.perf_counter() - committed)
            while not (found or b"").startswith(b'{"id"'):
                found = await redis.get(key)
            delays.append(time.perf_counter() - committed)
        keys = [f"user:{number}:profile" for number in range(1, bulk + 1)]
        for start in range(0, bulk, 1000):
            await redis.mset(dict.fromkeys(keys[start : start + 1000], b"{}"))
        before = int(await redis.hget(NAMES.refresh_counts, "filled") or 0)
        await db.execute("update public.profiles set version = version + 1 where id <= $1", bulk)
        began = time.perf_counter()

        async def all_filled() -> bool:
            return int(await redis.hget(NAMES.refresh_counts, "filled") or 0) - before >= bulk

        await until(all_filled)
        took = time.perf_counter() - began
    return {
        "p50_ms": 1000 * percentile(delays, 0.5),
        "p99_ms": 1000 * percentile(delays, 0.99),
        "invalidated_p50_ms": 1000 * percentile(gone, 0.5),
        "per_s": bulk / took,
    }


# --- a slow greeting ----------------------------------------------------------------------------------


async def greeting(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, seconds: float
) -> dict[str, float]:
    """Ten users' greetings, read 200 times a second; every user's profile changes every second."""
    users, model = range(1, 11), 0.7
    with processes(running, GREETINGS, seconds=model) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")
        delays: list[float] = []
        readers_loads = 0

        async def load() -> object:
            nonlocal readers_loads
            readers_loads += 1
            await asyncio.sleep(model)
            return {"greeting": "by a reader", "version": -1}

        async with Cache.from_env(redis_url=running.redis_url, near_max_entries=0) as cache:
            await asyncio.gather(*(cache.get_or_load(f"user:{n}:greeting", load, ttl=3600) for n in users))
            first_loads, end = readers_loads, time.monotonic() + seconds

            async def change() -> None:
                while time.monotonic() < end:
                    await db.execute("update public.profiles set version = version + 1 where id <= 10")
                    await asyncio.sleep(1.0)

            changing = asyncio.create_task(change())
            while time.monotonic() < end:
                began = time.perf_counter()
                await cache.get_or_load(f"user:{random.choice(users)}:greeting", load, ttl=3600)
                delays.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)
            await changing
            stats = await cache.get_stats()
        await until(lambda: settled(redis))
        calls = {name.decode(): int(n) for name, n in (await redis.hgetall(NAMES.refresh_counts)).items()}
    per_key = (calls.get("filled", 0) + calls.get("overtaken", 0)) / len(users)
    return {
        "reader_p50_ms": 1000 * percentile(delays, 0.5),
        "reader_p99_ms": 1000 * percentile(delays, 0.99),
        "reader_max_ms": 1000 * max(delays),
        "reads": len(delays),
        "stale_reads": float(stats.get("stale_hits", 0)),  # type: ignore[arg-type]  # a count
        "calls": per_key * len(users),
        "calls_a_key_per_700_ms": per_key / (seconds / model),
        "calls_of_readers": readers_loads - first_loads,
    }


# --- killed workers -----------------------------------------------------------------------------------


async def killed_workers(
    running: Stack, redis: Redis, db: asyncpg.Connection, *, seconds: float
) -> dict[str, float]:
    users = range(1, 101)
    fills: dict[str, list[int]] = {}
    with processes(running, GREETINGS, seconds=0.3) as workers:
        await leads(redis, process=workers.start())
        four = [workers.start("--role", "refresh") for _ in range(4)]

        async def heard() -> bool:
            return int(await redis.zcard(f"{NAMES.refresh_jobs}:workers")) >= 4

        await until(heard)
        await redis.mset({f"user:{n}:greeting": b'{"version":-1}' for n in users})
        following = asyncio.create_task(follow_fills(running, fills))
        end, kill_at, kills, changes = time.monotonic() + seconds, time.monotonic() + 2.5, 0, 0
        while time.monotonic() < end:
            await db.execute(
                "update public.profiles set version = version + 1 where id = $1", random.choice(users)
            )
            changes += 1
            if time.monotonic() > kill_at:
                victim = kills % 4
                four[victim].kill()
                four[victim].wait()
                four[victim] = workers.start("--role", "refresh")
                kills, kill_at = kills + 1, kill_at + 5.0
            await asyncio.sleep(0.02)
        await until(lambda: settled(redis), seconds=180)
        counts = {name.decode(): int(n) for name, n in (await redis.hgetall(NAMES.refresh_counts)).items()}

        async def all_seen() -> bool:
            return sum(map(len, fills.values())) >= counts["filled"]

        await until(all_seen)
        following.cancel()
        await asyncio.wait([following])
        versions = dict(await db.fetch("select id, version from public.profiles where id <= 100"))
        wrong = 0
        for number in users:
            value = await redis.get(f"user:{number}:greeting")
            stands = None if value is None else json.loads(value)["version"]
            wrong += stands != versions[number] and not (stands == -1 and versions[number] == 0)
    return {
        "stale_keys": wrong,
        "duplicate_fills": sum(a == b for seen in fills.values() for a, b in pairwise(seen)),
        "fills": counts["filled"],
        "overtaken": counts.get("overtaken", 0),
        "changes": changes,
        "kills": kills,
    }


async def follow_fills(running: Stack, fills: dict[str, list[int]]) -> None:
    """Every value that is stored for a greeting, as MONITOR shows what scripts do."""
    async with Redis.from_url(running.redis_url, socket_timeout=None) as redis, redis.monitor() as monitor:
        async for command in monitor.listen():
            parts = command["command"].split(" ", 2)
            if parts[0] == "SET" and parts[1].endswith(":greeting") and '"version":' in parts[2]:
                version = parts[2].split('"version":')[1].split("}")[0]
                fills.setdefault(parts[1], []).append(int(version))


# --- pydocket itself ----------------------------------------------------------------------------------


async def pydocket(running: Stack, redis: Redis, *, jobs: int) -> dict[str, float]:
    """A job that does nothing, in pydocket alone, as a refresh, and what Redis Streams themselves need."""
    from docket import Docket, Worker

    async def nothing(key: str) -> None:
        pass

    async with Docket(name="bench", url=running.redis_url, execution_ttl=timedelta(0)) as docket:
        docket.register(nothing, names=["nothing"])
        await docket.add_many(docket.call("nothing", key=str(n))(key=str(n)) for n in range(jobs))
        async with Worker(
            docket, concurrency=32, minimum_check_interval=timedelta(milliseconds=50)
        ) as worker:
            began = time.perf_counter()
            await worker.run_until_finished()
            alone = time.perf_counter() - began
    limit = await streams_alone(redis, jobs=jobs)
    with processes(running, GREETINGS) as workers:
        await leads(redis, process=workers.start())
        workers.start("--role", "refresh")

        async def heard() -> bool:
            return int(await redis.zcard(f"{NAMES.refresh_jobs}:workers")) >= 1

        await until(heard)
        await asyncio.sleep(2.0)  # the leader stands back
        now = time.time() * 1000
        began = time.perf_counter()
        await redis.zadd(NAMES.refresh, {f"user:{n}:greeting": now for n in range(jobs)})
        await until(lambda: settled(redis))
        refreshed = time.perf_counter() - began
    return {
        "job_ms": 1000 * alone / jobs,
        "jobs_per_s": jobs / alone,
        "streams_limit_ms": 1000 * limit / jobs,
        "refresh_ms": 1000 * refreshed / jobs,
        "refreshes_per_s": jobs / refreshed,
    }


async def streams_alone(redis: Redis, *, jobs: int) -> float:
    """Seconds to take each message from a group and acknowledge it, 32 at a time."""
    await redis.xgroup_create("bench:stream", "bench", mkstream=True)
    for number in range(jobs):
        await redis.xadd("bench:stream", {"key": str(number)})
    began, left = time.perf_counter(), jobs

    async def take() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            ((_, ((message, _),)),) = await redis.xreadgroup("bench", "me", {"bench:stream": ">"}, count=1)
            await redis.xack("bench:stream", "bench", message)

    await asyncio.gather(*(take() for _ in range(32)))
    await redis.delete("bench:stream")
    return time.perf_counter() - began


PARTS = ("row", "greeting", "killed_workers", "pydocket")


async def main() -> None:
    options = arguments(__doc__ or "", repeats=1, parts=",".join(PARTS))
    chosen = options.parts.split(",")
    scale = 0.1 if options.quick else 1.0
    runs: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        figures: dict[str, Any] = {}
        for part in chosen:
            async with servers(sql=SCHEMA) as running, Redis.from_url(running.redis_url) as redis:
                db = await asyncpg.connect(running.database_url)
                if part == "row":
                    figures[part] = await rows(
                        running, redis, db, samples=int(2000 * scale), bulk=int(50_000 * scale)
                    )
                elif part == "greeting":
                    figures[part] = await greeting(running, redis, db, seconds=max(8.0, 30 * scale))
                elif part == "killed_workers":
                    figures[part] = await killed_workers(running, redis, db, seconds=max(12.0, 60 * scale))
                else:
                    figures[part] = await pydocket(running, redis, jobs=int(5000 * scale))
                await db.close()
        runs.append(figures)
    finish("refresh", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)
