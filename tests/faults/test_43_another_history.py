"""43: a dump is restored in place, a database is swapped, copied or created again, the outbox is cut off.

Guards: ``unstale.database()`` names server, timeline, database and outbox; `standing_after_read` compares it;
`OutboxSource` forgets the watches of another history. The server goes on: no transaction id and no WAL
position comes back, so nothing else tells.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from faults.stage import Stage, staged
from servers import Database, eventually
from servers.dumps import dump, restore
from unstale import WaitTimeout
from unstale_worker.captures import monitor
from unstale_worker.sources.outbox import OutboxSource
from workers import SCHEMA, connected, running_worker, seams, state_of

Restore = Callable[[Database, Path], Awaitable[None]]


async def in_place(database: Database, file: Path) -> None:
    await restore(database, file, "--clean", "--if-exists")


async def in_one_transaction(database: Database, file: Path) -> None:
    await restore(database, file, "--clean", "--if-exists", "--single-transaction")


async def in_parallel(database: Database, file: Path) -> None:
    await restore(database, file, "--clean", "--if-exists", "--jobs=4")


async def into_dropped_schemas(database: Database, file: Path) -> None:
    async with connected(database.superuser_dsn) as db:
        await db.execute("drop schema unstale cascade; drop schema public cascade")
        await db.execute("create schema public authorization pg_database_owner")
        await db.execute("grant usage on schema public to public")
    await restore(database, file, "--clean", "--if-exists")


async def into_a_new_database(database: Database, file: Path) -> None:
    """Dropped and created: the sessions of the worker and the agents end."""
    await recreated(database, "template1")
    await restore(database, file)


async def from_a_template(database: Database, file: Path) -> None:
    """A copy by files: every object in it has the number it had in the original."""
    await recreated(database, f"{database.name}_older")


async def swapped(database: Database, file: Path) -> None:
    name = database.name
    async with connected(database.server.superuser_dsn) as db:
        await db.execute(f"alter database {name} allow_connections false")
        await db.execute(END_SESSIONS, name)
        await db.execute(f"alter database {name} rename to {name}_newer")
        await db.execute(f"alter database {name}_older rename to {name}")


async def recreated(database: Database, template: str) -> None:
    async with connected(database.server.superuser_dsn) as db:
        await db.execute(f"drop database {database.name} with (force)")
        await db.execute(f"create database {database.name} template {template} owner postgres")


END_SESSIONS = """
select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()
"""


@asynccontextmanager
async def older_copies(database: Database, folder: Path) -> AsyncIterator[Path]:
    """A dump of the database, and a database that is a copy of it, as it is now."""
    server, name = database.server, database.name
    file = await dump(database, folder / "older.dump")
    async with connected(server.superuser_dsn) as db:
        await db.execute(END_SESSIONS, name)
        await db.execute(f"create database {name}_older template {name} owner postgres")
        yield file
        for other in ("older", "newer"):
            await db.execute(f"drop database if exists {name}_{other} with (force)")


@asynccontextmanager
async def reconnected(stage: Stage, database: Database) -> AsyncIterator[None]:
    """Give the stage's own writes and loads new connections, to a database of this name as it is now."""
    await stage.db.close()
    await stage.reader.close()
    stage.reader = await asyncpg.create_pool(database.dsn, min_size=1, max_size=4)
    async with connected(database.dsn) as stage.db, stage.reader:
        yield


async def follows_this_history(database: Database, redis: Redis) -> None:
    """Wait until the stored position is one of the database that answers now."""
    async with connected(database.superuser_dsn) as db:
        ours: str = await db.fetchval("select unstale.database()")

    async def told() -> bool:
        found: bool = (await state_of(redis)).get("database") == ours
        return found

    await eventually(told, message=f"the position is one of {ours}")


@pytest.mark.parametrize(
    "go_back",
    [in_place, in_one_transaction, in_parallel, into_dropped_schemas, into_a_new_database, from_a_template,
     swapped],
)  # fmt: skip
async def test_an_older_state_comes_back_while_the_worker_runs(
    database: Database, redis_url: str, tmp_path: Path, go_back: Restore
) -> None:
    """What was cached of the newer state is dropped everywhere, and changes are applied again afterwards."""
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
    async with (
        older_copies(database, tmp_path) as file,
        staged(database.dsn, redis_url, schema=False) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        await stage.write(1)
        await stage.applied(redis)
        await stage.warm()
        assert await stage.read(1) == 2
        token = await stage.db.fetchval("select unstale.token()")
        await stage.agents[0].wait_for(token)
        await go_back(database, file)
        async with reconnected(stage, database):
            await follows_this_history(database, redis)
            await stage.settled(redis)
            assert await stage.read(1) == 1
            await stage.write(2)
            await stage.settled(redis)
            assert await stage.read(2) == 2
            with pytest.raises((WaitTimeout, ValueError)):  # the transaction never happened
                await stage.agents[0].wait_for(token, timeout=0.1)


async def test_a_worker_with_the_owners_rights_meets_half_a_restore(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could take its position before the data is there, and no capture reports how the data comes."""
    monkeypatch.setattr(monitor, "REPEAT_EVERY", 0.1)
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
    async with (
        older_copies(database, tmp_path) as file,
        staged(database.dsn, redis_url, schema=False) as (stage, redis),
        running_worker(database.superuser_dsn, redis_url),
    ):
        await stage.open_agent()
        async with connected(database.superuser_dsn) as db:
            await db.execute("drop schema unstale cascade; drop table profiles")
        await restore(database, file, "--section=pre-data", errors=True)
        async with reconnected(stage, database):
            await follows_this_history(database, redis)
            await stage.warm()
            assert await stage.read(1) is None
            await restore(database, file, "--section=data", errors=True)
            await restore(database, file, "--section=post-data", errors=True)

            async def fresh() -> bool:
                return await stage.read(1) == 1

            await eventually(fresh, message="the keys are invalidated once more")
            await stage.settled(redis)


async def test_another_database_of_the_same_server(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """DATABASE_URL leads elsewhere from one start of the worker to the next; Redis stays."""
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
    async with older_copies(database, tmp_path):
        other = Database(name=f"{database.name}_older", server=database.server)
        async with staged(database.dsn, redis_url, schema=False) as (stage, redis):
            async with running_worker(database.worker_dsn, redis_url):
                await stage.open_agent()
                await stage.write(1)
                await stage.applied(redis)
                await stage.warm()
                elsewhere = await stage.db.fetchval("select unstale.token()")
            async with reconnected(stage, other), running_worker(other.worker_dsn, redis_url):
                await follows_this_history(other, redis)
                await stage.settled(redis)
                assert await stage.read(1) == 1
                with pytest.raises(ValueError, match="the token is from database"):
                    await stage.agents[0].wait_for(elsewhere)


async def test_an_outbox_that_is_truncated_before_it_was_read(database: Database, redis_url: str) -> None:
    """The entries are gone, and the horizon does not say so."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        await stage.warm()
        with seams.before(OutboxSource, "read", hold=True) as point:
            await point.wait()
            await stage.write(1)
            await stage.db.execute("truncate unstale.outbox")
            point.release()
        await follows_this_history(database, redis)
        await stage.settled(redis)
        assert await stage.read(1) == 2


async def test_a_position_from_before_the_identity_named_the_database(
    database: Database, redis_url: str
) -> None:
    """An upgrade finds ``server:timeline`` in Redis: no position, once."""
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
        now = await stage.db.fetchval("select unstale.database()")
        await redis.hset("{unstale:0}:state", "database", ":".join(now.split(":")[:2]))
        for recoveries in (1, 0):
            async with running_worker(database.worker_dsn, redis_url) as worker:
                await stage.write(1)
                await stage.settled(redis)
                assert worker.status().counters.recoveries == recoveries
                assert (await state_of(redis))["database"] == now


async def test_a_restore_that_overtakes_a_read(database: Database) -> None:
    """A read that began before the outbox was replaced, and found the new one, is one of the new history."""
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as reader,
        connected(database.dsn) as watcher,
    ):
        await db.execute(SCHEMA)
        position = await db.fetchval("select (unstale.read(null)).position::text")
        await db.execute("insert into profiles values (1, 'x', 1)")
        before = await db.fetchval("select unstale.database()")
        async with db.transaction():
            await db.execute("lock table unstale.outbox in access exclusive mode")
            reading = asyncio.create_task(
                reader.fetchrow("select (b).database from unstale.read($1::text::pg_snapshot) as b",
                                position)
            )  # fmt: skip
            await eventually(
                lambda: watcher.fetchval("select exists (select from pg_locks where not granted)"),
                message="the read waits",
            )
            await db.execute("alter table unstale.outbox rename to replaced")
            await db.execute("create table unstale.outbox (like unstale.replaced including all)")
        page = await reading
        assert page is not None
        assert page["database"] != before
        assert page["database"] == await db.fetchval("select unstale.database()")


async def test_a_known_number_of_a_watch_may_mean_another_table_afterwards(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """The dump is from before the watch; the next one that is made gets the same number."""
    rules = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.rooms"
keys = ["room:{id}"]

[ttl]
"user:*:profile" = "1h"
"room:*" = "1h"
"""
    async with connected(database.dsn) as db:
        await db.execute(
            "create table public.profiles (id bigint primary key, name text, version bigint not null);"
            "create table public.rooms (id bigint primary key)"
        )
    async with older_copies(database, tmp_path) as file, connected(database.dsn) as db:
        first = await db.fetchval("select unstale.watch('public.profiles', '{id}')")
        await db.execute("select unstale.watch('public.rooms', '{id}')")
        async with (
            staged(database.dsn, redis_url, schema=False) as (stage, redis),
            running_worker(database.worker_dsn, redis_url, rules=rules),
        ):
            await stage.open_agent()
            await stage.write(1)
            await stage.applied(redis)  # the worker knows now what the first number means
            # The captures of the newer watches are not in the dump, and keep their schema from going.
            await restore(database, file, "--clean", "--if-exists", errors=True)
            async with reconnected(stage, database):
                await stage.db.execute("select unstale.watch('public.rooms', '{id}')")
                again = await stage.db.fetchval("select unstale.watch('public.profiles', '{id}')")
                assert first != again
                await follows_this_history(database, redis)
                await stage.write(1)
                await stage.applied(redis)
                await stage.warm()
                assert await stage.read(1) == 1
                await stage.write(1)
                await stage.settled(redis)
                assert await stage.read(1) == 2


@pytest.mark.parametrize("follows", [True, False])
async def test_only_the_users_schema_is_restored(
    database: Database,
    plain_database: Database,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    follows: bool,
) -> None:
    """It is the same history, and the tables are others: their captures are missed, event triggers or not."""
    for name in ("CHECK_EVERY", "REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.1)
    database = database if follows else plain_database
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles select g, 'x', 1 from generate_series(1, 20) g")
    async with (
        older_copies(database, tmp_path) as file,
        staged(database.dsn, redis_url, schema=False) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        await stage.open_agent()
        await stage.write(1)
        await stage.applied(redis)
        await stage.warm()
        before = await stage.db.fetchval("select unstale.database()")
        await restore(database, file, "--clean", "--schema=public", errors=True)
        async with reconnected(stage, database):
            assert await stage.db.fetchval("select unstale.database()") == before

            async def fresh() -> bool:
                return await stage.read(1) == 1

            await eventually(fresh, message="the key is invalidated")
            await eventually(lambda: worker.status().not_captured, message="the worker says so")
            await stage.write(1)  # no capture reports it

            async def invalidated() -> bool:
                return await stage.read(1) == 2

            await eventually(invalidated, message="the key is invalidated again and again")
