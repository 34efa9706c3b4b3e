"""Nobody but the owner can stop the purge: no lock of another role, and no transaction that stays open."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database
from servers.outbox import changes, connected, position, read

FILL = """
create table people (id int primary key);
select unstale.watch('people', '{id}');
grant insert on people to authenticated;
"""


async def fill(connection: asyncpg.Connection, entries: int) -> None:
    for _ in range(entries):
        await connection.execute("insert into people select coalesce(max(id), 0) + 1 from people")


async def left(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval("select count(*) from unstale.outbox")
    return count


async def test_another_roles_locks_do_not_stop_it(database: Database) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as other:
        await connection.execute(FILL)
        await connection.execute("grant authenticated to postgres")
        await fill(connection, 5)
        await other.execute("set role authenticated")
        for number in range(10):
            await other.fetchval("select pg_advisory_lock(1970496884, $1)", number)
        for statement in (
            "select * from unstale.horizon for update",
            "begin; lock table unstale.horizon in access exclusive mode",
            "rollback; select unstale.maintain()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await other.execute(statement)
        assert await connection.fetchval("select unstale.purge(100, interval '0')") == 6


async def test_an_open_transaction_that_purged_on_the_way_holds_up_nobody(database: Database) -> None:
    """One capture in a thousand purges, in the transaction of a writer who may go to lunch."""
    async with connected(database.dsn) as connection, connected(database.dsn) as one, connected(
        database.dsn
    ) as two:  # fmt: skip
        await connection.execute(FILL)
        await fill(connection, 1_300)
        await connection.execute("update unstale.horizon set retention = '0'")
        for session in (connection, one, two):
            await session.execute("set statement_timeout = '20s'")
        await one.execute("begin; insert into people values (-1); select unstale.maintain()")
        await two.execute("begin; insert into people values (-2); select unstale.maintain()")
        # Both took some, and the rest goes on without them.
        assert await connection.fetchval("select unstale.purge(10000)") == 301
        assert await connection.fetchval("select unstale.purge(10000)") == 0
        await connection.execute("insert into people values (-3)")
        assert await connection.fetchval("select unstale.purge(10000)") == 1
        await one.execute("commit")
        await two.execute("rollback")
        # What one of them deleted and rolled back is found again.
        assert await left(connection) == 501
        while await connection.fetchval("select unstale.purge(10000)"):
            pass
        assert await left(connection) == 0


async def test_positions_know_what_captures_purged(database: Database) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as writer:
        await connection.execute(FILL)
        await connection.execute("select unstale.purge(1, interval '0')")
        before = await position(connection)
        await fill(connection, 3)
        await writer.execute("begin; select unstale.maintain()")
        # Not committed: nothing is missing yet.
        assert len(await changes(connection, before)) == 3
        await writer.execute("commit")
        assert not (await read(connection, before)).covered
        after = await position(connection)
        assert (await read(connection, after)).covered
        await fill(connection, 2)
        assert len(await changes(connection, after)) == 2
        await connection.execute("select unstale.maintain()")
        assert not (await read(connection, after)).covered
        await connection.execute("select unstale.maintain()")
        assert await connection.fetchval("select count(*) from unstale.purged") == 1
        # The worker's purge moves the horizon past it.
        await fill(connection, 1)
        assert await connection.fetchval("select unstale.purge(100)") == 1
        assert await connection.fetchval("select count(*) from unstale.purged") == 0
        assert not (await read(connection, after)).covered
        assert (await read(connection, await position(connection))).covered


async def test_captures_alone_purge_without_end(database: Database) -> None:
    """No worker and no pg_cron: the outbox stays small, and so does what remembers the purges."""
    async with connected(database.dsn) as connection:
        await connection.execute(FILL)
        await connection.execute("update unstale.horizon set retention = '0'")
        for _ in range(5):
            await fill(connection, 20)
            await connection.execute("select unstale.maintain()")
        assert await left(connection) == 0
        assert await connection.fetchval("select count(*) from unstale.purged") == 1
        assert await connection.fetchval("select count(*) <= 5 from unstale.snapshots")


async def test_savepoints_of_a_writer_that_purges(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(FILL)
        await connection.execute("update unstale.horizon set retention = '0'")
        await fill(connection, 3)
        async with connection.transaction():
            inner = connection.transaction()
            await inner.start()
            await connection.execute("select unstale.maintain()")
            await inner.rollback()
        assert await left(connection) == 4
        async with connection.transaction():
            await connection.execute("select unstale.maintain(); select unstale.maintain()")
        assert await left(connection) == 0


async def test_a_transaction_of_more_entries_than_one_step(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute(FILL)
        await connection.execute(
            "do $$ begin for n in 1..50 loop insert into people values (n); end loop; end $$"
        )
        await connection.execute("update unstale.horizon set retention = '0'")
        steps = [await connection.fetchval("select unstale.purge(20)") for _ in range(4)]
        assert steps == [20, 20, 11, 0]
        assert await left(connection) == 0
