"""One joined channel of one socket: its subscriptions, and what the service says on it by itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from unstale_worker.supabase_double.changes import Binding, Change
from unstale_worker.supabase_double.feed import LOST
from unstale_worker.supabase_double.keys import Claims, Refused
from unstale_worker.supabase_double.parties import Connection
from unstale_worker.supabase_double.phoenix import Frame

SUBSCRIBED = "Subscribed to PostgreSQL"
MOST_CONFIRM_SECONDS = 300.0
"""Between two looks at the token."""


class Channel:
    """Lives from an accepted join to a leave, a close or an error; `end` it then."""

    def __init__(self, socket: Connection, join: Frame, claims: Claims) -> None:
        payload = join.payload if isinstance(join.payload, dict) else {}
        self.config: dict[str, Any] = payload.get("config") or {}
        self.topic: str = join.topic
        self.join_ref, self.claims = join.join_ref, claims
        self.bindings = [Binding(asked) for asked in self.config.get("postgres_changes") or [] if asked]
        self.sends = True
        """A policy lets the client send; for private channels only."""
        self.streaming = False
        """Changes are delivered."""
        self._socket = socket
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Without the prefix that every topic has."""
        return self.topic.removeprefix("realtime:")

    @property
    def private(self) -> bool:
        return bool(self.config.get("private"))

    @property
    def wants_echo(self) -> bool:
        return bool((self.config.get("broadcast") or {}).get("self"))

    @property
    def wants_acknowledgement(self) -> bool:
        return bool((self.config.get("broadcast") or {}).get("ack"))

    def begin(self) -> None:
        """Start the tasks that follow a join's answer."""
        self._spawn(self._confirm_token())
        if self.bindings:
            self._spawn(self._subscribe(delay=self._socket.service.faults.subscribe_delay))

    def end(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():  # which may be the one that ends it
                task.cancel()

    async def system(self, extension: str, status: str, message: str) -> None:
        body = {"extension": extension, "status": status, "message": message, "channel": self.name}
        await self._push("system", body)

    async def change(self, change: Change) -> None:
        """Tell it where a subscription wants it."""
        ids = [binding.id for binding in self.bindings if binding.concerns(change)]
        if ids and self.streaming and not self._socket.service.faults.mute_changes:
            message = {"ids": ids, "data": change.message()}
            await self._socket.send(Frame(self.topic, "postgres_changes", message))

    async def refresh_token(self, token: Any) -> None:
        """A client's ``access_token``: no answer, but another subscription, or the end."""
        if not isinstance(token, str) or token.startswith("sb_"):
            return
        try:
            self.claims = self._socket.service.keys.claims(token)
        except Refused as error:
            await self.shut_down(str(error))
            return
        if self.bindings:
            self._spawn(self._subscribe(delay=0.0))

    async def subscribe_anew(self) -> None:
        """As after the service lost its replication: the same sentence again."""
        if self.bindings:
            self.streaming = False
            self._spawn(self._subscribe(delay=0.0))

    async def shut_down(self, message: str) -> None:
        """A ``system`` error, then ``phx_close``: the service ends the channel for good."""
        await self.system("system", "error", message)
        await self.close()

    async def close(self) -> None:
        """``phx_close``."""
        self._socket.forget(self)
        await self.say_closed()

    async def say_closed(self) -> None:
        await self._push("phx_close", {}, ref=self.join_ref)

    async def crash(self) -> None:
        """``phx_error``."""
        self._socket.forget(self)
        await self._push("phx_error", {"reason": "channel_crash"}, ref=self.join_ref)

    async def _subscribe(self, *, delay: float) -> None:
        service = self._socket.service
        await asyncio.sleep(delay)
        while True:
            retry = service.faults.subscribe_retry
            if (problem := service.faults.subscribe_error) is None:
                try:
                    missing = await service.unpublished(self.bindings)
                except LOST as error:
                    problem, retry = str(error), 5.0
                else:
                    if missing is None:
                        self.streaming = True
                        await self.system("postgres_changes", "ok", SUBSCRIBED)
                        return
                    problem, retry = missing, None  # the service does not try again either
            await self.system("postgres_changes", "error", problem)
            if retry is None:
                return
            await asyncio.sleep(retry)

    async def _confirm_token(self) -> None:
        while True:
            left = self.claims.expires - time.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, MOST_CONFIRM_SECONDS))
        await self.shut_down(f"Token has expired {int(-left)} seconds ago")

    async def _push(self, event: str, payload: Any, *, ref: str | None = None) -> None:
        await self._socket.send(Frame(self.topic, event, payload, ref=ref, join_ref=self.join_ref))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
