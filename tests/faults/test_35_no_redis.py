"""35: without Redis, an embedded worker whose Postgres, connection or process fails.

Guards: `OutboxFollower.cycle` drops before the position moves, takes its snapshot before it flushes, and
judges the database like the worker does; `OutboxFeed.reached` counts from the *beginning* of a read.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from servers import Database, eventually, takes
from servers.proxy import Proxy
from unstale import Cache
from unstale.in_process.outbox_feed import OutboxFeed
from unstale.near_cache.local_state import LocalState
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.in_process import outbox_follower
from unstale_worker.redis.state import Standing
from unstale_worker.sources.outbox import OutboxSource
from workers import PROFILES, SCHEMA, connected, running_worker, seams
from workers.no_redis import alone, follower_of

KEY = "user:1:profile"
QUICK: dict[str, Any] = {
    "max_silence": 2.0, "watermark_interval": 0.5, "leader_ttl": 0.5, "database_timeout": 1.0
}  # fmt: skip
"""Silence is noticed after two seconds; below, a loaded machine would be taken for one that is silent."""
CHILD = Path(__file__).with_name("no_redis_child.py")


@asynccontextmanager
async def rows(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Profiles 1 to 20 in version 1, watched."""
    async with connected(dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
        yield db


async def change(db: asyncpg.Connection) -> str:
    """Commit a new version of profile 1; returns the token."""
    async with db.transaction():
        await db.execute("update profiles set version = version + 1 where id = 1")
        token: str = await db.fetchval("select unstale.token()")
    return token


async def read(cache: Cache, db: asyncpg.Connection) -> int:
    """Profile 1's version through the cache."""
    version: int = await cache.get_or_load(
        KEY, lambda: db.fetchval("select version from profiles where id = 1")
    )
    return version


@pytest.mark.parametrize("defended", [True, False])
async def test_the_bound_counts_from_the_beginning_of_the_read(
    database: Database, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """What was read a second ago was true a second ago, however fresh the answer looks when it comes."""
    if not defended:
        reached = OutboxFeed.reached

        def late(self: OutboxFeed, began: float, **what: Any) -> None:
            reached(self, self.now(), **what)

        monkeypatch.setattr(OutboxFeed, "reached", late)
    wrong = []
    async with rows(database.dsn) as db, alone(database.dsn) as cache:
        assert await read(cache, db) == 1
        with seams.after(OutboxSource, "read", hold=True) as point:
            await point.wait()
            await change(db)
            changed = clock.now()
            asyncio.get_running_loop().call_later(0.7, point.release)
            while (at := clock.now()) < changed + 30:
                staleness = cache.staleness
                if await cache.get_or_load(KEY, lambda: 2) == 2:
                    break
                if at - changed > staleness:
                    wrong.append((at - changed, staleness))
                await asyncio.sleep(0)
    assert at - changed >= 0.7
    assert (wrong == []) is defended, wrong[:3]


@pytest.mark.parametrize("defended", [True, False])
async def test_what_was_loaded_before_the_first_snapshot_is_not_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """The snapshot contains the change, so nobody will ever announce it to this process."""
    if not defended:
        monkeypatch.setattr(LocalState, "flush", lambda self: None)
    async with rows(database.dsn) as db:
        with seams.before(OutboxSource, "read", hold=True) as point:
            opening = asyncio.create_task(_opened(database.dsn))
            await point.wait()
            async with await opening as cache:
                loaded, go_on = asyncio.Event(), asyncio.Event()

                async def slow() -> Any:
                    version = await db.fetchval("select version from profiles where id = 1")
                    loaded.set()
                    await go_on.wait()
                    return version

                assert not cache.attached
                reading = asyncio.create_task(cache.get_or_load(KEY, slow))
                await loaded.wait()
                await change(db)
                point.release()
                await eventually(lambda: cache.attached)
                go_on.set()
                assert await reading == 1
                assert await read(cache, db) == (2 if defended else 1)
                await eventually(lambda: cache.attached)


async def _opened(dsn: str) -> Any:
    """A cache that is started and not attached, as its first read is held up."""
    opened = alone(dsn, attached=False, **QUICK)
    cache = await opened.__aenter__()

    @asynccontextmanager
    async def closing() -> AsyncIterator[Cache]:
        try:
            yield cache
        finally:
            await opened.__aexit__(None, None, None)

    return closing()


@pytest.mark.parametrize("fault", ["cut", "refused", "half-open", "held"])
async def test_a_connection_that_fails_costs_no_position(database: Database, fault: str) -> None:
    """What was committed meanwhile is read afterwards; nothing else is dropped."""
    async with (
        rows(database.dsn) as db,
        Proxy(database.server.port) as proxy,
        alone(proxy.url(database.dsn), **QUICK) as cache,
    ):
        assert await read(cache, db) == 1
        kept = "user:2:profile"
        await cache.get_or_load(kept, lambda: "kept")
        if fault == "cut":
            proxy.cut()
        elif fault == "half-open":
            proxy.half_open()
        elif fault == "held":
            proxy.hold()
        else:
            await proxy.refuse()
            proxy.cut()
        if fault != "cut":
            await eventually(lambda: not cache.attached, message="silence is noticed")
            assert cache.staleness == float("inf")
        token = await change(db)
        await proxy.heal()
        await cache.wait_for(token, timeout=20)
        await eventually(lambda: cache.attached)
        assert await read(cache, db) == 2
        assert cache.inspect().local.near.peek(kept) is not None
        assert follower_of(cache).restarts == 1


async def test_closing_while_nothing_answers(database: Database) -> None:
    """A read that will never be answered does not keep the process from ending."""
    async with (
        rows(database.dsn) as db,
        Proxy(database.server.port) as proxy,
        alone(proxy.url(database.dsn)) as cache,
    ):
        assert await read(cache, db) == 1
        proxy.half_open()
        reads = follower_of(cache).reads
        await eventually(lambda: follower_of(cache).reads > reads)
        async with asyncio.timeout(30):
            await cache.close()


async def test_postgres_killed_and_restarted(own_postgres: EmbeddedPostgres) -> None:
    """Detached while it is away, attached again afterwards, and nothing is stale."""
    dsn = own_postgres.dsn(user="unstale_worker")
    async with rows(own_postgres.dsn()) as db, alone(dsn, **QUICK) as cache:
        assert await read(cache, db) == 1
        change_in_flight = db.transaction()
        await change_in_flight.start()
        await db.execute("update profiles set version = 50 where id = 1")
        await own_postgres.kill()
        db.terminate()
        await eventually(lambda: not cache.attached)
        assert (await cache.get_stats())["status"] == "detached"
        assert await cache.get_or_load("session:1", lambda: "loaded") == "loaded"
        await own_postgres.start()
        async with connected(own_postgres.dsn()) as again:
            await again.execute("update profiles set version = 2 where id = 1")
            await eventually(lambda: cache.attached)
            await cache.wait_for(await change(again), timeout=20)
            assert await read(cache, again) == 3


@pytest.mark.parametrize("defended", [True, False])
async def test_restored_from_an_older_copy(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """The copy knows nothing of what was cached last: everything is dropped."""
    server = own_postgres
    if not defended:
        monkeypatch.setattr(outbox_follower, "standing_after_read", lambda state, page: Standing.READY)
    async with rows(server.dsn()):
        pass
    await server.stop()
    copy = await server.save_data("older")
    await server.start()
    async with alone(server.dsn(), **QUICK) as cache:
        async with connected(server.dsn()) as db:
            for _ in range(20):
                await change(db)
            await cache.wait_for(await change(db), timeout=20)
            assert await read(cache, db) == 22
        await server.kill()
        await eventually(lambda: not cache.attached)
        await server.restore_data(copy)
        await server.start()
        await eventually(lambda: cache.attached)
        async with connected(server.dsn()) as again:
            assert await read(cache, again) == (1 if defended else 22)
            if defended:
                await cache.wait_for(await change(again), timeout=20)
                assert await read(cache, again) == 2


@pytest.mark.parametrize("max_silence", [1.5, 60.0])
async def test_a_stopped_process_says_how_old_its_answers_are(
    database: Database, tmp_path: Path, max_silence: float
) -> None:
    """SIGSTOP for 2.5 s with a change in between: no old answer claims to be fresher than that."""
    (tmp_path / "unstale.toml").write_text(PROFILES)
    async with rows(database.dsn) as db:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), database.dsn, str(max_silence), str(tmp_path / "unstale.toml")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            await _until(child.stdout, 1)
            child.send_signal(signal.SIGSTOP)
            await takes(1.0)
            await change(db)
            changed = clock.now()
            await takes(1.5)
            child.send_signal(signal.SIGCONT)
            reads = await _until(child.stdout, 2)
            child.stdin.close()
            await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    wrong = [
        (round(at - changed, 3), round(staleness, 3))
        for at, staleness, value in reads
        if value == 1 and at - changed > staleness
    ]
    assert not wrong, f"(seconds since the change, staleness told): {wrong[:5]}"


async def _until(output: asyncio.StreamReader, version: int) -> list[Any]:
    """Every read up to the first of ``version`` that came with a bound."""
    reads: list[Any] = []
    async with asyncio.timeout(30):
        while not reads or reads[-1][2] != version or reads[-1][1] == 1e9:
            reads.append(json.loads(await output.readline()))
    return reads


async def test_instances_and_a_worker_do_not_disturb_each_other(database: Database, redis_url: str) -> None:
    """A new leader ends the sessions of older leaders, and nobody else's; all hear of every change."""
    async with (
        rows(database.dsn) as db,
        alone(database.worker_dsn) as one,
        alone(database.worker_dsn) as two,
    ):
        for _ in range(2):
            async with (
                running_worker(database.worker_dsn, redis_url),
                Cache.from_env(env_file=None, redis_url=redis_url) as shared,
            ):
                await eventually(lambda: shared.attached)
                caches = (one, two, shared)
                before = [await read(cache, db) for cache in caches]
                token = await change(db)
                for cache in caches:
                    await cache.wait_for(token, timeout=20)
                assert [await read(cache, db) for cache in caches] == [version + 1 for version in before]
        names = {
            row[0]
            for row in await db.fetch(
                "select application_name from pg_stat_activity where usename = 'unstale_worker' "
                "and datname = current_database()"
            )
        }
        assert names == {"unstale-worker:embedded"}
        assert [follower_of(cache).restarts for cache in (one, two)] == [1, 1]
        assert [follower_of(cache).failures for cache in (one, two)] == [0, 0]
