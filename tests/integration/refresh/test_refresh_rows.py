"""Row and SQL refreshes on real servers: values that are stored, and errors that are reported."""

import json

import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from servers.pooler import pooled
from unstale_worker.refresh.redis.dead_letters import list_dead
from workers import connected, redis_at, running_worker
from workers.refresh_stage import NAMES, counts, due, filled, settled

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:whole", "user:{id}:friends", "user:{id}:name"]

[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
columns = ["name", "born", "tags"]
ttl = "1h"

[refresh."user:{user_id}:whole"]
loader = "row"
table = "public.profiles"
key = "id"

[refresh."user:{user_id}:friends"]
loader = "sql"
query = "select jsonb_agg(name order by name) as value from public.profiles where id <> {user_id}"

[refresh."user:{user_id}:name"]
loader = "sql"
query = "select name, id from public.profiles where id = {user_id} or name = 'Twin'"
"""

SCHEMA = """
create table public.profiles (
    id bigint primary key, name text, born timestamptz, tags text[], score double precision
);
insert into public.profiles values
    (1, 'Ada "the first"', '1815-12-10T00:00:00Z', '{math,engines}', 0.1),
    (2, 'Grace', null, null, null);
select unstale.watch('public.profiles', '{id}');
grant select on public.profiles to unstale_worker;
"""


async def test_a_row_is_stored_as_postgres_writes_its_json(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await due(redis, "user:1:profile", "user:2:profile", "user:3:profile", "user:1:whole")
            expected = await db.fetchval(
                "select to_jsonb(x)::text from (select name, born, tags from public.profiles where id = 1) x"
            )
            assert await filled(redis, "user:1:profile") == expected.encode()
            assert json.loads(await filled(redis, "user:2:profile")) == {
                "name": "Grace", "born": None, "tags": None,
            }  # fmt: skip
            assert await filled(redis, "user:3:profile") == b"null", "nobody has this id"
            assert json.loads(await filled(redis, "user:1:whole"))["score"] == 0.1
            await settled(redis)
            assert 3_200_000 < await redis.pttl("user:1:profile") <= 3_600_000
            assert await counts(redis) == {"filled": 4}


async def test_a_query_makes_an_object_or_its_value(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await due(redis, "user:2:friends", "user:9:friends", "user:2:name")
            assert json.loads(await filled(redis, "user:2:friends")) == ['Ada "the first"']
            assert json.loads(await filled(redis, "user:9:friends")) == ['Ada "the first"', "Grace"]
            assert json.loads(await filled(redis, "user:2:name")) == {"id": 2, "name": "Grace"}


async def test_what_cannot_be_loaded_costs_its_own_key_only(database: Database, redis_url: str) -> None:
    """A segment that is no number, and two rows where one is wanted, beside keys that are well."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute("insert into public.profiles values (3, 'Twin')")
        async with running_worker(database.dsn, redis_url, rules=RULES):
            keys = [f"user:{n}:profile" for n in (1, 2, "no-number", 3)]
            await due(redis, *keys, "user:1:name")
            for n in (1, 2, 3):
                await filled(redis, f"user:{n}:profile")

            async def failed() -> bool:
                return (await counts(redis)).get("failed", 0) >= 2

            await eventually(failed)
            assert not await redis.exists("user:no-number:profile", "user:1:name")
            assert set(await redis.zrange(NAMES.refresh, 0, -1)) == {
                b"user:no-number:profile",
                b"user:1:name",
            }
            assert await redis.exists(NAMES.refresh_failures("user:1:name")), "it is attempted again"


async def test_a_value_that_stands_is_left_alone(database: Database, redis_url: str) -> None:
    """A reader's fill is as new as ours would be, and the lease of another loader is waited for."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await redis.set("user:1:profile", b'{"by":"an agent"}', px=60_000)
            await redis.set("user:2:profile", b"\x00unstale:lease:theirs", px=700)
            await redis.zadd(NAMES.refresh, {"user:1:profile": 1, "user:2:profile": 1})
            assert json.loads(await filled(redis, "user:2:profile"))["name"] == "Grace"
            await settled(redis)
            assert await redis.get("user:1:profile") == b'{"by":"an agent"}'


async def test_the_workers_own_role_needs_its_grant(database: Database, redis_url: str) -> None:
    """Rows that a policy hides are an error and never a value: null would say that there is no such row."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute("alter table public.profiles enable row level security")
        async with running_worker(database.worker_dsn, redis_url, rules=RULES) as worker:
            await due(redis, "user:1:profile")
            await eventually(lambda: "row-level security" in worker.status().counters.last_error)

            async def failed() -> bool:
                return bool((await counts(redis)).get("failed"))

            await eventually(failed)
            assert not await redis.exists("user:1:profile")
            await db.execute("create policy everything on public.profiles for select using (true)")
            assert json.loads(await filled(redis, "user:1:profile"))["name"].startswith("Ada")


@pytest.mark.parametrize("change", ["alter table public.profiles alter column name type varchar(80)"])
async def test_a_table_may_change_meanwhile(database: Database, redis_url: str, change: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await due(redis, "user:1:whole")
            await filled(redis, "user:1:whole")
            await db.execute(change)
            await db.execute("alter table public.profiles add column mood text default 'well'")
            await due(redis, "user:1:whole")
            assert json.loads(await filled(redis, "user:1:whole"))["mood"] == "well"


async def test_postgres_ends_the_sessions_again_and_again(database: Database, redis_url: str) -> None:
    async with connected(database.superuser_dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            for _ in range(6):
                await due(redis, "user:1:profile", "user:2:friends")
                await db.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name like 'unstale-worker:%' and datname = current_database()"
                )
                await filled(redis, "user:1:profile", timeout=60)
                await filled(redis, "user:2:friends", timeout=60)


async def test_a_value_of_who_knew_no_stale_one_ends_it(database: Database, redis_url: str) -> None:
    """An agent that has not read the newest rules fills so: the older value must not outlive the newer."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            stale = NAMES.stale("user:1:profile")
            await redis.set(stale, b'"older"', px=600_000)
            await redis.set("user:1:profile", b'"newer"', px=60_000)
            await redis.zadd(NAMES.refresh, {"user:1:profile": 1})
            await eventually(lambda: _is_gone(redis, stale))
            assert await redis.get("user:1:profile") == b'"newer"'


async def _is_gone(redis: Redis, key: str) -> bool:
    return not await redis.exists(key)


async def test_a_member_that_is_not_a_key_is_removed_and_delays_no_other(
    database: Database, redis_url: str
) -> None:
    """An agent's Redis user may write to the refresh set."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            await redis.zadd(NAMES.refresh, {b"\xff": 1, b"user:\xff:profile": 2, b"": 3, b"user:1:none": 4})
            await due(redis, "user:1:profile")
            await filled(redis, "user:1:profile")
            await settled(redis)


async def test_a_row_that_is_not_there_lives_as_long_as_not_found_may(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES, negative_ttl=5.0):
            await due(redis, "user:1:profile", "user:9:profile")
            assert (
                await filled(redis, "user:9:profile") == b"null "
            )  # the space: it lives shorter than agents expect
            await filled(redis, "user:1:profile")
            assert 0 < await redis.pttl("user:9:profile") <= 5_000
            assert await redis.pttl("user:1:profile") > 3_000_000


async def test_behind_a_transaction_pooler(database: Database, redis_url: str) -> None:
    """Nothing of a session lasts there: no prepared statement, no search path, no setting."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with pooled(database.worker_dsn) as dsn, running_worker(dsn, redis_url, rules=RULES):
            for number in range(3):
                await due(redis, "user:1:profile", "user:2:friends", f"user:{number}:whole")
                assert json.loads(await filled(redis, "user:1:profile"))["tags"] == ["math", "engines"]
                assert json.loads(await filled(redis, "user:2:friends")) == ['Ada "the first"']
                await filled(redis, f"user:{number}:whole")


RISKY = """
[[watch]]
table = "public.profiles"
keys = ["risky:{id}", "broken:{id}"]

[refresh."risky:{user_id}"]
loader = "sql"
query = "select public.risky({user_id}::int) as value"
timeout = "700ms"

[refresh."broken:{user_id}"]
loader = "sql"
query = "select n.x::uuid as value from (select 'no uuid'::text as x) n where {user_id}::int > 0"
"""
ALTERED = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:whole", "user:{id}:name"]

[refresh."user:{user_id}:whole"]
loader = "row"
table = "public.profiles"
key = "id"

[refresh."user:{user_id}:name"]
loader = "sql"
query = "select * from public.profiles where id::text = {user_id}"
"""
RAISES = """
create function public.risky(id int) returns int language plpgsql volatile as $$
begin
    if id = 7 then %s; end if;
    return id;
end $$
"""


@pytest.mark.parametrize(
    "statement",
    [
        "raise exception 'no'",
        "raise exception 'no' using errcode = '40001'",
        "raise exception 'no' using errcode = '53400'",
        "raise exception 'no' using errcode = '57014'",
        "raise exception 'no' using errcode = 'XX000'",
        "perform 1 / 0",
        "perform (select 1 from generate_series(1, 2))",
        "execute 'select no_such_column'",
        "perform pg_sleep(60)",
        "perform pg_terminate_backend(pg_backend_pid())",
    ],
)
async def test_a_key_that_postgres_refuses_fails_alone(
    database: Database, redis_url: str, statement: str
) -> None:
    """Beside it: the other keys of its batch, and a loader whose every plan is refused."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute(RAISES % statement)
        async with running_worker(
            database.dsn, redis_url, rules=RISKY, refresh_attempts=1, refresh_connections=1
        ) as worker:
            await due(redis, *(f"risky:{n}" for n in range(1, 21)), "broken:1")
            for n in range(1, 21):
                if n != 7:
                    assert await filled(redis, f"risky:{n}", timeout=60) == str(n).encode()
            await settled(redis, timeout=60)
            letters = {letter.key: letter.error for letter in await list_dead(redis, NAMES)}
            assert set(letters) == {"risky:7", "broken:1"}
            assert letters["risky:7"].startswith(("for this key: ", "Postgres cannot read a field"))
            assert letters["broken:1"].startswith("Postgres refused it (InvalidTextRepresentationError)")
            assert worker.status().ready


async def test_a_table_that_is_altered_costs_no_failure(database: Database, redis_url: str) -> None:
    """Statements that Postgres keeps are refused once: their result has other columns, or other types."""
    changes = [
        "alter table public.profiles add column more int",
        "alter table public.profiles alter column id type text",
        "alter table public.profiles alter column name type varchar(40)",
        "alter table public.profiles rename to old; create table public.profiles as table public.old",
        "drop table public.old; alter table public.profiles drop column tags",
    ]
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=ALTERED):
            for change in ["select 1", *changes]:
                await db.execute(change)
                for _ in range(2):
                    await due(redis, "user:1:whole", "user:1:name")
                    await settled(redis)
                    assert json.loads(await filled(redis, "user:1:whole"))["name"] == 'Ada "the first"'
                    assert json.loads(await filled(redis, "user:1:name"))["name"] == 'Ada "the first"'
            assert "failed" not in await counts(redis)


async def test_a_value_that_is_too_large_is_a_dead_letter_at_once(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute("update public.profiles set name = repeat('x', 2000) where id = 1")
        async with running_worker(database.dsn, redis_url, rules=RULES, max_value_bytes=1024):
            await due(redis, "user:1:profile", "user:2:profile")
            await filled(redis, "user:2:profile")
            (letter,) = await eventually(lambda: list_dead(redis, NAMES))
            assert (letter.key, letter.attempts) == ("user:1:profile", 1)
            assert "UNSTALE_MAX_VALUE_BYTES allows 1024" in letter.error
            assert not await redis.exists("user:1:profile")
