"""A real worker in a test: inside the test's loop, or as a process that can be killed."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import PATIENCE, eventually
from unstale.protocol.messages import Invalidation, Message, Snapshot, decode
from unstale.protocol.names import Names
from unstale.settings import WorkerSettings
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.rules import Rules
from workers.forked import Forked, fork

TESTS = str(Path(__file__).parent.parent)

PROFILES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting_instructions"]

[ttl]
"user:*:profile" = "1h"
"""

SCHEMA = """
create table public.profiles (id bigint primary key, name text, version bigint not null default 0);
select unstale.watch('public.profiles', '{id}');
"""


LONG_LEASE: dict[str, Any] = {"leader_ttl": 30.0, "max_silence": 60.0}
"""Settings of a leader whose batch is held or large: its lease must not run out on a busy machine."""


def settings_for(dsn: str | None, redis_url: str, **more: Any) -> WorkerSettings:
    """Return the settings of a worker on these servers, without any `.env` of the machine."""
    return WorkerSettings.from_env(env_file=None, database_url=dsn, redis_url=redis_url, **more)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for the test's own statements."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def redis_at(url: str) -> AsyncIterator[Redis]:
    """Open a Redis client that fails at once instead of retrying."""
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def running_worker(
    dsn: str | None, redis_url: str, *, rules: str = PROFILES, leading: bool = True, **more: Any
) -> AsyncIterator[Worker]:
    """Run a worker inside this loop; with ``leading``, wait until it leads and has caught up."""
    worker = Worker(settings_for(dsn, redis_url, **more), Rules.parse(rules))
    stop = asyncio.Event()
    task = asyncio.create_task(worker.run(stop=stop))
    try:
        wanted = (Role.LEADING,) if leading else (Role.LEADING, Role.STANDBY)
        await eventually(
            lambda: task.done() or (worker.status().role in wanted and (not leading or worker.status().ready))
        )
        if task.done():
            task.result()
        yield worker
    finally:
        stop.set()
        await task


@contextmanager
def worker_process(
    dsn: str, redis_url: str, *, rules: str = PROFILES, armed: str = "", **environment: str
) -> Iterator[Forked]:
    """Run ``unstale worker`` as a process; kill it afterwards if the test did not end it.

    ``armed`` is a fault, see `workers.child`.
    """
    if armed:
        command = ["workers.child", armed]
        paths = (TESTS, environment.get("PYTHONPATH") or os.environ.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    else:
        command = ["unstale_worker.cli.commands", "worker"]
    with tempfile.TemporaryDirectory(prefix="unstale-test-") as folder:
        (Path(folder) / "unstale.toml").write_text(rules)
        with Path(os.devnull).open("wb") as nowhere:
            process = fork(
                command,
                cwd=folder,
                env={
                    **os.environ,
                    "DATABASE_URL": dsn,
                    "REDIS_URL": redis_url,
                    "UNSTALE_CONFIG": str(Path(folder) / "unstale.toml"),
                    "UNSTALE_HTTP_PORT": "0",
                    **environment,
                },
                stdout=nowhere.fileno(),
                stderr=nowhere.fileno(),
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


async def state_of(redis: Redis, names: Names | None = None) -> dict[str, str]:
    """Return the worker's state as text."""
    fields: Any = await redis.hgetall((names or Names()).state)
    return {name.decode(): value.decode() for name, value in fields.items()}


async def logged(redis: Redis) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the log: id and fields of each entry, oldest first."""
    entries: Any = await redis.xrange(Names().log)
    return list(entries)


async def xid_now(connection: asyncpg.Connection) -> int:
    """Return the highest transaction id in the outbox."""
    return int(await connection.fetchval("select coalesce(max(xid::text::bigint), 0) from unstale.outbox"))


async def applied(redis: Redis, connection: asyncpg.Connection, *, timeout: float = PATIENCE) -> None:
    """Wait until the stored position contains every entry of the outbox."""
    last = await xid_now(connection)

    async def reached() -> bool:
        position = (await state_of(redis)).get("position")
        return bool(position) and Snapshot.parse(str(position)).includes(last)

    await eventually(reached, timeout=timeout, message="the position contains everything")


class Listener:
    """Collect the messages of the invalidations channel."""

    def __init__(self, redis_url: str) -> None:
        self._client: Redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
        self._pubsub = self._client.pubsub()
        self._task: asyncio.Task[None] | None = None
        self.messages: list[Message] = []
        self.payloads: list[bytes] = []

    async def __aenter__(self) -> "Listener":
        await self._pubsub.subscribe(Names().channel)
        await self._pubsub.get_message(timeout=5)
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._pubsub.aclose()
        await self._client.aclose()

    async def _collect(self) -> None:
        while True:
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
            if message is not None:
                self.payloads.append(message["data"])
                self.messages.append(decode(message["data"]))

    async def caught_up(self, redis: Redis) -> None:
        """Wait until the newest message of the log has arrived.

        A script's effects can be read before its message was: what has not been heard yet proves nothing.
        """
        state = await state_of(redis)
        newest = (state["epoch"], int(state["last"]))
        await eventually(
            lambda: any(
                m.epoch == newest[0] and m.id >= newest[1]
                for m in self.messages
                if isinstance(m, Invalidation)
            ),
            message=f"message {newest} was heard",
        )

    @property
    def keys(self) -> list[str]:
        """Every key invalidated so far, in order."""
        return [key for message in self.messages if isinstance(message, Invalidation) for key in message.keys]

    @property
    def patterns(self) -> list[str]:
        """Every pattern invalidated so far, in order."""
        return [
            pattern
            for message in self.messages
            if isinstance(message, Invalidation)
            for pattern in message.patterns
        ]
