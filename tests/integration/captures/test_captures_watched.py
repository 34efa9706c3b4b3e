"""Captures are watched while the worker runs: a broken one is said, and its keys invalidated until repaired.

Each case happens on a database whose event triggers were refused, so that no event tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import structlog
from redis.asyncio import Redis

from servers import Database, eventually
from unstale_worker.captures import monitor
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.http import as_dict, why
from unstale_worker.observe.metrics import Metrics
from workers import SCHEMA, Listener, connected, redis_at, running_worker

TABLE = "public.profiles"
KEY = "user:1:profile"
AGAIN = "select unstale.watch('public.profiles', '{id}')"
PARTITIONED = """
create table public.profiles (id bigint, name text, primary key (id)) partition by range (id);
create table public.profiles_1 partition of public.profiles for values from (0) to (1000);
select unstale.watch('public.profiles', '{id}');
"""
FOREIGN = """
create extension if not exists postgres_fdw;
create server if not exists elsewhere foreign data wrapper postgres_fdw;
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to a capture, and what repairs it.

    Attributes:
        broken: What happens, as the superuser.
        reason: Part of the sentence that the worker says.
        repair: What repairs it, as the table's owner.
        schema: The table, and its watch.
    """

    broken: str
    reason: str
    repair: str = AGAIN
    schema: str = SCHEMA


CASES = {
    "dropped": Case(
        "drop table profiles",
        "the table is gone",
        "create table profiles (id bigint primary key, name text, version bigint); " + AGAIN,
    ),
    "dropped and created again": Case(
        "drop table profiles; create table profiles (id bigint primary key, name text, version bigint);"
        "alter table profiles owner to postgres",
        "the watched table is gone, and another table of that name is not watched",
    ),
    "swapped by rename": Case(
        "alter table profiles rename to profiles_old;"
        "create table profiles (like profiles_old including all);"
        "alter table profiles owner to postgres",
        "the watched one is now public.profiles_old",
    ),
    "moved to another schema, and another table in its place": Case(
        "create schema attic; alter table profiles set schema attic;"
        "create table profiles (id bigint primary key, name text, version bigint);"
        "alter table profiles owner to postgres",
        "the watched one is now attic.profiles",
    ),
    "a view in its place": Case(
        "alter table profiles rename to profiles_data; create view profiles as select * from profiles_data",
        "the watched one is now public.profiles_data",
        "drop view if exists profiles; alter table profiles_data rename to profiles",
    ),
    "trigger dropped": Case("drop trigger unstale_1_update on profiles", "the trigger is missing"),
    "trigger disabled": Case(
        "alter table profiles disable trigger unstale_1_delete", "the trigger is disabled"
    ),
    "all triggers disabled": Case("alter table profiles disable trigger all", "the trigger is disabled"),
    "all triggers enabled": Case("alter table profiles enable trigger all", "session_replication_role"),
    "trigger for replicas only": Case(
        "alter table profiles enable replica trigger unstale_1_insert", "the trigger is disabled"
    ),
    "trigger with a condition": Case(
        "create or replace trigger unstale_1_update after update of version on profiles "
        "for each statement execute function unstale.capture_1_update();"
        "alter table profiles enable always trigger unstale_1_update",
        "the trigger fires for some of the statements only",
        "drop trigger unstale_1_update on profiles; " + AGAIN,
    ),
    "trigger that calls something else": Case(
        "create function nothing() returns trigger language plpgsql as 'begin return null; end';"
        "create or replace trigger unstale_1_update after update on profiles "
        "for each statement execute function nothing()",
        "the trigger calls something else",
        "drop trigger unstale_1_update on profiles; " + AGAIN,
    ),
    "function replaced": Case(
        "create or replace function unstale.capture_1_update() returns trigger language plpgsql "
        "security definer set search_path = '' as 'begin return null; end'",
        "the capture of update was replaced",
    ),
    "function dropped": Case(
        "drop function unstale.capture_1_truncate cascade", "the capture of truncate is missing"
    ),
    "unlogged": Case(
        "alter table profiles set unlogged", "the table is unlogged", "alter table profiles set logged"
    ),
    "a child without captures": Case(
        "create table more () inherits (profiles); alter table more owner to postgres",
        "the trigger is missing",
    ),
    "a partition without captures": Case(
        "create table profiles_2 partition of profiles for values from (1000) to (2000);"
        "alter table profiles_2 owner to postgres",
        "the trigger is missing",
        schema=PARTITIONED,
    ),
    "made a child of another table": Case(
        "create table all_profiles (id bigint not null, name text, version bigint not null);"
        "alter table all_profiles owner to postgres; alter table profiles inherit all_profiles",
        "all_profiles is not captured",
    ),
    "turned into a partition": Case(
        "create table all_profiles (like profiles including all) partition by range (id);"
        "alter table all_profiles owner to postgres;"
        "alter table all_profiles attach partition profiles for values from (0) to (1000)",
        "all_profiles is not captured",
    ),
    "a foreign partition": Case(
        FOREIGN + "create table profiles_far (id bigint not null, name text);"
        "drop table profiles_far; alter table profiles drop constraint profiles_pkey;"
        "create foreign table profiles_far partition of profiles for values from (5000) to (6000) "
        "server elsewhere",
        "profiles_far",
        "drop foreign table profiles_far; " + AGAIN,
        schema=PARTITIONED,
    ),
    "fed by a subscription": Case(
        "set allow_system_table_mods = on;"
        "insert into pg_subscription_rel (srsubid, srrelid, srsubstate) "
        "values (1, 'profiles'::regclass, 'r')",
        "fed by logical replication",
        "delete from pg_subscription_rel",
    ),
    "no longer watched": Case("select unstale.unwatch('profiles')", "it is not watched"),
}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check several times a second instead of twice a minute."""
    for name in ("CHECK_EVERY", "REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.1)


def said(logs: Sequence[Mapping[str, object]], word: str) -> list[Mapping[str, object]]:
    return [line for line in logs if word in str(line["event"])]


async def is_dropped(redis: Redis, key: str = KEY) -> None:
    """Set the key, and wait until it was invalidated although nothing reported a change."""
    await redis.set(key, '"old"', ex=600)

    async def gone() -> bool:
        return await redis.get(key) is None

    await eventually(gone, message="the key is invalidated although no change is reported")


@pytest.mark.parametrize("name", CASES)
async def test_a_capture_that_ends_is_said_and_its_keys_are_invalidated_until_it_is_repaired(
    plain_database: Database, redis_url: str, name: str
) -> None:
    case = CASES[name]
    async with (
        connected(plain_database.dsn) as db,
        connected(plain_database.superuser_dsn) as admin,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
    ):
        await db.execute(case.schema)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(plain_database.worker_dsn, redis_url) as worker:
                await admin.execute(case.broken)
                await eventually(lambda: TABLE in worker.status().not_captured)
                assert case.reason in worker.status().not_captured[TABLE]
                await is_dropped(redis)
                await is_dropped(redis)
                assert [line["table"] for line in said(logs, "may go unreported")] == [TABLE]
                assert await db.fetch("select * from unstale.check()"), "and unstale.check() says so too"
                assert seen_from_outside(worker) == (1.0, True)

                await (admin if "subscription" in name else db).execute(case.repair)
                await eventually(lambda: not worker.status().not_captured)
                assert [line["table"] for line in said(logs, "whole again")] == [TABLE]
                assert seen_from_outside(worker) == (0.0, False)
                await db.execute("insert into profiles (id, name) values (1, 'x')")
                await eventually(lambda: KEY in heard.keys)  # behind the last invalidation of the pattern
                heard.messages.clear()
                await db.execute("insert into profiles (id, name) values (2, 'x')")
                await eventually(lambda: "user:2:profile" in heard.keys)
                assert heard.patterns == [], "all is as before: by key"


def seen_from_outside(worker: Worker) -> tuple[float, bool]:
    """Return the gauge, and whether readiness names the table."""
    status = worker.status()
    assert status.ready
    text = Metrics(lambda: status).text().decode()
    (gauge,) = [
        line.split()[-1] for line in text.splitlines() if line.startswith("unstale_worker_captures_broken ")
    ]
    assert as_dict(status)["not_captured"] == status.not_captured
    return float(gauge), TABLE in why(status)
