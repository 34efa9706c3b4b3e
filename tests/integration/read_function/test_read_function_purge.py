"""Retention: what is old goes, read or not, and a position that lacks some of it is told so."""

from __future__ import annotations

import asyncpg

from servers import Database, eventually
from servers.outbox import changes, connected, position, read

NOW = "select unstale.purge(100000, interval '0')"


async def watched(connection: asyncpg.Connection) -> None:
    await connection.execute("create table people (id int primary key)")
    await connection.execute("select unstale.watch('people', '{id}')")


async def count(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("select count(*) from unstale.outbox")
    return found


async def test_entries_go_when_a_snapshot_that_old_shows_them(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        await connection.execute("insert into people values (1)")
        assert await connection.fetchval("select unstale.purge(100, interval '1 hour')") == 0
        assert await connection.fetchval("select count(*) from unstale.snapshots") == 1
        await connection.execute("insert into people values (2)")
        # An hour later, as far as the recorded snapshot is concerned.
        await connection.execute("update unstale.snapshots set taken_at = taken_at - interval '61 minutes'")
        assert await connection.fetchval("select unstale.purge(100)") == 2
        assert [row[0] for row in await connection.fetch("select keys from unstale.outbox")] == [["2"]]
        assert await connection.fetchval("select unstale.purge(100)") == 0
        assert await connection.fetchval("select count(*) from unstale.snapshots") == 2


async def test_the_steps_are_small_and_oldest_first(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        for number in range(5):
            await connection.execute("insert into people values ($1)", number)
        assert await connection.fetchval("select unstale.purge(2, interval '0')") == 2
        rows = await connection.fetch("select keys[1] from unstale.outbox order by xid, id")
        assert [row[0] for row in rows] == ["1", "2", "3", "4"]
        assert await connection.fetchval(NOW) == 4
        assert await connection.fetchval(NOW) == 0


async def test_a_position_that_lacks_something_purged_is_not_covered(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        old = await position(connection)
        await connection.execute("insert into people values (1)")
        current = await position(connection)
        assert (await read(connection, old)).covered
        await connection.fetchval(NOW)
        behind = await read(connection, old)
        assert (behind.covered, behind.entries, behind.position) == (False, [], old)
        assert (await read(connection, current)).covered
        fresh = await read(connection, None)
        assert (await read(connection, fresh.position)).covered


async def test_what_was_open_at_the_time_stays(database: Database) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as slow:
        await watched(connection)
        async with slow.transaction():
            await slow.execute("insert into people values (1)")
            await connection.execute("insert into people values (2)")
            start = await position(connection)
            assert await connection.fetchval(NOW) == 2
            assert (await read(connection, start)).covered
        assert [entry.keys for entry in await changes(connection, start)] == [["1"]]
        assert await connection.fetchval(NOW) == 1
        # The horizon does not go back when what it left out follows.
        last = int(start.split(":")[1]) - 1
        assert not (await read(connection, f"{last}:{last + 1}:{last}")).covered
        # Not because of its xmax: what was open in it is gone.
        assert not (await read(connection, start)).covered
        assert (await read(connection, await position(connection))).covered


async def test_an_older_snapshot_after_the_row_bound_does_not_take_the_horizon_back(
    database: Database,
) -> None:
    async with connected(database.dsn) as connection, connected(database.dsn) as slow:
        await watched(connection)
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("insert into people values (1)")
        await connection.execute("select unstale.purge(1, interval '1 hour')")
        await transaction.commit()
        await connection.execute("insert into people values (2)")
        start = await position(connection)
        # Everything goes by the row bound; then a step by an older snapshot, in which `slow` was still open.
        await connection.fetchval(NOW)
        await connection.execute("update unstale.snapshots set taken_at = taken_at - interval '2 hours'")
        await connection.execute("insert into people values (3)")
        await connection.execute("select unstale.purge(1000, interval '1 hour')")
        assert (await read(connection, start)).covered
        horizon = await connection.fetchval("select snapshot::text from unstale.horizon")
        assert horizon[-1] == ":", "nothing that was purged is taken for unpurged"


async def test_more_rows_than_the_bound_go_whatever_their_age(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        await connection.execute(
            "insert into unstale.outbox (id, watch, version) select n, 1, 1 from generate_series(1, 500) n"
        )
        await connection.execute("select pg_stat_force_next_flush()")
        await connection.execute("vacuum analyze unstale.outbox")

        async def purged() -> bool:
            return bool(await connection.fetchval("select unstale.purge(1000, null, 100) > 400"))

        await eventually(purged)
        assert await connection.fetchval("select max_outbox_rows from unstale.horizon") == 100


async def test_only_one_purges_and_nobody_waits(database: Database) -> None:
    async with (
        connected(database.dsn) as one,
        connected(database.dsn) as two,
        connected(database.dsn) as three,
    ):
        await watched(one)
        await one.execute("insert into people values (1)")
        async with one.transaction():
            assert await one.fetchval("select unstale.purge(1, interval '0')") == 1
            await two.execute("set lock_timeout = '5s'; set statement_timeout = '20s'")
            assert await two.fetchval(NOW) == 0
            await two.execute("insert into people values (2)")
            assert (await read(two, await position(two))).covered
        async with three.transaction():
            await three.execute("select from unstale.outbox for update")
            assert await two.fetchval(NOW) == 0
        assert await two.fetchval(NOW) == 2


async def test_captures_purge_without_any_worker(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        await connection.execute("select unstale.purge(1, interval '0')")

        async def purged() -> bool:
            await connection.execute(
                "do $$ begin for n in 1..500 loop "
                "insert into people values (n); delete from people; commit; end loop; end $$"
            )
            return await count(connection) % 1000 != 0

        await eventually(purged)


async def test_a_clock_set_back_does_not_stop_the_purge(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        await connection.execute(
            "insert into unstale.snapshots values (now() + interval '1 year', pg_current_snapshot())"
        )
        await connection.execute("select unstale.purge(1, interval '1 hour')")
        assert await connection.fetchval("select count(*) from unstale.snapshots where taken_at > now()") == 0
        assert await connection.fetchval("select count(*) from unstale.snapshots") == 1


async def test_an_outbox_from_another_server_is_put_right(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await watched(connection)
        await connection.execute(
            """
            update unstale.horizon set system_identifier = 1, snapshot = '900000000000:900000000000:';
            insert into unstale.outbox (xid, id, watch, version) values ('800000000000', 1, 1, 1);
            """
        )
        fresh = await read(connection, None)
        assert int(fresh.position.split(":")[1]) <= fresh.current_xmax
        assert (await read(connection, fresh.position)).covered
        assert [row[0] for row in await connection.fetch("select subject from unstale.check()")] == ["outbox"]
        await connection.execute("select unstale.purge()")
        assert await connection.fetch("select * from unstale.check()") == []
        assert (
            await connection.fetchval("select count(*) from unstale.outbox where xid > '700000000000'") == 0
        )
        await connection.execute("insert into people values (1)")
        assert len((await read(connection, fresh.position)).entries) == 1
