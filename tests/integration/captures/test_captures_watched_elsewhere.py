"""The checks of captures over both sources, with event triggers, in a new term, and where they fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import structlog
from redis.asyncio import Redis

from servers import Database, eventually
from servers.both_sources import KINDS, way
from unstale_worker.captures import monitor
from workers import SCHEMA, Listener, connected, redis_at, running_worker

TABLE = "public.profiles"
KEY = "user:1:profile"
SWAPPED = """
drop table public.profiles;
create table public.profiles (id bigint primary key, name text, version bigint);
"""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check several times a second instead of twice a minute."""
    for name in ("CHECK_EVERY", "REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.1)


def said(logs: Sequence[Mapping[str, object]], word: str) -> list[Mapping[str, object]]:
    """Return the lines whose event contains ``word``."""
    return [line for line in logs if word in str(line["event"])]


async def is_dropped(redis: Redis) -> None:
    """Set the key, and wait until it was invalidated although nothing reported a change."""
    await redis.set(KEY, '"old"', ex=600)

    async def gone() -> bool:
        return await redis.get(KEY) is None

    await eventually(gone, message="the key is invalidated although no change is reported")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_table_that_is_dropped_and_created_again_is_noticed_at_once(
    database: Database, redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event triggers write a whole-table entry, which makes a check due: no timer is needed."""
    monkeypatch.setattr(monitor, "CHECK_EVERY", 1e6)
    monkeypatch.setattr(monitor, "REPEAT_EVERY", 0.1)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis, way(kind, database) as there:
        await db.execute(SCHEMA)
        with structlog.testing.capture_logs() as logs:
            async with there.worker(redis_url) as worker:
                await db.execute(SWAPPED)
                await eventually(lambda: TABLE in worker.status().not_captured)
                await is_dropped(redis)
                await is_dropped(redis)
                assert len(said(logs, "may go unreported")) == 1
                await db.execute("select unstale.watch('public.profiles', '{id}')")
                await eventually(lambda: not worker.status().not_captured)
                assert len(said(logs, "whole again")) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_the_timer_notices_what_no_event_tells(
    plain_database: Database, redis_url: str, kind: str, often: None
) -> None:
    async with (
        connected(plain_database.dsn) as db,
        redis_at(redis_url) as redis,
        way(kind, plain_database) as there,
    ):
        await db.execute(SCHEMA)
        async with there.worker(redis_url) as worker:
            await db.execute("alter table profiles disable trigger unstale_1_update")
            await eventually(lambda: TABLE in worker.status().not_captured)
            await is_dropped(redis)


async def test_a_new_term_checks_before_anything_else(plain_database: Database, redis_url: str) -> None:
    async with connected(plain_database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(plain_database.worker_dsn, redis_url):
            pass
        await db.execute("alter table profiles disable trigger unstale_1_update")
        await redis.set(KEY, '"old"', ex=600)
        async with running_worker(plain_database.worker_dsn, redis_url) as worker:
            await eventually(lambda: TABLE in worker.status().not_captured)

            async def gone() -> bool:
                return await redis.get(KEY) is None

            await eventually(gone)


async def test_what_is_repaired_between_two_terms_is_invalidated_once_more(
    plain_database: Database, redis_url: str
) -> None:
    """The next leader finds all well; what was cached while nothing was captured may be old all the same."""
    async with connected(plain_database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute("alter table profiles disable trigger unstale_1_update")
        async with running_worker(plain_database.worker_dsn, redis_url) as worker:
            await eventually(lambda: TABLE in worker.status().not_captured)
        await redis.set(KEY, '"old"', ex=600)
        await db.execute("alter table profiles enable always trigger unstale_1_update")
        with structlog.testing.capture_logs() as logs:
            async with running_worker(plain_database.worker_dsn, redis_url) as worker:
                assert await redis.get(KEY) is None
                assert not worker.status().not_captured
                assert len(said(logs, "whole again")) == 1
        await redis.set(KEY, '"new"', ex=600)
        async with running_worker(plain_database.worker_dsn, redis_url):
            assert await redis.get(KEY) == b'"new"', "and only once"


async def test_where_no_event_trigger_follows_a_renamed_key_column_is_said_once(
    plain_database: Database, redis_url: str, often: None
) -> None:
    """Its captures write whole-table entries from then on: nothing is stale, and every write costs a scan."""
    async with connected(plain_database.dsn) as db, Listener(redis_url) as heard:
        await db.execute(SCHEMA)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(plain_database.worker_dsn, redis_url) as worker:
                await db.execute("alter table profiles rename column id to number")
                await db.execute("insert into profiles values (1, 'x')")
                await eventually(lambda: "user:*:profile" in heard.patterns)
                await eventually(lambda: TABLE in worker.status().coarsely_captured)
                assert "does not fit the table" in worker.status().coarsely_captured[TABLE]
                assert not worker.status().not_captured
                for number in range(2, 6):
                    await db.execute("insert into profiles values ($1, 'x')", number)
                await db.execute("alter table profiles rename column number to id")
                await eventually(lambda: not worker.status().coarsely_captured)
                assert len(said(logs, "more keys than needed")) == 1
                assert len(said(logs, "whole again")) == 1


async def test_a_dropped_key_column_is_said_once(database: Database, redis_url: str, often: None) -> None:
    async with connected(database.dsn) as db:
        await db.execute("create table public.profiles (id bigint, name text)")
        await db.execute("select unstale.watch('public.profiles', '{id}')")
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url) as worker:
                await db.execute("alter table profiles drop column id")
                await eventually(lambda: TABLE in worker.status().coarsely_captured)
                assert "key column id is gone" in worker.status().coarsely_captured[TABLE]
                await db.execute("insert into profiles values ('x')")
                assert len(said(logs, "more keys than needed")) == 1


async def test_captures_that_cannot_be_checked_count_as_broken(
    database: Database, redis_url: str, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "RETRY_AFTER", 0.1)
    monkeypatch.setattr(monitor, "UNKNOWN_AFTER", 0.3)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(database.worker_dsn, redis_url) as worker:
                await db.execute("revoke execute on function unstale.watch_states from unstale_worker")
                await eventually(lambda: TABLE in worker.status().not_captured)
                assert worker.status().ready, "changes are applied all the same"
                await is_dropped(redis)
                await db.execute("grant execute on function unstale.watch_states to unstale_worker")
                await eventually(lambda: not worker.status().not_captured)
        assert len(said(logs, "could not be checked")) == 1


async def test_without_the_function_the_worker_says_what_to_push(database: Database, redis_url: str) -> None:
    from unstale.errors import MigrationMissing

    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        for older in (
            "drop function unstale.watch_states cascade",
            "alter view unstale.watch_versions rename column key_types to something_else",
        ):
            await db.execute(older)
            with pytest.raises(MigrationMissing, match="unstale migration"):
                async with running_worker(database.worker_dsn, redis_url):
                    pass
