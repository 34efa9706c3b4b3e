"""One client's websocket: reads its messages in order and answers as the service does."""

from __future__ import annotations

import asyncio
import socket as network
import struct
from contextlib import suppress
from typing import Any

from aiohttp import ClientConnectionError, WSMsgType, web

from unstale_worker.supabase_double.channels import Channel
from unstale_worker.supabase_double.keys import Refused
from unstale_worker.supabase_double.parties import Service
from unstale_worker.supabase_double.phoenix import BadFrame, Frame, read, write

GONE = (ClientConnectionError, ConnectionError, RuntimeError)
"""Errors of sending to a client that has gone meanwhile."""


class Socket:
    """Serves until the client or the service closes it."""

    def __init__(self, service: Service, request: web.Request, *, key: str) -> None:
        self.service, self.key = service, key
        self.version = 2 if request.query.get("vsn", "1.0.0").startswith("2") else 1
        self.channels: dict[str, Channel] = {}
        self._request = request
        self._websocket = web.WebSocketResponse(max_msg_size=5_000_000)
        self._task = asyncio.current_task()

    async def serve(self) -> web.WebSocketResponse:
        await self._websocket.prepare(self._request)
        self.service.sockets.append(self)
        try:
            while True:
                message = await self._websocket.receive(timeout=self.service.idle)
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                with suppress(BadFrame):
                    await self._handle(read(message.data, version=self.version))
        except TimeoutError:
            self.reset()
        finally:
            self.service.sockets.remove(self)
            for channel in tuple(self.channels.values()):
                self.forget(channel)
        return self._websocket

    async def send(self, frame: Frame) -> None:
        if not self.service.faults.frozen and (data := write(frame, version=self.version)) is not None:
            await self.send_raw(data)

    async def send_raw(self, data: str | bytes) -> None:
        """Whatever it is."""
        if not self._websocket.closed:
            with suppress(*GONE):
                if isinstance(data, bytes):
                    await self._websocket.send_bytes(data)
                else:
                    await self._websocket.send_str(data)

    async def close(self, code: int) -> None:
        with suppress(*GONE):
            await self._websocket.close(code=code)

    def reset(self) -> None:
        """A TCP reset instead of a closing handshake."""
        transport = self._request.transport
        if transport is not None:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(network.SOL_SOCKET, network.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def forget(self, channel: Channel) -> None:
        channel.end()
        if self.channels.get(channel.topic) is channel:
            del self.channels[channel.topic]

    async def _handle(self, frame: Frame) -> None:
        if frame.topic == "phoenix" and frame.event == "heartbeat":
            self.service.heartbeats += 1
            if not self.service.faults.mute_heartbeats:
                await self._reply(frame, "ok", {})
            return
        if frame.event == "phx_join":
            await self._join(frame)
            return
        channel = self.channels.get(frame.topic)
        if channel is None:
            await self._reply(frame, "error", {"reason": "unmatched topic"})
        elif self.version == 2 and frame.join_ref != channel.join_ref and frame.event != "phx_leave":
            return  # meant for a channel that this socket has joined anew since
        elif frame.event == "phx_leave":
            self.forget(channel)
            await self._reply(frame, "ok", {})
            await channel.say_closed()
        elif frame.event == "access_token":
            await channel.refresh_token((frame.payload or {}).get("access_token"))
        elif frame.event == "broadcast":
            await self._broadcast(channel, frame)

    async def _join(self, frame: Frame) -> None:
        faults = self.service.faults
        self.service.joins += 1
        if faults.join_delay:
            await asyncio.sleep(faults.join_delay)
        if faults.mute_joins:
            return
        if not frame.topic.startswith("realtime:") or frame.topic == "realtime:":
            await self._reply(frame, "error", {"reason": "TopicNameRequired: You must provide a topic name"})
            return
        if faults.reject_join is not None:
            await self._reply(frame, "error", {"reason": faults.reject_join})
            return
        config = (frame.payload or {}).get("config") or {}
        if faults.private_only and not config.get("private"):
            reason = "PrivateOnly: This project only allows private channels"
            await self._reply(frame, "error", {"reason": reason})
            return
        token = (frame.payload or {}).get("access_token")
        try:
            if not isinstance(token, str) or token.startswith("sb_"):
                token = self.key
            claims = self.service.keys.claims(token)
        except Refused as error:
            await self._reply(frame, "error", {"reason": f"InvalidJWTToken: {error}"})
            return
        await self.service.listen()
        receives = sends = True
        if config.get("private"):
            name = frame.topic.removeprefix("realtime:")
            receives, sends = await self.service.channel_rights(claims, name)
        if not receives:
            reason = f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
            await self._reply(frame, "error", {"reason": reason})
            return
        channel, former = Channel(self, frame, claims), self.channels.get(frame.topic)
        if former is not None:
            self.forget(former)
        channel.sends = sends
        self.channels[frame.topic] = channel
        told = [dict(binding.asked) | {"id": binding.id} for binding in channel.bindings]
        await self._reply(frame, "ok", {"postgres_changes": told})
        if former is not None:
            await former.say_closed()  # of the *old* join, after the new one's answer
        channel.begin()

    async def _broadcast(self, channel: Channel, frame: Frame) -> None:
        if not channel.sends:
            return  # silently, as the service does
        body = frame.payload
        await self.service.broadcast(
            channel.name, body["event"], body["payload"], sender=None if channel.wants_echo else self
        )
        if channel.wants_acknowledgement:
            await self._reply(frame, "ok", {})

    async def _reply(self, frame: Frame, status: str, response: Any) -> None:
        body = {"status": status, "response": response}
        await self.send(Frame(frame.topic, "phx_reply", body, ref=frame.ref, join_ref=frame.join_ref))
