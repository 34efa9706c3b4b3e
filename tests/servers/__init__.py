"""Helpers for tests with real servers: wait for a condition, and find what a test left behind."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import asyncpg
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from unstale.protocol.names import WORKER_ROLE
from unstale_worker.dev_servers import EmbeddedPostgres

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds until a wait gives up. It ends a test that hangs, and decides no other: a busy machine may take ten
times as long as an idle one."""
LEAK_GRACE_SECONDS = 15.0  # a closed connection may need a moment to end; a leaked one stays
PERMANENT_KEYS = r"\{[^{}:]+:0\}:(state|rules|log|refresh|dead|refreshed)|unstale:namespace"


@dataclass(frozen=True, slots=True)
class Database:
    """A test's own database on the server of its process."""

    name: str
    server: EmbeddedPostgres = field(repr=False)

    @property
    def dsn(self) -> str:
        """URL of ``postgres``, Supabase's project role: the owner of the database, not a superuser."""
        return self.server.dsn(database=self.name)

    @property
    def superuser_dsn(self) -> str:
        """URL of the superuser ``supabase_admin``."""
        return self.server.dsn(user="supabase_admin", database=self.name)

    @property
    def worker_dsn(self) -> str:
        """URL of ``unstale_worker``, the role with the least rights that the worker needs."""
        return self.server.dsn(user=WORKER_ROLE, database=self.name)


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], *, timeout: float = PATIENCE, message: str = ""
) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], *, timeout: float = PATIENCE, message: str = "") -> T: ...


async def eventually(predicate: Callable[[], Any], *, timeout: float = PATIENCE, message: str = "") -> Any:
    """Poll `predicate` (plain or async) until it returns a true value, and return that value.

    Raises `AssertionError` with `message` and the last answer after `timeout` seconds; what the predicate
    raises passes through.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        answer = predicate()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{message or predicate!r} did not come true within {timeout} s: {value!r}")
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.05)


async def takes(seconds: float) -> None:
    """Take so long: a load, a pause or an outage whose length is the subject. To wait, use `eventually`."""
    await asyncio.sleep(seconds)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on its own loop and thread, for fixtures that outlive a test's loop."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def fresh_database(server: EmbeddedPostgres, *, name: str, template: str) -> Iterator[Database]:
    """Create a copy of `template`, owned by ``postgres``; drop it afterwards, when no session is left.

    Raises `AssertionError` naming the connections that were left open.
    """
    run_apart(create_database(server, name=name, template=template))
    try:
        yield Database(name=name, server=server)
        run_apart(expect_no_connections(server, database=name))
    finally:
        run_apart(drop_database(server, name=name))


async def create_database(server: EmbeddedPostgres, *, name: str, template: str) -> None:
    """Copy `template`. No session may be connected to it.

    It is copied as files: the usual way, through the WAL, takes more than twice the CPU.
    """
    await _with_identifiers(
        server,
        "select format('create database %I template %I strategy file_copy owner postgres', "
        "$1::text, $2::text)",
        name,
        template,
    )


async def drop_database(server: EmbeddedPostgres, *, name: str) -> None:
    """Drop a database, and end the sessions connected to it."""
    await _with_identifiers(
        server, "select format('drop database if exists %I with (force)', $1::text)", name
    )


async def expect_no_connections(server: EmbeddedPostgres, *, database: str) -> None:
    """Raise `AssertionError` when sessions of `database` stay open."""
    connection = await asyncpg.connect(server.superuser_dsn)
    try:

        async def left() -> list[str]:
            return [
                str(row[0])
                for row in await connection.fetch(
                    "select format('%s %s: %s', usename, application_name, query) from pg_stat_activity "
                    "where datname = $1 and backend_type = 'client backend'",
                    database,
                )
            ]

        try:
            await eventually(_negated(left), timeout=LEAK_GRACE_SECONDS)
        except AssertionError:
            raise AssertionError(f"left-over connections: {await left()}") from None
    finally:
        await connection.close()


def expect_keys_with_ttl(url: str, *, allowed: Collection[str] = ()) -> None:
    """Raise `AssertionError` naming keys that have no TTL and are neither permanent nor match `allowed`
    (regular expressions)."""
    expected = re.compile("|".join(f"(?:{pattern})" for pattern in (PERMANENT_KEYS, *allowed)))
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
        left = sorted(
            name
            for database in client.info("keyspace")
            for name in _keys_without_ttl(client, database=int(database.removeprefix("db")))
            if not expected.fullmatch(name)
        )
    if left:
        raise AssertionError(f"left-over keys without TTL: {left}")


async def expect_no_tasks() -> None:
    """Raise `AssertionError` when this loop has other tasks than the running one."""

    def left() -> list[str]:
        return sorted(repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task())

    try:
        await eventually(_negated(left), timeout=LEAK_GRACE_SECONDS)
    except AssertionError:
        raise AssertionError(f"left-over tasks: {left()}") from None


def _negated(probe: Callable[[], Any]) -> Callable[[], Awaitable[bool]]:
    async def negated() -> bool:
        answer = probe()
        return not (await answer if inspect.isawaitable(answer) else answer)

    return negated


def _keys_without_ttl(client: Redis, *, database: int) -> list[str]:
    client.execute_command("SELECT", database)
    names = list(client.scan_iter(count=1000))
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.pttl(name)
    return [
        name.decode(errors="replace")
        for name, ttl in zip(names, pipeline.execute(), strict=True)
        if ttl == -1
    ]


async def _with_identifiers(server: EmbeddedPostgres, formatting: str, *identifiers: str) -> None:
    """Let the server quote identifiers into a statement, then run it."""
    connection = await asyncpg.connect(server.superuser_dsn)
    try:
        await connection.execute(await connection.fetchval(formatting, *identifiers))
    finally:
        await connection.close()
