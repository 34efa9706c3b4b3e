"""A mistake in a URL ends a first start with a sentence about its part; later the same is an outage."""

from __future__ import annotations

import asyncio
import datetime
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis

from servers import Database, eventually
from servers.tls_front import TlsFront
from unstale import Cache
from unstale.errors import ConfigurationError, DatabaseUnavailable, RedisUnavailable
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Severity, examine
from unstale_worker.leader.supervisor import Worker
from unstale_worker.refresh.refresh_worker import RefreshWorker
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import configure_logging
from workers import PROFILES, SCHEMA, connected, running_worker, settings_for
from workers.commands import run


@pytest.fixture
async def watched(database: Database) -> Database:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
    return database


def with_part(dsn: str, *, user: str = "", database: str = "", options: str = "", port: int = 0) -> str:
    """Return ``dsn`` with one part replaced."""
    login, _, place = dsn.removeprefix("postgresql://").partition("@")
    hosts, _, name = place.partition("/")
    if port:
        hosts = f"127.0.0.1:{port}"
    name, _, given = name.partition("?")
    query = "&".join(filter(None, (options, *(item for item in given.split("&") if item[:7] != options[:7]))))
    return f"postgresql://{user or login}@{hosts}/{database or name}{'?' if query else ''}{query}"


async def first_start(dsn: str, redis_url: str) -> str:
    """Return the sentence with which a worker's first start ends."""
    with pytest.raises(ConfigurationError) as ended:
        async with asyncio.timeout(60):
            await Worker(settings_for(dsn, redis_url), Rules.parse(PROFILES)).run(stop=asyncio.Event())
    return str(ended.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": "pgbouncer=true"}, "option 'pgbouncer' is one of Prisma"),
        ({"options": "schema=app"}, "option 'schema' is one of Prisma"),
        ({"options": "channel_binding=require"}, "option 'channel_binding' is one of libpq"),
        ({"options": "no_such_setting=1"}, "Postgres refuses option 'no_such_setting'"),
        ({"options": "statement_timeout=soon"}, "Postgres refuses option 'statement_timeout'"),
        ({"options": "session_replication_role=replica"}, "not set option 'session_replication_role'"),
        ({"options": "sslmode=require"}, "Postgres does not encrypt its connections"),
        ({"options": "sslmode=require&sslcert=/nowhere/a&sslkey=/nowhere/b"}, "a part of it cannot be used"),
        ({"database": "no_such_db"}, "the database 'no_such_db' of DATABASE_URL does not exist"),
        ({"user": "unstale_worker:wrong"}, "refused the user or password of DATABASE_URL"),
        ({"user": "unstale_worker"}, "DATABASE_URL contains no password"),
        ({"user": "nobody_here:x"}, "refused the user or password of DATABASE_URL"),
    ],
)
async def test_a_wrong_part_of_database_url_ends_a_first_start(
    watched: Database, redis_url: str, change: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nowhere/pgpass")
    url = with_part(watched.worker_dsn, **change)  # type: ignore[arg-type]  # the port is no text
    assert says in await first_start(url, redis_url)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("/0", "/99"), "database number of REDIS_URL"),
        (("/0", "/0?decode_responses=True"), "'decode_responses' changes the form of Redis' replies"),
        (("/0", "/0?protocol=3"), "'protocol' changes the form of Redis' replies"),
        (("/0", "/0?no_such=1"), "there is no option 'no_such'"),
        (("redis://", "rediss://"), "does not speak TLS; write redis://"),
        (("redis://:", "redis://:wrong"), "refused the user or password of REDIS_URL"),
        (("redis://:", "redis://nobody:"), "refused the user or password of REDIS_URL"),
    ],
)
async def test_a_wrong_part_of_redis_url_ends_a_first_start(
    watched: Database, redis_url: str, change: tuple[str, str], says: str
) -> None:
    before, after = change
    assert before in redis_url
    wrong = redis_url.replace(before, after)
    assert says in await first_start(watched.worker_dsn, wrong)
    rules = Rules.parse(PROFILES + '[refresh."user:{id}:profile"]\nloader = "asyncio:sleep"\n')
    with pytest.raises(ConfigurationError, match=r"Redis|REDIS_URL"):
        async with asyncio.timeout(60):
            await RefreshWorker(settings_for(None, wrong), rules).run(stop=asyncio.Event())


async def test_a_missing_password_and_a_missing_right_end_it_too(watched: Database) -> None:
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        nobody = valkey.url.replace(f":{valkey.password}@", "")
        assert "requires a password, and REDIS_URL contains none" in await first_start(
            watched.worker_dsn, nobody
        )
        await redis.execute_command("ACL", "SETUSER", "few", "on", ">few", "~*", "&*", "+@all", "-evalsha")
        few = valkey.url.replace(f":{valkey.password}@", "few:few@")
        assert "lacks a right" in await first_start(watched.worker_dsn, few)
        await redis.execute_command("ACL", "SETUSER", "default", "nopass")
        async with Cache.from_env(env_file=None, redis_url=valkey.url) as cache:
            problem = str((await cache.get_stats())["problem"])
        assert "contains a password, but this Redis has none" in problem


@asynccontextmanager
async def encrypted(port: int) -> AsyncIterator[TlsFront]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(
        "localhost", "127.0.0.1", not_after=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    ).configure_cert(context)
    with TlsFront(port, context, plain=False) as front:
        yield front


async def test_plain_against_tls_and_a_strange_certificate(watched: Database, valkey: EmbeddedValkey) -> None:
    async with encrypted(valkey.port) as front:
        plain = valkey.url.replace(f":{valkey.port}", f":{front.port}")
        said = await first_start(watched.worker_dsn, plain)
        assert "speaks TLS; write rediss:// instead of redis://" in said
        said = await first_start(watched.worker_dsn, plain.replace("redis://", "rediss://"))
        assert "certificate of Redis is not trusted" in said


async def test_the_same_after_a_start_is_an_outage(
    watched: Database, valkey: EmbeddedValkey, tmp_path: Path, logging_as_it_was: None
) -> None:
    logged = io.StringIO()
    configure_logging("info", stream=logged)
    async with running_worker(watched.worker_dsn, valkey.url) as worker, Redis.from_url(valkey.url) as redis:
        async with connected(watched.superuser_dsn) as db:
            await db.execute("alter role unstale_worker nologin")
            try:
                await db.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'unstale_worker'"
                )
                await eventually(lambda: "refused the user or password of DATABASE_URL" in logged.getvalue())
            finally:
                await db.execute("alter role unstale_worker login")
        await redis.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
        try:
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await eventually(lambda: "refused the user or password of REDIS_URL" in logged.getvalue())
        finally:
            await redis.execute_command("ACL", "SETUSER", "default", "resetpass", f">{valkey.password}")
        await eventually(lambda: worker.status().ready)


async def test_an_agent_says_it_once_and_in_its_stats(
    valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = valkey.url.replace("redis://:", "redis://:wrong")
    async with Cache.from_env(env_file=None, redis_url=wrong) as cache:
        assert await cache.get_or_load("k", lambda: 1) == 1
        stats = await cache.get_stats()
        assert "refused the user or password of REDIS_URL" in str(stats["problem"])
        assert "does not answer" not in str(stats["problem"])
        sentence = "user or password of REDIS_URL; correct it"
        await eventually(
            lambda: f"detached: Redis at 127.0.0.1:{valkey.port} refused the {sentence}" in caplog.text
        )
        await asyncio.sleep(0.3)
        assert caplog.text.count("refused the user or password of REDIS_URL") == 1
    async with Cache.from_env(env_file=None, redis_url=valkey.url) as cache:
        assert (await cache.get_stats())["problem"] is None


async def test_the_doctor_names_the_part(watched: Database, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    wrong = settings_for(
        with_part(watched.worker_dsn, database="no_such_db"),
        redis_url.replace("/0", "/0?decode_responses=True"),
        config=tmp_path / "unstale.toml",
    )
    errors = [found.finding for found in await examine(wrong) if found.severity is Severity.ERROR]
    assert any("'no_such_db' of DATABASE_URL does not exist" in text for text in errors)
    assert any("'decode_responses'" in text for text in errors)


def test_the_commands_exit_with_2(tmp_path: Path, database: Database, redis_url: str) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    wrong = redis_url.replace("/0", "/99")
    for command in ("stats", "dead-letters", "tail", "worker"):
        ended = run(command, cwd=tmp_path, settings={"REDIS_URL": wrong, "DATABASE_URL": database.worker_dsn,
                                                     "UNSTALE_HTTP_PORT": "0"})  # fmt: skip
        assert (ended.code, "Traceback" in ended.err) == (2, False), command
        assert "database number of REDIS_URL" in ended.err
    ended = run("worker", cwd=tmp_path, settings={"DATABASE_URL": "", "REDIS_URL": ""})
    assert ended.code == 2
    assert "DATABASE_URL is not set" in ended.err


def test_an_outage_is_no_mistake() -> None:
    assert not issubclass(DatabaseUnavailable, ConfigurationError)
    assert not issubclass(RedisUnavailable, ConfigurationError)
