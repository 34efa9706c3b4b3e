"""unstale.read returns what is new after a position, and the position that contains it."""

from __future__ import annotations

import asyncpg
import pytest

from servers import Database, eventually
from servers.outbox import Batch, connected, position, read
from unstale.protocol.messages import Snapshot


async def add(connection: asyncpg.Connection, key: str, *, rows: int = 1) -> int:
    """Write entries as a capture would; the transaction's xid."""
    xid: str = await connection.fetchval(
        "with written as (insert into unstale.outbox (watch, version, keys, id) "
        "select 1, 1, array[$1], (pg_current_wal_insert_lsn() - '0/0')::bigint + n "
        "from generate_series(1, $2) as n returning xid) select max(xid::text) from written",
        key,
        rows,
    )
    return int(xid)


def keys(batch: Batch) -> list[str | None]:
    return [key for entry in batch.entries for key in entry.keys or []]


async def test_entries_come_in_order_and_only_once(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        first, second = await add(connection, "a", rows=2), await add(connection, "b")
        batch = await read(connection, start)
        assert keys(batch) == ["a", "a", "b"]
        assert (batch.last_xid, batch.more, batch.covered) == (second, False, True)
        contained = Snapshot.parse(batch.position)
        assert contained.includes(first)
        assert contained.includes(second)
        assert not contained.includes(second + 1)
        again = await read(connection, batch.position)
        assert again.entries == []
        assert again.position == batch.position
        assert again.database == await connection.fetchval("select unstale.database()")


async def test_ids_that_commit_out_of_order_lose_nothing(database: Database) -> None:
    async with (
        connected(database.dsn) as one,
        connected(database.dsn) as two,
        connected(database.dsn) as reader,
    ):
        start = await position(reader)
        late = one.transaction()
        await late.start()
        early_xid = await add(one, "late")
        await add(two, "early")
        batch = await read(reader, start)
        assert keys(batch) == ["early"]
        assert not Snapshot.parse(batch.position).includes(early_xid)
        await add(two, "between")
        await late.commit()
        following = await read(reader, batch.position)
        assert keys(following) == ["late", "between"]
        assert (await read(reader, following.position)).entries == []


async def test_a_rolled_back_transaction_at_the_end_is_not_in_the_position(database: Database) -> None:
    """Postgres gives its xid away again after a crash."""
    async with connected(database.dsn) as connection:
        start = await position(connection)
        committed = await add(connection, "a")
        rolled_back = connection.transaction()
        await rolled_back.start()
        lost = await add(connection, "b")
        await rolled_back.rollback()
        batch = await read(connection, start)
        assert Snapshot.parse(batch.position).includes(committed)
        assert not Snapshot.parse(batch.position).includes(lost)
        unread = Snapshot.parse((await read(connection, None)).position)
        assert unread.includes(committed)
        assert not unread.includes(lost)


async def test_without_a_position_and_without_entries_nothing_is_taken_for_applied(
    database: Database,
) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("delete from unstale.outbox")
        batch = await read(connection, None)
        assert (batch.entries, batch.position, batch.more, batch.covered) == ([], "1:1:", False, True)
        await add(connection, "a")
        assert keys(await read(connection, batch.position)) == ["a"]


async def test_without_a_position_open_transactions_stay_outside(database: Database) -> None:
    async with connected(database.dsn) as one, connected(database.dsn) as reader:
        async with one.transaction():
            await add(one, "open")
            await add(reader, "committed")
            start = await position(reader)
        assert keys(await read(reader, start)) == ["open"]


@pytest.mark.parametrize("page", [1, 2, 3, 7])
async def test_pages_are_one_fixed_snapshot(database: Database, page: int) -> None:
    async with connected(database.dsn) as one, connected(database.dsn) as reader:
        start = await position(reader)
        for number in range(5):
            await add(one, f"{number}", rows=number % 3 + 1)
        seen: list[str | None] = []
        batch = await read(reader, start, max_entries=page)
        fixed = batch.snapshot
        while True:
            seen += keys(batch)
            if not batch.more:
                break
            await add(one, "later")
            assert batch.last_xid is not None
            assert batch.last_id is not None
            # A stored position after a page: what follows it is exactly what was not delivered completely.
            rest = keys(await read(reader, batch.position, upto=fixed))
            assert seen + rest[len(rest) - (9 - len(seen)) :] == list("011222344")
            batch = await read(
                reader, start, upto=fixed, cursor=(batch.last_xid, batch.last_id), max_entries=page
            )
            assert batch.snapshot == fixed
        assert seen == list("011222344")
        assert set(keys(await read(reader, batch.position))) <= {"later"}


async def test_pages_are_bounded_by_elements_and_hold_at_least_one_entry(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        await connection.execute(
            "insert into unstale.outbox (id, watch, version, keys) "
            "select n, 1, 1, array_fill('x'::text, array[100]) from generate_series(1, 300) as n"
        )
        page = await read(connection, start, max_elements=1)
        assert (len(page.entries), page.more) == (1, True)
        page = await read(connection, start, max_elements=250)
        assert (len(page.entries), page.more) == (3, True)
        page = await read(connection, start, max_elements=20_000)
        assert (len(page.entries), page.more) == (200, True)
        page = await read(connection, start, max_elements=30_000)
        assert (len(page.entries), page.more) == (300, False)
        page = await read(connection, start, max_elements=29_999)
        assert (len(page.entries), page.more) == (300, False)


async def test_tuples_of_several_columns_come_flat(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        await connection.execute(
            "insert into unstale.outbox (watch, version, keys) "
            "values (1, 1, array[['a', null], ['b', 'c']]), (1, 1, null)"
        )
        assert [entry.keys for entry in (await read(connection, start)).entries] == [
            ["a", None, "b", "c"],
            None,
        ]


async def test_it_converts_to_json(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        await add(connection, "a")
        found = await connection.fetchval(
            "select to_jsonb(unstale.read($1::text::pg_snapshot)) #>> '{entries,0,keys,0}'", start
        )
        assert found == "a"


async def test_the_past_of_another_database_is_seen_in_the_fields(database: Database) -> None:
    async with connected(database.dsn) as connection:
        await add(connection, "a")
        ahead = (await read(connection, None)).current_xmax + 1000
        batch = await read(connection, f"{ahead}:{ahead}:")
        assert (batch.entries, batch.more, batch.position) == ([], False, f"{ahead}:{ahead}:")
        assert batch.current_xmax < ahead


async def test_the_lsn_covers_the_entries(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        await add(connection, "a")
        committed = await connection.fetchval("select pg_current_wal_insert_lsn()::text")
        batch = await read(connection, start)
        assert await connection.fetchval(
            "select $1::text::pg_lsn >= $2::text::pg_lsn and $3::text::pg_lsn <= $1::text::pg_lsn",
            batch.insert_lsn,
            committed,
            batch.flushed_lsn,
        )


async def test_a_token_names_the_writing_transaction(database: Database) -> None:
    async with connected(database.dsn) as connection:
        start = await position(connection)
        async with connection.transaction():
            token: str = await connection.fetchval("select unstale.token()")
            await connection.execute("insert into unstale.outbox (watch, version, keys) values (1, 1, '{a}')")
        batch = await read(connection, start)
        identity, xid, lsn = token.rsplit(":", 2)
        assert identity == batch.database
        assert await connection.fetchval("select $1::text::pg_lsn < pg_current_wal_flush_lsn()", lsn)
        assert Snapshot.parse(batch.position).includes(int(xid))


async def test_the_worker_role_can_do_its_work_and_no_more(database: Database) -> None:
    async with connected(database.worker_dsn) as worker, connected(database.dsn) as owner:
        await worker.execute("set row_security = off")
        await owner.execute(
            "create table people (id int primary key); select unstale.watch('people', '{id}')"
        )
        start = await position(worker)
        await owner.execute("insert into people values (1)")
        assert keys(await read(worker, start)) == ["1"]
        assert await worker.fetchval("select count(*) from unstale.watch_versions where current") == 1
        assert await worker.fetchval("select unstale.purge(10)") == 0
        assert await worker.fetchval("select unstale.end_old_leaders('0123abcd', 5)") == 0
        assert await worker.fetchval("select unstale.token()")
        assert await worker.fetch("select * from unstale.check()") == []
        for forbidden in (
            "select * from unstale.outbox",
            "delete from unstale.outbox",
            "select * from unstale.watched",
            "select unstale.watch('people', '{id}')",
            "select unstale.unwatch('people')",
            "select unstale.generate(1)",
            "select * from people",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await worker.execute(forbidden)


async def test_a_new_leader_ends_the_sessions_of_older_ones_only(database: Database) -> None:
    async with (
        connected(database.worker_dsn) as leader,
        connected(database.worker_dsn) as older,
        connected(database.worker_dsn) as newer,
        connected(database.worker_dsn) as standby,
        connected(database.worker_dsn) as odd,
        connected(database.worker_dsn) as other_consumer,
        connected(database.dsn) as stranger,
    ):
        named = {
            leader: "unstale-worker:0123abcd:7",
            older: "unstale-worker:0123abcd:6",
            newer: "unstale-worker:0123abcd:8",
            standby: "unstale-worker:0123abcd:standby",
            odd: "unstale-worker:0123abcd:99999999999999999999999",
            other_consumer: "unstale-worker:ffffffff:1",
            stranger: "unstale-worker:0123abcd:1",
        }
        for connection, name in named.items():
            await connection.execute("select set_config('application_name', $1, false)", name)
        assert await leader.fetchval("select unstale.end_old_leaders('0123abcd', 7)") == 1
        await eventually(older.is_closed)
        for connection in (leader, newer, standby, odd, other_consumer, stranger):
            assert await connection.fetchval("select 1") == 1
