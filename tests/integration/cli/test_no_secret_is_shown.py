"""Commands, logs, exceptions, reprs and stats of odd URLs, searched for every piece of their password.

A part of the 200 and more URLs is taken; with ``EVERY_URL=1`` in the environment, all are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import eventually
from servers.odd_urls import PIECES, leaks, odd_urls
from unstale import Cache, ConnectionPool
from unstale.settings import WorkerSettings
from unstale_worker.cli import commands
from unstale_worker.leader.supervisor import Worker
from unstale_worker.refresh.refresh_worker import RefreshWorker
from unstale_worker.rules import Rules
from workers import PROFILES
from workers.commands import run

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

REFRESHED = PROFILES + '[refresh."user:{id}:profile"]\nloader = "asyncio:sleep"\n'
CLOSED = "127.0.0.1:1"
VALUE_KEYS = f"a:{''.join(PIECES).ljust(42, 'A')}A="
"""A key of 32 bytes whose base64 holds the pieces."""
AT_ONCE = 40


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fail at once for other hosts, which an odd URL may name, and read no file of this machine's user."""
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", "::1", "localhost", None):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    (tmp_path / "unstale.toml").write_text(REFRESHED)
    (tmp_path / "service.conf").write_text("[tops3cretp1ecetwo]\npassword tops3cretp1ecetwo\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service.conf"))
    monkeypatch.chdir(tmp_path)


def failing_keys(user: str | None) -> str:
    """Fail as a KMS might whose error tells too much."""
    raise OSError(f"the key of {user} is {VALUE_KEYS}")


def urls() -> Iterator[tuple[str, str, str]]:
    """Iterate over values of DATABASE_URL, REDIS_URL and SUPABASE_URL."""
    pairs = zip(
        odd_urls("postgresql", CLOSED), odd_urls("redis", CLOSED), odd_urls("https", CLOSED), strict=True
    )
    yield from pairs


async def attempted(*makers: Callable[[], Any]) -> str:
    """Return what each attempt raises, with its traceback, or the repr of its result."""
    said = ""
    for make in makers:
        try:
            made = make()
            said += repr(await made if asyncio.iscoroutine(made) else made)
        except Exception as error:
            said += "".join(traceback.format_exception(error)) + repr(error)
    return said


async def ran(worker: Worker | RefreshWorker) -> str:
    """Run a worker until its first problem, and return all it shows."""
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop=stop))
    await eventually(lambda: task.done() or worker.status().problem)
    stop.set()
    try:
        await task
    finally:
        said = repr(worker) + repr(worker.status())
    return said


async def asked(pool: ConnectionPool) -> str:
    async with pool:
        await pool.warm()
        said = repr(pool)
        said += await attempted(lambda: pool.postgres(), lambda: pool.supabase())
        return said + repr(await pool.get_stats())


async def queried(pool: ConnectionPool) -> str:
    async with pool:
        postgres = await pool.postgres()
        async with asyncio.timeout(5):
            return repr(await postgres.fetchval("select 1"))


async def read(cache: Cache) -> str:
    async with cache:
        await cache.get_or_load("k", lambda: 1)
        return repr(cache) + repr(await cache.get_stats()) + repr(cache.inspect())


def test_no_object_log_or_exception_shows_a_piece(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def everything(database: str, redis: str, project: str) -> str:
        given: dict[str, Any] = {"database_url": database, "redis_url": redis, "redis_timeout": 0.5}
        more = {"supabase_url": project, "supabase_key": "sb_secret_x", "openai_api_key": "x"}
        rules = Rules.parse(REFRESHED)
        encrypted: dict[str, Any] = {"value_keys": VALUE_KEYS, "redis_url": f"redis://{CLOSED}"}
        failing: dict[str, Any] = {"value_key_function": f"{__name__}:failing_keys", "redis_timeout": 0.5}
        return await attempted(
            lambda: WorkerSettings(value_keys=f"a:{''.join(PIECES)}"),
            lambda: WorkerSettings(value_keys=f"{PIECES[0]} {PIECES[1]}:{database}"),
            lambda: ran(Worker(WorkerSettings(**encrypted, database_url=database), rules)),
            lambda: read(Cache.from_env(env_file=None, **encrypted, redis_timeout=0.5)),
            lambda: read(Cache.from_env(env_file=None, redis_url=f"redis://{CLOSED}", **failing)),
            lambda: WorkerSettings(**given, **more),
            lambda: ran(Worker(WorkerSettings(**given), rules)),
            lambda: ran(Worker(WorkerSettings(redis_url=f"redis://{CLOSED}", database_url=database), rules)),
            lambda: ran(RefreshWorker(WorkerSettings(**given), rules)),
            lambda: read(Cache.from_env(env_file=None, redis_url=redis, redis_timeout=0.5)),
            lambda: asked(ConnectionPool.from_env(env_file=None, database_url=database, **more)),
            lambda: queried(ConnectionPool.from_env(env_file=None, database_url=database)),
        )

    async def all_urls() -> None:
        many = list(urls())[
            :: 1 if os.environ.get("EVERY_URL") else 12
        ]  # tests/unit/test_server_urls.py parses all; each of these takes 0.3 s
        for start in range(0, len(many), AT_ONCE):
            some = many[start : start + AT_ONCE]
            for given, said in zip(
                some, await asyncio.gather(*(everything(*each) for each in some)), strict=True
            ):
                assert not leaks(said), (given, [line for line in said.splitlines() if leaks(line)])
            out, err = capfd.readouterr()
            logged = out + err + caplog.text
            caplog.clear()
            assert not leaks(logged), [line for line in logged.splitlines() if leaks(line)]

    asyncio.run(all_urls())


@pytest.mark.parametrize("command", [("doctor",), ("stats",), ("dead-letters",), ("tail",)])
def test_no_command_prints_a_piece(
    command: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["unstale", *command])
    monkeypatch.setenv("UNSTALE_REDIS_TIMEOUT", "0.5")
    monkeypatch.setenv("UNSTALE_VALUE_KEYS", VALUE_KEYS)
    codes = set()
    # All parse their URLs as the doctor does, and a run takes a second and more.
    every = 1 if os.environ.get("EVERY_URL") else 12 if command == ("doctor",) else 24
    for database, redis, project in list(urls())[::every]:
        for name, value in (("DATABASE_URL", database), ("REDIS_URL", redis), ("SUPABASE_URL", project)):
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            commands.main()
        codes.add(ended.value.code)
        out, err = capfd.readouterr()
        assert not leaks(out + err), (database, redis, out + err)
        assert "Traceback" not in out + err
    assert codes <= {1, 2}


@pytest.mark.parametrize(
    "url", ["postgresql://u:tops3cret#p1ecetwo@127.0.0.1/db", "x tops3cret", "tops3cret://h"]
)
def test_the_worker_ends_with_a_sentence(tmp_path: Path, url: str) -> None:
    for settings in ({"DATABASE_URL": url}, {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": url}):
        ended = run("worker", cwd=tmp_path, settings={"UNSTALE_HTTP_PORT": "0", **settings})
        assert ended.code == 2
        assert not leaks(ended.out + ended.err)
        assert "Traceback" not in ended.err
