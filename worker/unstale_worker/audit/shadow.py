"""Measures how stale a cache is today, before a project adopts unstale: without worker, outbox or captures.

It watches a sample of cached keys and compares each with its loader, again and again. A difference counts as
stale if the key held the same value before and after the database was read: then it was stale in between.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import ConfigurationError, DatabaseUnavailable, Unavailable
from unstale.protocol import codec
from unstale.protocol.sealed import SEALED
from unstale.settings import WorkerSettings
from unstale_worker.audit.judging import other_form, same
from unstale_worker.audit.looks import Seen, Watched
from unstale_worker.audit.opening import Scope, connections_of, scope_of
from unstale_worker.redis.applier import unavailable
from unstale_worker.redis.client import open_redis
from unstale_worker.refresh.sql.sql_loading import Statements, check, load
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.event_loop import stopped_within
from unstale_worker.runtime.logs import get_logger
from unstale_worker.runtime.postgres_errors import CONNECTION_ERRORS
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections, end_session

log = get_logger("unstale.audit")

WATCHED: Final = 500
"""Keys of one loader that are watched at the same time."""
SCANNED: Final = 1_000
"""Keys that one step of SCAN visits."""


class Shadow:
    """Looks at a sample of cached keys, once a second.

    Attributes:
        seen: By loader.
        outages: Rounds in which a server did not answer.
    """

    def __init__(
        self, redis: Redis, rules: Rules, scope: Scope, connections: PostgresConnections, *, tick: float = 1.0
    ) -> None:
        self._redis, self._rules, self._connections, self._tick = redis, rules, connections, tick
        self._connection: asyncpg.Connection | None = None
        self._statements = Statements(pooled=True)
        self._watched: dict[str, dict[str, Watched]] = {}
        self._cursors: dict[str, int] = {}
        self.scope = scope
        self.seen = {spec.template.text: Seen() for spec in scope.audited}
        self.outages = 0

    @property
    def looks(self) -> int:
        """Looks that had a result."""
        return sum(seen.looks for seen in self.seen.values())

    async def check(self) -> list[str]:
        """Run each loader for no key; return what is wrong with them. Raises `DatabaseUnavailable`."""
        async with self._session() as connection:
            found = [await check(connection, self._statements, spec) for spec in self.scope.audited]
        return [problem for problem in found if problem is not None]

    async def run(self, stop: asyncio.Event, *, seconds: float | None = None) -> None:
        """Look until ``stop`` is set or ``seconds`` are over. Raises `ConfigurationError`."""
        ends = None if seconds is None else time.monotonic() + seconds
        while not stop.is_set() and (ends is None or time.monotonic() < ends):
            began = time.monotonic()
            try:
                for spec in self.scope.audited:
                    await self._round(spec)
            except Unavailable as error:
                if isinstance(error, ConfigurationError):
                    raise
                self.outages += 1
                log.warning("a server does not answer", error=str(error))
            pause = self._tick - (time.monotonic() - began)
            if ends is not None:
                pause = min(pause, ends - time.monotonic())
            await stopped_within(stop, seconds=max(0.0, pause))

    async def close(self) -> None:
        """Close the session."""
        connection, self._connection = self._connection, None
        await end_session(connection)

    async def _round(self, spec: RefreshSpec) -> None:
        watched = self._watched.setdefault(spec.template.text, {})
        await self._find(spec, watched)
        if not watched:
            return
        before, lives = await self._read(list(watched))
        seen, now = self.seen[spec.template.text], time.monotonic()
        for key in watched.keys() - before.keys():
            seen.ended(watched.pop(key))
        if not before:
            return
        async with self._session() as connection:
            loaded = await load(connection, self._statements, spec, list(before))
        now = time.monotonic()
        different = [key for key, value in loaded.values.items() if not same(before[key], value)]
        after = (await self._read(different))[0] if different else {}
        seen.refused.update(loaded.failures.values())
        for key, value in loaded.values.items():
            if key not in different:
                seen.ended(watched[key])
            elif after.get(key) != before[key]:
                continue  # replaced while the database was read
            elif (reason := other_form(before[key], value)) is not None:
                seen.refused[reason] += 1
                continue
            else:
                seen.found_stale(key, watched[key], now)
            seen.looks += 1
            seen.without_ttl += lives[key] < 0

    async def _find(self, spec: RefreshSpec, watched: dict[str, Watched]) -> None:
        """Take one step of SCAN, and watch what it finds while there is room."""
        if len(watched) >= WATCHED:
            return
        name = spec.template.text
        try:
            found: Any = await self._redis.scan(
                self._cursors.get(name, 0), match=spec.pattern, count=SCANNED, _type="string"
            )
        except RedisError as error:
            raise unavailable(error) from error
        self._cursors[name], keys = int(found[0]), found[1]
        random.shuffle(keys)
        for raw in keys:
            key = raw.decode("utf-8", "replace")
            if len(watched) < WATCHED and self._rules.refresh_of(key) is spec:
                watched.setdefault(key, Watched())

    async def _read(self, keys: list[str]) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the values that exist, and the life that each has left in milliseconds."""
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.mget(keys)
                for key in keys:
                    pipe.pttl(key)
                found, *lives = await pipe.execute()
        except RedisError as error:
            raise unavailable(error) from error
        values = {
            key: value
            for key, value in zip(keys, found, strict=True)
            if value is not None and codec.is_value(value) and not value.startswith(SEALED)
        }
        return values, dict(zip(keys, lives, strict=True))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._connections.open(name="audit")
        connection = self._connection
        try:
            async with connection.transaction(readonly=True):
                yield connection
        except BaseException as error:
            connection.terminate()
            self._connection = None
            if isinstance(error, (*CONNECTION_ERRORS, asyncpg.PostgresError)):
                raise DatabaseUnavailable(
                    f"the Postgres session was lost ({type(error).__name__})"
                ) from error
            raise

    # --- result ---------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return {
            "shadow": True,
            "looks": self.looks,
            "stale": sum(seen.stale for seen in self.seen.values()),
            "not_audited": self.scope.left_out,
            "loaders": {template: seen.as_dict() for template, seen in self.seen.items()},
            "outages": self.outages,
        }

    def lines(self) -> Iterator[str]:
        """Yield the figures as text."""
        for template, reason in self.scope.left_out.items():
            yield f"not audited  {template}: {reason}"
        for template, seen in self.seen.items():
            yield from seen.lines(template)


@asynccontextmanager
async def shadowing(settings: WorkerSettings, rules: Rules, *, tick: float = 1.0) -> AsyncIterator[Shadow]:
    """Open a shadow; raises `ConfigurationError` if a loader does not run, and `Unavailable`."""
    scope = scope_of(rules)
    connections = connections_of(settings, scope)
    connections = replace(connections, pooled=await is_transaction_pooler(connections))
    async with open_redis(settings, connections=1) as redis:
        shadow = Shadow(redis, rules, scope, connections, tick=tick)
        try:
            if problems := await shadow.check():
                raise ConfigurationError("; ".join(problems))
            yield shadow
        finally:
            await shadow.close()
