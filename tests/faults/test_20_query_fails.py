"""20: a rule's query fails: its pattern is invalidated, the rest goes on, and it is reported.

Guards: `fanout.run_queries` puts the patterns of what failed into the plan; the batch is applied and the
position moves.
"""

import re

import pytest

from servers import Database, eventually
from unstale_worker.fanout import queries
from workers import Listener, applied, connected, redis_at, running_worker

RULES = """
[[watch]]
table = "public.organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"

[[watch]]
table = "public.organizations"
keys = ["organization:{id}"]
"""

TABLES = """
create table public.organizations (id int primary key, name text);
create table public.members (org_id int, user_id int);
select unstale.watch('public.organizations', '{id}');
grant select on public.members to unstale_worker;
insert into public.organizations values (1, 'one'), (2, 'two');
insert into public.members values (1, 7);
"""

FAULTS = {
    "right revoked": ("revoke select on public.members from unstale_worker", False),
    "table gone": ("drop table public.members", False),
    "column gone": ("alter table public.members drop column user_id", False),
    "policy without a right to see": ("alter table public.members enable row level security", False),
    "lock held": ("lock table public.members in access exclusive mode", True),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_its_pattern_is_invalidated_and_the_rest_goes_on(
    database: Database, redis_url: str, fault: str
) -> None:
    statement, holds = FAULTS[fault]
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as breaker,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
    ):
        await db.execute(TABLES)
        async with running_worker(
            database.worker_dsn, redis_url, rules=RULES, database_timeout=2.0
        ) as worker:
            await redis.mset({"user:7:settings": "1", "organization:1": "1", "organization:2": "2"})
            change = breaker.transaction()
            await change.start()
            await breaker.execute(statement)
            if not holds:
                await change.commit()
            await db.execute("update organizations set name = 'x' where id = 1")
            await eventually(lambda: "user:*:settings" in heard.patterns, timeout=60)
            await applied(redis, db)
            found = await redis.mget("user:7:settings", "organization:1", "organization:2")
            assert found == [None, None, b"2"]
            assert "organizations" in worker.status().counters.last_error
            await eventually(lambda: worker.status().ready)
            if holds:
                said = re.search(r"timed out after ([0-9.]+) s", worker.status().counters.last_error)
                assert said is not None
                assert (
                    float(said[1]) < queries.TIMEOUT_SECONDS
                )  # the connection's own limit was the shorter one
                await change.rollback()
            await redis.delete("organization:2")


@pytest.mark.parametrize("defended", [True, False])
async def test_a_failure_that_only_is_reported_would_be_stale(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    run = queries.run_queries

    async def forgets(connection, rules, plan):  # type: ignore[no-untyped-def]
        failures = await run(connection, rules, plan)
        plan.patterns.clear()
        return failures

    if not defended:
        monkeypatch.setattr(queries, "run_queries", forgets)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(TABLES)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            await redis.set("user:7:settings", "1", ex=60)
            await db.execute("revoke select on public.members from unstale_worker")
            await db.execute("update organizations set name = 'x' where id = 1")
            await applied(redis, db)
            assert await redis.get("user:7:settings") == (None if defended else b"1")
