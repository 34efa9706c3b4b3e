"""The functions that the worker calls over HTTPS, called as the API calls them: as service_role."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from servers import Database, eventually
from servers.outbox import may_tell_again, position
from servers.outbox import read as read_here
from workers import SCHEMA, connected

QUERY = """
create function unstale.query_0123456789abcdef0123456789abcdef(given jsonb, most integer) returns jsonb
language sql stable set search_path = ''
as $q$ select unstale.run_query('public', 'organizations', '{id}', '{user_id,id}',
    'select user_id from members where org_id = "unstale changed"."id"', given, most) $q$;
grant execute on function unstale.query_0123456789abcdef0123456789abcdef to service_role;
create type mood as enum ('up', 'down');
create table public.organizations (id int primary key, name text);
create table public.members (org_id int, user_id int, at timestamptz, m mood, ok boolean, u uuid);
insert into public.members values (1, 7, '2026-11-22', 'up', true, '00000000-0000-0000-0000-00000000000A');
insert into public.members (org_id, user_id) values (1, 8), (2, 9);
grant select on public.members to service_role;
"""
HASH = "0123456789abcdef0123456789abcdef"


@asynccontextmanager
async def api(database: Database, role: str = "service_role") -> AsyncIterator[asyncpg.Connection]:
    """A session as PostgREST has one."""
    async with connected(database.server.dsn(user="authenticator", database=database.name)) as connection:
        await connection.execute(f"set role {role}")
        await connection.execute("set statement_timeout = '8s'")
        yield connection


async def call(connection: asyncpg.Connection, name: str, **arguments: Any) -> Any:
    """One call with named arguments; the value, decoded."""
    named = ", ".join(f"{key} => ${number}" for number, key in enumerate(arguments, 1))
    value = await connection.fetchval(f"select public.{name}({named})", *arguments.values())
    return json.loads(value) if isinstance(value, str) else value


async def test_a_read_says_what_the_private_function_says(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(SCHEMA)
        after = await position(db)
        await db.execute("insert into profiles select g, 'x' from generate_series(1, 3) g")
        await db.execute("truncate profiles")
        here, there = await read_here(db, after), await call(rpc, "unstale_read", after=after)
        assert there["entries"] == [[e.watch, e.version, e.keys] for e in here.entries]
        assert (there["database"], there["position"], there["covered"], there["more"]) == (
            here.database,
            here.position,
            True,
            False,
        )
        assert (there["last_xid"], there["last_id"]) == (here.last_xid, here.last_id)
        first = await call(rpc, "unstale_read", after=after, max_entries=1)
        assert first["more"]
        second = await call(
            rpc, "unstale_read", after=after, upto=first["snapshot"],
            after_xid=str(first["last_xid"]), after_id=first["last_id"],
        )  # fmt: skip
        assert first["entries"] + second["entries"] == there["entries"]


async def test_reading_assigns_no_transaction_id_unless_wake_ups_run_out(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(SCHEMA)
        after = await position(db)
        await call(rpc, "unstale_read", after=after, wakeups=True)  # says that it wants wake-ups: writes once
        async with rpc.transaction():
            await call(rpc, "unstale_read", after=after, wakeups=True)
            assert await rpc.fetchval("select pg_current_xact_id_if_assigned()") is None
        await db.execute("select setval('unstale.wakeups_wanted', 1)")  # long ago: it has to be said again
        async with rpc.transaction():
            await call(rpc, "unstale_read", after=after, wakeups=True)
            assert await rpc.fetchval("select pg_current_xact_id_if_assigned()") is not None


@pytest.mark.parametrize("role", ["anon", "authenticated"])
async def test_nobody_else_may_call_them_or_see_the_wake_ups(database: Database, role: str) -> None:
    async with api(database, role) as rpc:
        for statement in (
            "select public.unstale_read()",
            "select public.unstale_watches()",
            "select public.unstale_watch_states()",
            "select public.unstale_purge()",
            f"select public.unstale_fanout('{HASH}', '[]')",
            "select public.unstale_check()",
            "select * from public.unstale_wakeup",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await rpc.execute(statement)


async def test_service_role_may_only_read_the_wake_ups(database: Database) -> None:
    async with api(database) as rpc:
        assert await rpc.fetch("select * from public.unstale_wakeup") == []
        for statement in (
            "insert into public.unstale_wakeup (id) values (1)",
            "delete from public.unstale_wakeup where id = 1",
            "truncate public.unstale_wakeup",
            "select setval('unstale.wakeups_wanted', 1)",
            "select unstale.tell()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await rpc.execute(statement)


async def test_a_commit_tells_only_while_somebody_wants_to_know(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'nobody listens')")
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 0
        await call(rpc, "unstale_read", after=await position(db), wakeups=True)
        await db.execute("insert into profiles values (2, 'told')")
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 1
        await db.execute("select setval('unstale.wakeups_wanted', 1)")  # long ago
        await may_tell_again(db)
        await db.execute("insert into profiles values (3, 'nobody listens')")
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 1


async def test_at_most_one_row_in_100_ms_whatever_the_number_of_writers(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(SCHEMA)
        await call(rpc, "unstale_read", after=await position(db), wakeups=True)

        async def write(low: int) -> None:
            async with connected(database.dsn) as writer:
                for number in range(low, low + 100):
                    await writer.execute("insert into profiles values ($1, 'x')", number)

        await asyncio.gather(*(write(1_000 * n) for n in range(4)))
        ids = [row[0] for row in await db.fetch("select id from public.unstale_wakeup order by id")]
        assert ids
        assert all(later - earlier >= 100 for earlier, later in pairwise(ids))


async def test_a_wake_up_waits_for_no_long_writer_and_costs_no_statement(database: Database) -> None:
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as slow,
        connected(database.superuser_dsn) as admin,
        api(database) as rpc,
    ):
        await db.execute(SCHEMA)
        await call(rpc, "unstale_read", after=await position(db), wakeups=True)
        change = slow.transaction()
        await change.start()
        await slow.execute("insert into profiles values (1, 'slow')")
        await may_tell_again(db)
        async with asyncio.timeout(5):
            await db.execute("insert into profiles values (2, 'x')")
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 1
        await change.rollback()
        # A clock that was set back by a day.
        far = await db.fetchval(
            "select setval('unstale.wakeups_told', id + 86400000) from public.unstale_wakeup"
        )
        await db.execute("insert into profiles values (3, 'x')")
        ids = [row[0] for row in await db.fetch("select id from public.unstale_wakeup order by id")]
        assert len(ids) == 2
        assert ids[-1] < far - 80_000_000
        assert await db.fetchval("select pg_sequence_last_value('unstale.wakeups_told'::regclass)") == ids[-1]
        await admin.execute("drop table public.unstale_wakeup")
        await db.execute("select setval('unstale.wakeups_told', 1)")
        await db.execute("insert into profiles values (4, 'x')")
        await db.execute("truncate profiles")


async def test_the_purge_takes_old_wake_ups_along(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'x')")
        await db.execute(
            "insert into public.unstale_wakeup (id) values (1), "
            "(extract(epoch from clock_timestamp())::bigint * 1000)"
        )
        assert await call(rpc, "unstale_purge", max_rows=10, retention=0.0) == 2
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 1
        assert await call(rpc, "unstale_purge") == 0


async def test_a_query_runs_for_many_rows_in_their_own_types(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(QUERY)
        found = await call(rpc, "unstale_fanout", query=HASH, given='[["1"],["2"],["3"],[null]]')
        assert sorted(found["rows"]) == [[7, 1], [8, 1], [9, 2]]
        assert found["types"] == [["pg_catalog", "int4", "b"]] * 2
        none = await call(rpc, "unstale_fanout", query=HASH, given="[]")
        assert none == {"rows": [], "types": [["pg_catalog", "int4", "b"]] * 2}
        assert (
            len((await call(rpc, "unstale_fanout", query=HASH, given='[["1"],["2"]]', most=2))["rows"]) == 2
        )
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await call(rpc, "unstale_fanout", query=HASH, given='[["1; drop table members"]]')


async def test_a_query_tells_the_types_of_what_it_answers(database: Database) -> None:
    async with connected(database.dsn) as db:
        await db.execute(QUERY)
        sql = (
            "select unstale.run_query('public', 'organizations', '{id}', $1, "
            "'select at, m, ok, u, user_id from members "
            """where org_id = "unstale changed".id order by user_id', '[["1"]]', 1)"""
        )
        found = json.loads(await db.fetchval(sql, ["at", "m", "ok", "u", "id"]))
        assert found["rows"][0][1:] == ["up", True, "00000000-0000-0000-0000-00000000000a", 1]
        assert [kind[1] for kind in found["types"]] == ["timestamptz", "mood", "bool", "uuid", "int4"]
        with pytest.raises(asyncpg.UndefinedColumnError):
            await db.fetchval(sql, ["nothing"])


async def test_a_query_that_is_not_there_or_may_not_read_says_so(database: Database) -> None:
    async with connected(database.dsn) as db, api(database) as rpc:
        await db.execute(QUERY)
        for name in ("f" * 32, "x", "0123456789abcdef0123456789abcdef(jsonb,int); drop table members"):
            with pytest.raises(asyncpg.PostgresError) as caught:
                await call(rpc, "unstale_fanout", query=name, given="[]")
            assert caught.value.sqlstate == "UN012"
        await db.execute("revoke select on public.members from service_role")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="members"):
            await call(rpc, "unstale_fanout", query=HASH, given='[["1"]]')


async def test_the_check_says_what_the_source_needs(database: Database) -> None:
    async with (
        connected(database.dsn) as db,
        connected(database.superuser_dsn) as admin,
        api(database) as rpc,
    ):
        await db.execute(SCHEMA)
        await db.execute(QUERY)
        found = await call(rpc, "unstale_check")
        assert (found["role"], found["published"], found["readable"]) == ("service_role", False, True)
        assert found["queries"] == [HASH]
        assert found["findings"] == []
        await admin.execute(
            "create publication supabase_realtime; alter publication supabase_realtime owner to postgres"
        )
        assert await db.fetchval("select unstale.publish_wakeups()") is None
        assert await db.fetchval("select unstale.publish_wakeups()") is None
        await eventually(lambda: _published(rpc))


async def _published(rpc: asyncpg.Connection) -> bool:
    return bool((await call(rpc, "unstale_check"))["published"])
