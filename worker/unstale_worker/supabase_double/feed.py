"""Changes out of a real Postgres: a temporary slot polled every 100 ms, as the service does it.

So publication, replica identity and commit order are Postgres's own; grants and row level security are looked
up as the service's ``apply_rls`` does, once per role.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from unstale_worker.supabase_double.changes import Binding, Change
from unstale_worker.supabase_double.keys import Claims
from unstale_worker.supabase_double.statements import statement
from unstale_worker.supabase_double.wal import Decoder

PUBLICATION = "supabase_realtime"
MESSAGES = "supabase_realtime_messages_publication"
"""The publication of the broadcasts that the database sends."""
MOST_ROWS = 100
"""Of one poll, unless a transaction is larger."""
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The last one: a connection that died between preparing a statement and running it."""


class Feed:
    """Reads the WAL from the first `start` on, over as many sessions as it takes.

    Args:
        tell: Awaited with each change.
        subscribed_anew: Awaited when the slot had to be made again: changes between were lost.
    """

    def __init__(
        self,
        dsn: str,
        *,
        tell: Callable[[Change], Awaitable[None]],
        subscribed_anew: Callable[[], Awaitable[None]],
        poll: float,
        messages: bool = False,
    ) -> None:
        self._publications = f"{PUBLICATION},{MESSAGES}" if messages else PUBLICATION
        self._dsn, self._tell, self._anew, self._poll = dsn, tell, subscribed_anew, poll
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None
        self._rights: asyncpg.Connection | None = None
        self._starting = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._seen: dict[tuple[str, str, str], list[asyncpg.Record]] = {}

    async def start(self) -> None:
        """Return when a slot exists: what is committed from now on will be told. Raises `asyncpg` errors."""
        async with self._starting:
            if self._task is None:
                await self._open()
                self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._drop()

    async def published(self, binding: Binding) -> bool:
        """Return True if the publication has the table that is subscribed to."""
        schema = None if binding.schema == "*" else binding.schema
        table = None if binding.table in (None, "*") else binding.table
        async with self._asking:
            return bool(await self._connected().fetchval(statement("published"), PUBLICATION, schema, table))

    async def seen_by(self, claims: Claims, change: Change) -> Change | None:
        """The change as this role gets it; None for a row it may not see."""
        async with self._asking:
            return await self._seen_by(claims, change)

    async def channel_rights(self, claims: Claims, topic: str) -> tuple[bool, bool]:
        """Return whether a role may receive from a private channel, and send to it, by its policies."""
        async with self._asking:
            connection = self._connected()
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute("select set_config('realtime.topic', $1, true)", topic)
                probe = await connection.fetchval(statement("message_probe"), topic)
                await connection.fetch(statement("act_as"), claims.role, json.dumps(claims.claims))
                receives = await _allowed(
                    connection, "select exists (select from realtime.messages where id = $1)", probe
                )
                return receives, await _allowed(connection, statement("message_send"), topic)
            finally:
                await transaction.rollback()

    async def _seen_by(self, claims: Claims, change: Change) -> Change | None:
        key = (change.schema, change.table, claims.role)
        if key not in self._seen:
            self._seen[key] = await self._connected().fetch(statement("may_see"), *key)
        columns = self._seen[key]
        keys = [column["name"] for column in columns if column["is_key"]]
        if change.type != "DELETE" and not keys:
            return change.failed("Error 400: Bad Request, no primary key")
        if change.type != "DELETE" and not all(c["visible"] for c in columns if c["is_key"]):
            return change.failed("Error 401: Unauthorized")
        guarded = bool(columns) and columns[0]["guarded"]
        if guarded and change.type != "DELETE" and not await self._row_visible(claims, change, keys):
            return None
        if guarded and change.type == "DELETE":
            columns = [column for column in columns if column["is_key"]]
        told = {column["name"] for column in columns if column["visible"]}
        types = tuple((column["name"], column["type"]) for column in columns if column["visible"])
        seen = change.only(told)
        return Change(
            seen.schema, seen.table, seen.type, seen.record, seen.old_record, types, seen.commit_timestamp
        ).shortened()

    async def _row_visible(self, claims: Claims, change: Change, keys: list[str]) -> bool:
        rights = self._connected()
        query = await rights.fetchval(statement("row_query"), change.schema, change.table, keys)
        values = [str(change.record.get(name)) for name in keys]
        try:
            async with rights.transaction():
                await rights.fetch(statement("act_as"), claims.role, json.dumps(claims.claims))
                return bool(await rights.fetchval(query, values))
        except asyncpg.InsufficientPrivilegeError:
            return False

    def _connected(self) -> asyncpg.Connection:
        if self._rights is None:
            raise ConnectionError("no connection to the database now")
        return self._rights

    async def _run(self) -> None:
        while True:
            try:
                if self._connection is None:
                    await self._open()
                    await self._anew()
                await self._read()
            except LOST:
                await self._drop()
                await asyncio.sleep(self._poll)

    async def _open(self) -> None:
        rights = await asyncpg.connect(self._dsn, server_settings={"application_name": "realtime_rls"})
        try:
            await rights.execute(statement("create_publication"))
            connection = await asyncpg.connect(self._dsn, server_settings={"application_name": "realtime"})
        except BaseException:
            rights.terminate()
            raise
        self._rights, self._connection = rights, connection
        self._slot = f"double_{secrets.token_hex(6)}"
        try:
            await connection.fetchval(statement("create_slot"), self._slot)
        except BaseException:
            await self._drop()
            raise

    async def _read(self) -> None:
        assert self._connection is not None
        decoder = Decoder()
        while True:
            rows = await self._connection.fetch(
                statement("poll_slot"), self._slot, self._publications, MOST_ROWS
            )
            self._seen.clear()  # rights may have changed
            for (message,) in rows:
                change = decoder.read(message)
                if change is not None:
                    await self._tell(change)
            if not rows:
                await asyncio.sleep(self._poll)

    async def _drop(self) -> None:
        for connection in (self._connection, self._rights):
            if connection is not None:
                try:
                    await connection.close(timeout=1)
                except (*LOST, TimeoutError):
                    connection.terminate()
        self._connection = self._rights = None


async def _allowed(connection: asyncpg.Connection, text: str, argument: object) -> bool:
    """Return True if a statement returns no false value and needs no right that is missing."""
    try:
        async with connection.transaction():
            return await connection.fetchval(text, argument) is not False
    except asyncpg.InsufficientPrivilegeError:
        return False
