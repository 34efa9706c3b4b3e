"""Both servers, migrated: what demo, ``unstale dev`` and benchmarks start."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from servers import Database
from unstale_worker.dev_servers import EmbeddedPostgres, apply_migrations, migrations_folder, stack
from unstale_worker.dev_servers.running_sql import SqlFileError

HISTORY = (
    "select array_agg(version || ' ' || name order by version) from supabase_migrations.schema_migrations"
)
EVENT_TRIGGERS = "select count(*) from pg_event_trigger where evtowner = 'postgres'::regrole"


async def one_value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_the_stack_is_ready_to_work(tmp_path: Path) -> None:
    (tmp_path / "20260101000000_mine.sql").write_text("create table public.profiles (id bigint primary key);")
    async with stack(
        settings={"fsync": "off"}, migrations=[tmp_path], sql="insert into public.profiles values (42)"
    ) as both:
        assert await one_value(both.database_url, "select id from public.profiles") == 42
        assert await one_value(both.database_url, "select current_user") == "postgres"
        assert await one_value(both.worker_database_url, "select current_user") == "unstale_worker"
        assert await one_value(both.database_url, "select current_setting('fsync')") == "off"
        async with Redis.from_url(both.redis_url) as client:
            assert await client.ping()
        assert both.postgres.password not in repr(both)
        assert both.valkey.password not in repr(both)
        for url in (both.database_url, both.worker_database_url):
            rights = "select rolsuper from pg_roles where rolname = current_user"
            assert await one_value(url, rights) is False
        await one_value(both.database_url, "alter role unstale_worker password 'mine'")  # as the README says
        mine = both.worker_database_url.replace(both.postgres.password, "mine")
        assert await one_value(mine, "select current_user") == "unstale_worker"


async def test_our_migrations_work_with_and_without_event_triggers(
    database: Database, plain_database: Database
) -> None:
    assert await one_value(database.superuser_dsn, EVENT_TRIGGERS) != 0
    assert await one_value(plain_database.superuser_dsn, EVENT_TRIGGERS) == 0
    for ours in (database, plain_database):
        assert await one_value(
            ours.dsn, "select nspowner::regrole::text from pg_namespace where nspname = 'unstale'"
        )


async def test_migrations_are_applied_once_and_in_order(empty_database: Database, tmp_path: Path) -> None:
    (tmp_path / "20260102000000_second_file.sql").write_text("alter table first add column more int;")
    (tmp_path / "20260101000000_first.sql").write_text(
        "create table first (); insert into first default values;"
    )
    (tmp_path / "README.md").write_text("not SQL")
    dsn = empty_database.dsn
    first, second = "20260101000000_first.sql", "20260102000000_second_file.sql"
    assert await apply_migrations(dsn, tmp_path) == [first, second]
    assert await apply_migrations(dsn, tmp_path) == []
    assert await one_value(dsn, HISTORY) == ["20260101000000 first", "20260102000000 second_file"]


async def test_a_failing_migration_is_named_and_leaves_nothing(
    empty_database: Database, tmp_path: Path
) -> None:
    (tmp_path / "20260101000000_first.sql").write_text("create table first ();")
    (tmp_path / "20260102000000_broken.sql").write_text("create table second (); select no_such_thing;")
    (tmp_path / "20260103000000_third.sql").write_text("create table third ();")
    with pytest.raises(SqlFileError) as raised:
        await apply_migrations(empty_database.dsn, tmp_path)
    assert str(raised.value) == (
        f'{tmp_path}/20260102000000_broken.sql:1: column "no_such_thing" does not exist in '
        "`select no_such_thing`; correct the file"
    )
    assert isinstance(raised.value.__cause__, asyncpg.UndefinedColumnError)
    assert await one_value(empty_database.dsn, HISTORY) == ["20260101000000 first"]
    assert await one_value(empty_database.dsn, "select to_regclass('second')") is None


async def test_event_triggers_are_allowed_only_inside(postgres_server: EmbeddedPostgres) -> None:
    is_superuser = "select rolsuper from pg_roles where rolname = 'postgres'"

    async def fails() -> None:
        async with postgres_server.event_triggers_allowed():
            assert await one_value(postgres_server.superuser_dsn, is_superuser) is True
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        await fails()
    assert await one_value(postgres_server.superuser_dsn, is_superuser) is False


def test_our_migrations_are_found() -> None:
    names = [path.name for path in migrations_folder().glob("*.sql")]
    assert names
    assert all(name[:14].isdigit() for name in names)
