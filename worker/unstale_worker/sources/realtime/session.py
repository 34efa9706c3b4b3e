"""One Realtime session: a separate client, from the first packet to the first failure, and its teardown.

The client's callbacks run inside its listening task, where an exception silently ends all listening. They
therefore only set flags, which cannot fail, block or overflow; the task of `run` acts on them. A channel is
never joined twice: the service treats a second join on a live socket as a duplicate, and the client then
considers itself closed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from unstale_worker.sources.realtime.target import Target, Timing

if TYPE_CHECKING:
    from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
    from realtime.types import RealtimeChannelOptions, RealtimeSubscribeStates

ECHO: Final = "echo"
CLIENT_TIMEOUT: Final = 10
"""Seconds for the client's opening handshake and join; the client accepts whole numbers only."""
REFUSALS: Final = (400, 401, 403, 404, 429)
"""HTTP statuses of the upgrade that an immediate retry will not change."""
PRIVATE_ONLY: Final = "PrivateOnly"
"""Part of the reason with which a project without public channels rejects a join."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Reason for the end of a session."""

    reason: str
    refused: bool = False
    """True if the service answered and refused, rather than being unavailable."""
    private_only: bool = False
    """True if the service requires a private channel."""


class Session:
    """Delivers hints during `run`, until the first failure. Both callbacks run in the task of `run`.

    Args:
        private: Join a private channel; a secret key may join either kind.
        on_ready: Called once changes are delivered.
        on_hint: Called for every change, and after the service has resubscribed by itself. Several
            simultaneous changes may give one call.
    """

    def __init__(
        self,
        target: Target,
        *,
        timing: Timing,
        private: bool,
        on_ready: Callable[[], None],
        on_hint: Callable[[], None],
    ) -> None:
        self._target, self._timing, self._private = target, timing, private
        self._on_ready, self._on_hint = on_ready, on_hint
        self._loop = asyncio.get_running_loop()
        self._client: AsyncRealtimeClient | None = None
        self._channel: AsyncRealtimeChannel | None = None
        self._opening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._ended: Ended | None = None
        self._subscribed = self._streaming = self._hinted = False
        self._heard = 0.0
        self._nonce = secrets.token_hex(8)

    async def run(self) -> Ended:
        """Run the session and return the reason for its end; by then it is torn down."""
        try:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
            await self._become_ready()
            while self._ended is None:
                await self._stay_alive()
        finally:
            await self._dismantle()
        assert self._ended is not None
        return self._ended

    def end(self, reason: str, *, refused: bool = False, private_only: bool = False) -> None:
        """Make `run` end; the first reason counts."""
        if self._ended is None:
            self._ended = Ended(self._target.masked(reason), refused=refused, private_only=private_only)
        self._news.set()

    def hint(self) -> None:
        """Pass a hint on, as if a change had arrived."""
        self._hinted = True
        self._news.set()

    # --- in the task of `run` -------------------------------------------------------------------

    async def _open(self) -> None:
        # Imported here: it takes 0.2 s, and only this source needs it.
        from realtime import AsyncRealtimeClient
        from realtime.types import RealtimePostgresChangesListenEvent

        target = self._target
        client = AsyncRealtimeClient(
            target.endpoint, target.key, auto_reconnect=False, timeout=CLIENT_TIMEOUT
        )
        self._client = client
        await client.connect()
        # A private attribute, but useful: otherwise only a missing echo reveals that the task has died.
        listening = getattr(client, "_listen_task", None)
        if listening is not None:
            listening.add_done_callback(self._stopped_listening)
        # A unique topic: an echo goes to every member of a channel, and each copy counts for the quota.
        options = {
            "config": {
                "broadcast": {"self": True, "ack": False},
                "presence": {"key": "", "enabled": False},
                "private": self._private,
            }
        }
        channel = client.channel(f"unstale:{self._nonce}", cast("RealtimeChannelOptions", options))
        self._channel = channel
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.Insert, self._changed, table=target.table, schema=target.schema
        )
        channel.on_broadcast(ECHO, self._echoed)
        channel.on_system(self._system)
        await channel.subscribe(self._state)

    async def _become_ready(self) -> None:
        deadline = self._loop.time() + self._timing.ready
        while self._ended is None and not (self._subscribed and self._streaming):
            if not await self._wait(deadline):
                missing = "no “Subscribed to PostgreSQL”" if self._subscribed else "not joined"
                self.end(f"not ready within {self._timing.ready:g} s: {missing}")
        if self._ended is None:
            self._on_ready()

    async def _stay_alive(self) -> None:
        """Pass hints on until an echo is due; end the session if it does not come back."""
        asked: float | None = None
        while self._ended is None:
            if self._hinted:
                self._hinted = False
                self._on_hint()
            if asked is not None and self._heard >= asked:
                return
            if asked is None and self._loop.time() >= self._heard + self._timing.echo_every:
                asked = self._loop.time()
                await self._ask()
            deadline = (
                self._heard + self._timing.echo_every if asked is None else asked + self._timing.echo_within
            )
            if not await self._wait(deadline) and asked is not None:
                if self._loop.time() > deadline + self._timing.echo_within / 4:
                    asked = None  # this process was paused, so a missing echo proves nothing
                else:
                    self.end(f"no echo within {self._timing.echo_within:g} s: the connection is dead")

    async def _ask(self) -> None:
        assert self._channel is not None
        try:
            async with asyncio.timeout(self._timing.echo_within):
                await self._channel.send_broadcast(ECHO, {"of": self._nonce})
        except Exception as error:  # any error of the client means that the connection does not work
            self.end(f"sending an echo failed: {_text(error)}")

    async def _wait(self, deadline: float) -> bool:
        """Wait for a flag to be set until ``deadline`` (loop time); False if none was set."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        came = self._news.is_set()
        self._news.clear()
        return came

    # --- in the client's tasks: flags only ------------------------------------------------------

    def _changed(self, _: object) -> None:
        self._heard = self._loop.time()
        self.hint()

    def _echoed(self, _: object) -> None:
        self._heard = self._loop.time()
        self._news.set()

    def _system(self, payload: Any) -> None:
        """Handle successful system messages; the client turns the others into a CHANNEL_ERROR."""
        if getattr(payload, "extension", None) != "postgres_changes":
            return
        self._heard = self._loop.time()
        if self._streaming:
            self._hinted = True  # the service has resubscribed: there was a gap
        self._streaming = True
        self._news.set()

    def _state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state.value == "SUBSCRIBED":
            self._subscribed = True
            self._news.set()
            return
        text = str(error) if error is not None else "the service gave no reason"
        self.end(
            f"{state.value}: {text}",
            refused="RateLimitReached" in text or "Unable to subscribe to changes with given" in text,
            private_only=PRIVATE_ONLY in text,
        )

    def _opened(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            status = getattr(getattr(error, "response", None), "status_code", None)
            self.end(f"cannot connect: {_text(error)}", refused=status in REFUSALS)

    def _stopped_listening(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.end("the client stopped listening" + (f": {_text(error)}" if error else ""))

    # --- teardown -------------------------------------------------------------------------------

    async def _dismantle(self) -> None:
        """End all tasks and the socket; the client's own `close` leaves timers running for up to 10 s."""
        self.end("stopped")
        tasks = [self._opening] if self._opening is not None else []
        tasks += _tasks_of(self._client, self._channel)
        for task in tasks:
            task.cancel()
        socket = getattr(self._client, "_ws_connection", None)
        try:
            if self._client is not None:
                with suppress(Exception):
                    async with asyncio.timeout(self._timing.close):
                        await self._client.close()
        finally:
            if socket is not None:
                socket.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        if socket is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.close):
                    await socket.wait_closed()


def _tasks_of(
    client: AsyncRealtimeClient | None, channel: AsyncRealtimeChannel | None
) -> list[asyncio.Task[Any]]:
    def candidates() -> Iterator[object]:
        if client is not None:
            yield client._listen_task
            yield client._heartbeat_task
        if channel is not None:
            yield channel.rejoin_timer.timer
            yield from channel._background_tasks
            for push in (
                channel.join_push,
                *channel.messages_waiting_for_ack.values(),
                *channel._push_buffer,
            ):
                yield push.timeout_task

    return [task for task in candidates() if isinstance(task, asyncio.Task)]


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
