"""A session's ``temp_file_limit``: the rows that a capture is given count against it, and what to do then.

Transition tables are kept by Postgres itself, so no trigger can lift the limit. Other limits of a session do
not concern a capture, which takes microseconds for each row.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from servers import Database
from servers.outbox import changes, connected, position

LIMIT = "set temp_file_limit = '1MB'; set work_mem = '64kB'"
UPDATE = "update many set payload = upper(payload)"


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Return a session with a limit (only superusers may set it; a role may be given it)."""
    async with connected(database.superuser_dsn) as connection:
        await connection.execute(
            "create table many (id int primary key, payload text not null);"
            "insert into many select n, repeat('x', 100) from generate_series(1, 20000) as n"
        )
        await connection.execute(LIMIT)
        yield connection


async def test_a_statement_beyond_the_limit_goes_through_unwatched(session: asyncpg.Connection) -> None:
    """The way out that the documentation gives: everything is invalidated, and captured again afterwards."""
    await session.execute(UPDATE)
    await session.execute("select unstale.watch('many', '{id}')")
    with pytest.raises(asyncpg.ConfigurationLimitExceededError, match="temp_file_limit"):
        await session.execute(UPDATE)
    after = await position(session)
    async with session.transaction():
        await session.execute("select unstale.unwatch('many')")
        await session.execute(UPDATE)
        await session.execute("select unstale.watch('many', '{id}')")
    assert [entry.keys for entry in await changes(session, after)] == [None, None]
    after = await position(session)
    await session.execute("update many set payload = 'y' where id = 7")
    assert [entry.keys for entry in await changes(session, after)] == [["7"]]


@pytest.mark.parametrize(
    "statement", ["delete from many where id <= 3000", "update many set payload = 'y' where id <= 3000"]
)
async def test_smaller_statements_stay_below_it(session: asyncpg.Connection, statement: str) -> None:
    await session.execute("select unstale.watch('many', '{id}')")
    after = await position(session)
    await session.execute(statement)
    assert sum(len(entry.keys or []) for entry in await changes(session, after)) == 3000


@pytest.mark.parametrize(
    "setting",
    [
        "work_mem = '64kB'",
        "lock_timeout = '1ms'",
        "row_security = off",
        "idle_in_transaction_session_timeout = '1s'",
        "search_path = ''",
        "max_parallel_workers_per_gather = 0",
        "jit = off",
        "enable_hashjoin = off",
        "temp_buffers = 100",
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "check_function_bodies = off",
        "statement_timeout = '60s'",
    ],
)
async def test_other_limits_of_a_session_do_not_concern_a_capture(database: Database, setting: str) -> None:
    async with connected(database.dsn) as connection:
        await connection.execute("create table people (id int primary key, n int)")
        await connection.execute("select unstale.watch('people', '{id}')")
        after = await position(connection)
        await connection.execute(f"set {setting}")
        await connection.execute("insert into public.people select n, 0 from generate_series(1, 1500) as n")
        await connection.execute("reset all")
        assert sum(len(entry.keys or []) for entry in await changes(connection, after)) == 1500
