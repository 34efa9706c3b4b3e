"""A worker over HTTPS and Realtime while everything between it and the database goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count

import pytest

from servers import Database, eventually
from servers.both_sources import Way, over_https, publish, way
from servers.outbox import may_tell_again
from supabase_double import SupabaseDouble
from unstale.errors import DatabaseUnavailable, MigrationMissing
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.sources import supabase, supabase_wakeups
from unstale_worker.sources.rpc import Key, Project
from unstale_worker.sources.supabase import MAX_ELEMENTS, SupabaseSource
from workers import SCHEMA, Listener, applied, connected, redis_at, running_worker

TIMEOUT = 1.0
"""Seconds of patience with an answer, instead of 10."""
_numbers = count(1)


@pytest.fixture
async def project(database: Database) -> AsyncIterator[SupabaseDouble]:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
    async with way("supabase", database, poll=0.05) as found:
        assert found.project is not None
        yield found.project


def source_of(project: SupabaseDouble, *, key: str | None = None, entries: int = 5_000) -> SupabaseSource:
    return SupabaseSource(
        Project(project.url, Key(key or project.keys.secret), timeout=TIMEOUT), read_entries=entries
    )


def way_of(project: SupabaseDouble) -> Way:
    return Way("supabase", over_https(project) | {"database_timeout": TIMEOUT}, project)


# --- wake-ups -----------------------------------------------------------------------------------


async def test_realtime_wakes_the_worker(project: SupabaseDouble, database: Database, redis_url: str) -> None:
    async with (
        connected(database.dsn) as db,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await eventually(lambda: worker.status().listening)
        wakeups = worker._wakeups
        assert wakeups is not None
        await _change(db, heard)  # from now on captures tell

        def beyond(received: int) -> bool:
            return wakeups.received > received

        for _ in range(3):
            received = wakeups.received
            await may_tell_again(db)
            await _change(db, heard)
            await eventually(partial(beyond, received))
    assert not wakeups.listening
    await eventually(lambda: not project.realtime.sockets)


async def test_with_realtime_muted_the_timer_finds_everything(
    project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    project.realtime.faults.mute_changes = True
    async with (
        connected(database.dsn) as db,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await eventually(lambda: worker.status().listening)
        assert worker._wakeups is not None
        received = worker._wakeups.received
        for _ in range(5):
            await _change(db, heard)
        assert worker._wakeups.received == received
        assert worker.status().counters.errors == 0


async def test_without_realtime_the_worker_is_ready_and_says_that_it_only_polls(
    project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    project.realtime.faults.refuse_upgrade = 503
    async with (
        connected(database.dsn) as db,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await _change(db, heard)
        assert worker.status().ready
        assert not worker.status().listening
        assert await db.fetchval("select count(*) from public.unstale_wakeup") == 0


async def test_a_service_that_loses_every_change_is_connected_anew(
    project: SupabaseDouble, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase_wakeups, "UNANNOUNCED_READS", 2)
    monkeypatch.setattr(supabase_wakeups, "UNANNOUNCED_SECONDS", 0.0)
    project.realtime.faults.mute_changes = True
    async with (
        connected(database.dsn) as db,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await eventually(lambda: worker.status().listening)
        joins = project.realtime.joins
        for _ in range(6):
            await _change(db, heard)
        await eventually(lambda: project.realtime.joins > joins)


async def test_a_standby_costs_the_project_no_connection(
    project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    async with way_of(project).worker(redis_url) as leader:
        await eventually(lambda: leader.status().listening)
        settings = over_https(project)
        async with running_worker(
            settings.pop("database_url"), redis_url, leading=False, **settings
        ) as other:
            await eventually(lambda: other.status().ready)
            assert len(project.realtime.sockets) == 1


# --- faults of the way --------------------------------------------------------------------------


def _status(project: SupabaseDouble) -> None:
    project.rest.faults.status = 503


def _garbage(project: SupabaseDouble) -> None:
    project.rest.faults.garbage = True


def _refuse(project: SupabaseDouble) -> None:
    project.rest.faults.refuse = True


def _hold(project: SupabaseDouble) -> None:
    project.rest.hold()


def _heal(project: SupabaseDouble) -> None:
    faults = project.rest.faults
    faults.status, faults.garbage, faults.refuse = None, False, False
    project.rest.release()


@pytest.mark.parametrize("break_it", [_status, _garbage, _refuse, _hold])
async def test_changes_made_while_nothing_works_arrive_afterwards(
    project: SupabaseDouble,
    database: Database,
    redis_url: str,
    break_it: Callable[[SupabaseDouble], None],
) -> None:
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await _change(db, heard)
        break_it(project)
        await db.execute("insert into profiles select g, 'x' from generate_series(1001, 1100) g")
        await eventually(lambda: not worker.status().database and bool(worker.status().problem))
        await db.execute("insert into profiles select g, 'x' from generate_series(1101, 1200) g")
        assert project.keys.secret not in worker.status().problem
        _heal(project)
        await applied(redis, db)
        await heard.caught_up(redis)
        assert {f"user:{n}:profile" for n in range(1001, 1201)} <= set(heard.keys)
        await eventually(lambda: worker.status().database and not worker.status().problem)
        assert worker.status().counters.recoveries == 1  # the first start's


async def test_answers_that_are_lost_after_the_work_was_done(
    project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url, read_entries=10) as worker,
    ):
        for low in range(2_000, 2_500, 100):
            project.rest.faults.lose_answers = 3
            for number in range(low, low + 30):
                await db.execute("insert into profiles values ($1, 'x')", number)
            await applied(redis, db)
        await heard.caught_up(redis)
        wanted = {f"user:{n}:profile" for low in range(2_000, 2_500, 100) for n in range(low, low + 30)}
        assert wanted <= set(heard.keys)
        assert worker.status().counters.recoveries == 1


async def test_an_outage_of_everything(project: SupabaseDouble, database: Database, redis_url: str) -> None:
    async with (
        connected(database.dsn) as db,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        await eventually(lambda: worker.status().listening)
        _refuse(project)
        await project.outage()
        await db.execute("insert into profiles select g, 'x' from generate_series(1, 500) g")
        await eventually(lambda: not worker.status().database and not worker.status().listening)
        _heal(project)
        await project.back()
        await applied(redis, db)
        await heard.caught_up(redis)
        assert {f"user:{n}:profile" for n in range(1, 501)} <= set(heard.keys)
        await eventually(lambda: worker.status().listening)
        assert worker.status().counters.recoveries == 1


async def test_a_killed_postgres(own_postgres: EmbeddedPostgres, redis_url: str) -> None:
    database = Database(name="postgres", server=own_postgres)
    await publish(database)
    async with (
        SupabaseDouble(database, poll=0.05) as project,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
    ):
        async with connected(database.dsn) as db:
            await db.execute(SCHEMA)
        async with way_of(project).worker(redis_url) as worker:
            async with connected(database.dsn) as db:
                await _change(db, heard)
                await db.execute("insert into profiles values (70, 'x')")
            await own_postgres.kill()
            await eventually(lambda: not worker.status().database)
            await own_postgres.start()
            async with connected(database.dsn) as db:
                await db.execute("insert into profiles values (71, 'x')")
                await applied(redis, db)
                await heard.caught_up(redis)
            assert {"user:70:profile", "user:71:profile"} <= set(heard.keys)


async def test_a_read_that_takes_too_long_is_asked_for_in_smaller_pages(
    project: SupabaseDouble, database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase, "GROW_AFTER", 1)
    async with (
        connected(database.dsn) as db,
        connected(database.dsn) as locker,
        redis_at(redis_url) as redis,
        Listener(redis_url) as heard,
        way_of(project).worker(redis_url) as worker,
    ):
        source = worker._source
        assert isinstance(source, SupabaseSource)
        await _change(db, heard)
        await db.execute("insert into profiles select g, 'x' from generate_series(5001, 5100) g")
        project.rest.timeout = "50ms"
        lock = locker.transaction()
        await lock.start()
        await locker.execute("lock table unstale.outbox in access exclusive mode")
        await eventually(lambda: source._entries < 5_000)
        await lock.rollback()
        project.rest.timeout = None
        await db.execute("insert into profiles select g, 'x' from generate_series(5101, 5200) g")
        await applied(redis, db)
        await heard.caught_up(redis)
        assert {f"user:{n}:profile" for n in range(5_001, 5_201)} <= set(heard.keys)
        await eventually(lambda: source._entries == 5_000)


# --- one value, however large -------------------------------------------------------------------


async def test_more_than_a_thousand_entries_come_whole(project: SupabaseDouble, database: Database) -> None:
    source = source_of(project)
    async with connected(database.dsn) as db:
        after = (await source.read(None)).position
        await db.execute(
            "do $$ begin for n in 1..1500 loop insert into profiles values (n, 'x'); commit; end loop; end $$"
        )
    try:
        page = await source.read(after)
        assert [entry.keys for entry in page.entries] == [[str(n)] for n in range(1, 1_501)]
        assert not page.more
    finally:
        await source.close()


async def test_a_huge_transaction_comes_in_bounded_pages(project: SupabaseDouble, database: Database) -> None:
    source = source_of(project)
    rows = 200_000
    async with connected(database.dsn) as db:
        after = (await source.read(None)).position
        await db.execute("insert into profiles select g, 'x' from generate_series(1, $1::int) g", rows)
    try:
        page, found, pages = await source.read(after), 0, 1
        while True:
            sizes = [len(entry.keys or ()) for entry in page.entries]
            assert sum(sizes) < MAX_ELEMENTS + max(sizes)
            found += sum(sizes)
            if not page.more:
                break
            page, pages = await source.read(after, page.cursor), pages + 1
        assert (found, pages) == (rows, 4)
    finally:
        await source.close()


# --- what the API refuses -----------------------------------------------------------------------


async def test_a_key_that_is_none_of_this_project(project: SupabaseDouble) -> None:
    source = source_of(project, key="sb_secret_of_somebody_else")
    try:
        with pytest.raises(
            DatabaseUnavailable, match=r"refused the key \(HTTP 401\).*SUPABASE_SECRET_KEY"
        ) as error:
            await source.read(None)
        assert "somebody" not in str(error.value)
        expired = source_of(project, key=project.keys.token("service_role", expires_in=-10))
        with pytest.raises(DatabaseUnavailable, match="refused the key"):
            await expired.read(None)
        await expired.close()
    finally:
        await source.close()


async def test_a_publishable_key_is_told_from_a_secret_one(project: SupabaseDouble) -> None:
    source = source_of(project, key=project.keys.token("anon"))
    try:
        with pytest.raises(MigrationMissing, match="SUPABASE_SECRET_KEY must be a secret key"):
            await source.read(None)
    finally:
        await source.close()


async def test_a_service_role_key_of_the_old_kind_will_do(project: SupabaseDouble) -> None:
    source = source_of(project, key=project.keys.token("service_role"))
    try:
        assert (await source.read(None)).covered
    finally:
        await source.close()


async def test_migrations_that_were_not_pushed(empty_database: Database) -> None:
    async with SupabaseDouble(empty_database) as project:
        source = source_of(project)
        try:
            with pytest.raises(MigrationMissing, match=r"unstale_watches.*PGRST202.*supabase db push"):
                await source.watch_versions()
        finally:
            await source.close()


async def test_rights_that_were_taken_away(project: SupabaseDouble, database: Database) -> None:
    async with connected(database.dsn) as db:
        await db.execute(
            "revoke execute on function unstale.read(pg_snapshot,pg_snapshot,xid8,bigint,integer,integer) "
            "from service_role"
        )
    source = source_of(project)
    try:
        with pytest.raises(MigrationMissing, match="push unstale's migrations, which grant"):
            await source.read(None)
    finally:
        await source.close()


async def _change(db: object, heard: Listener) -> None:
    """One change, until it was announced."""
    number = 100_000 + next(_numbers)
    await db.execute("insert into profiles values ($1, 'x')", number)  # type: ignore[attr-defined]
    await eventually(lambda: f"user:{number}:profile" in heard.keys)
