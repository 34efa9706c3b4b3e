"""The Realtime service: its connections, the messages it sends, and its faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from unstale_worker.supabase_double.changes import Binding, Change
from unstale_worker.supabase_double.channels import Channel
from unstale_worker.supabase_double.faults import Faults
from unstale_worker.supabase_double.feed import Feed
from unstale_worker.supabase_double.keys import Claims, Keys, Refused
from unstale_worker.supabase_double.phoenix import Frame
from unstale_worker.supabase_double.sockets import Socket

IDLE_SECONDS = 60.0
"""Without a frame after which a socket is cut."""
UNPUBLISHED = (
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given "
    "connect parameters: [{}]"
)


class Realtime:
    """One project's service.

    Args:
        dsn: A superuser's, of the database whose changes are told; None: only `change` tells any.
        poll: Seconds between two looks at the WAL.
        messages: The database has ``realtime.messages``, whose rows are broadcast.
    """

    def __init__(self, keys: Keys, *, dsn: str | None, poll: float, messages: bool = False) -> None:
        self._messages = messages
        self.keys, self.faults, self.idle = keys, Faults(), IDLE_SECONDS
        self.sockets: list[Socket] = []
        self.upgrades = self.joins = self.heartbeats = 0
        """Asked for so far, granted or not."""
        self.told = 0
        """Changes that the feed has found."""
        self._feed = (
            None
            if dsn is None
            else Feed(dsn, tell=self._tell, subscribed_anew=self.subscribe_anew, poll=poll, messages=messages)
        )

    @property
    def channels(self) -> list[Channel]:
        """All that are joined."""
        return [channel for socket in self.sockets for channel in socket.channels.values()]

    @property
    def streaming(self) -> list[Channel]:
        """Those that get changes."""
        return [channel for channel in self.channels if channel.streaming]

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """``GET /realtime/v1/websocket``."""
        self.upgrades += 1
        if self.faults.refuse_upgrade is not None:
            return web.json_response({"error": "refused"}, status=self.faults.refuse_upgrade)
        key = request.headers.get("x-api-key") or request.query.get("apikey")
        if not key:
            return web.json_response({"error": "API key is missing"}, status=401)
        try:
            self.keys.claims(key)
        except Refused as error:
            return web.json_response({"error": str(error)}, status=401)
        return await Socket(self, request, key=key).serve()

    async def http_broadcast(self, request: web.Request) -> web.StreamResponse:
        """``POST /realtime/v1/api/broadcast/{topic}/events/{event}``."""
        try:
            self.keys.claims(request.headers.get("apikey", ""))
        except Refused as error:
            return web.json_response({"error": str(error)}, status=401)
        binary = request.content_type == "application/octet-stream"
        payload = await request.read() if binary else await request.json()
        await self.broadcast(request.match_info["topic"], request.match_info["event"], payload)
        return web.Response(status=202)

    async def unpublished(self, bindings: Sequence[Binding]) -> str | None:
        """The sentence about the first subscription that the publication does not have; starts the feed."""
        if self._feed is not None:
            await self._feed.start()
            for binding in bindings:
                if not await self._feed.published(binding):
                    asked = f"schema: {binding.schema}, table: {binding.table or '*'}, filters: []"
                    return UNPUBLISHED.format(asked)
        return None

    async def broadcast(
        self,
        name: str,
        event: str,
        payload: Any,
        *,
        sender: Socket | None = None,
        private: bool | None = None,
        **meta: Any,
    ) -> int:
        """Send to every channel of this name but `sender`'s; return the number of receivers.

        With `private`, only channels that are private, or only those that are not, receive it.
        """
        body = {"type": "broadcast", "event": event, "payload": payload} | ({"meta": meta} if meta else {})
        reached = 0
        for socket in tuple(self.sockets):
            channel = socket.channels.get(f"realtime:{name}")
            if channel is None or (private is not None and channel.private is not private):
                continue
            if socket is not sender and not self.faults.mute_broadcasts:
                await socket.send(Frame(channel.topic, "broadcast", body))
                reached += 1
        return reached

    async def change(self, type: str, table: str, record: dict[str, Any], *, schema: str = "public") -> None:
        """Tell a change that no database made, to whoever subscribed to it."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        old = {} if type == "INSERT" else record
        change = Change(schema, table, type, record, old, commit_timestamp=moment)
        for channel in self.channels:
            await channel.change(change)

    # --- faults that happen once ----------------------------------------------------------------

    async def drop(self, code: int = 1012) -> None:
        """Close every socket."""
        await asyncio.gather(*(socket.close(code) for socket in tuple(self.sockets)))

    def reset(self) -> None:
        """Cut every socket by a TCP reset."""
        for socket in tuple(self.sockets):
            socket.reset()

    async def disconnect(self) -> None:
        """As at a deploy: a ``system`` message that names no channel, then code 1012."""
        body = {"extension": "system", "status": "ok", "message": "Server requested disconnect"}
        for channel in self.channels:
            await self._sockets_of(channel).send(Frame(channel.topic, "system", body))
        await self.drop(1012)

    async def shut_down_channels(self, message: str = "Too many messages per second") -> None:
        """End every channel by a ``system`` error and ``phx_close``; the sockets stay."""
        for channel in self.channels:
            await channel.shut_down(message)

    async def expire_tokens(self) -> None:
        """The same, for the reason that is most common."""
        await self.shut_down_channels("Token has expired 10 seconds ago")

    async def close_channels(self) -> None:
        """A bare ``phx_close``."""
        for channel in self.channels:
            await channel.close()

    async def crash_channels(self) -> None:
        """``phx_error``: the client is expected to join again."""
        for channel in self.channels:
            await channel.crash()

    async def subscribe_anew(self) -> None:
        """Subscribe all channels again, as after a loss of replication."""
        for channel in self.channels:
            await channel.subscribe_anew()

    async def subscription_error(self, message: str = "Too many database timeouts") -> None:
        """A ``system`` error on live channels, about which the service will do something itself."""
        for channel in self.channels:
            await channel.system("postgres_changes", "error", message)

    async def malformed(self) -> None:
        """Messages that fit no client's models: no JSON, the wrong shape, a payload that is a list."""
        for channel in self.channels:
            socket = self._sockets_of(channel)
            await socket.send_raw("this is no JSON")
            await socket.send_raw(json.dumps({"event": 7, "topic": None}))
            await socket.send(Frame(channel.topic, "system", {"extension": "system", "status": "ok"}))
            if socket.version == 1:
                await socket.send(Frame(channel.topic, "broadcast", {"event": "list", "payload": [1, 2]}))

    async def close(self) -> None:
        """End everything; afterwards nothing of it runs."""
        if self._feed is not None:
            await self._feed.close()
        await self.drop(1001)

    async def channel_rights(self, claims: Claims, name: str) -> tuple[bool, bool]:
        """Return whether a role may receive from a private channel, and send to it."""
        if not self._messages or self._feed is None:
            return True, True
        return await self._feed.channel_rights(claims, name)

    async def listen(self) -> None:
        """Follow the database's broadcasts from now on, if it has any."""
        if self._messages and self._feed is not None:
            await self._feed.start()

    async def _tell(self, change: Change) -> None:
        self.told += 1
        if self._messages and (change.schema, change.table) == ("realtime", "messages"):
            row = change.record
            await self.broadcast(
                row["topic"], row["event"], row["payload"], private=bool(row["private"]), id=row["id"]
            )
            return
        assert self._feed is not None
        for channel in _wanting(self.streaming, change):
            seen = await self._feed.seen_by(channel.claims, change)
            if seen is not None:
                await channel.change(seen)

    def _sockets_of(self, channel: Channel) -> Socket:
        return next(socket for socket in self.sockets if channel in socket.channels.values())


def _wanting(channels: Iterable[Channel], change: Change) -> list[Channel]:
    return [channel for channel in channels if any(b.concerns(change) for b in channel.bindings)]
