"""The Realtime double on the wire: both versions of the protocol, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import pytest

from servers import eventually
from supabase_double import SupabaseDouble

TOPIC = "realtime:room"
CHANGES = [{"event": "*", "schema": "public", "table": "notes"}]


class Raw:
    """A client without any cleverness."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse, version: int) -> None:
        self.websocket, self.version = websocket, version

    async def send(
        self, event: str, payload: Any, *, ref: str, join_ref: str | None = "1", topic: str = TOPIC
    ) -> Self:
        message = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": join_ref}
        if self.version == 2:
            await self.websocket.send_json([join_ref, ref, topic, event, payload])
        else:
            await self.websocket.send_json(message)
        return self

    async def join(self, *, ref: str = "1", token: str | None = None, **config: Any) -> Self:
        payload = {"config": config} | ({"access_token": token} if token else {})
        return await self.send("phx_join", payload, ref=ref, join_ref=ref)

    async def next(self) -> tuple[str | None, str, Any]:
        """Reference, event and payload of the next message; raises TimeoutError after 5 s."""
        message = json.loads(await self.websocket.receive_str(timeout=60))
        if self.version == 2:
            _, ref, _, event, payload = message
        else:
            assert set(message) == {"ref", "event", "payload", "topic"}
            ref, event, payload = message["ref"], message["event"], message["payload"]
        return ref, event, payload


@asynccontextmanager
async def connected(
    project: SupabaseDouble, *, version: int = 1, key: str | None = None
) -> AsyncIterator[Raw]:
    async with aiohttp.ClientSession() as session:
        address = f"{project.url}/realtime/v1/websocket"
        query = {"apikey": key or project.keys.secret, "vsn": f"{version}.0.0"}
        async with session.ws_connect(address, params=query) as websocket:
            yield Raw(websocket, version)


@pytest.fixture
async def project() -> AsyncIterator[SupabaseDouble]:
    async with SupabaseDouble() as double:
        yield double


@pytest.fixture(params=[1, 2])
async def raw(project: SupabaseDouble, request: pytest.FixtureRequest) -> AsyncIterator[Raw]:
    async with connected(project, version=request.param) as client:
        yield client


async def test_a_join_is_answered_then_changes_flow(project: SupabaseDouble, raw: Raw) -> None:
    await raw.join(postgres_changes=CHANGES)

    ref, event, answer = await raw.next()
    bindings = answer["response"]["postgres_changes"]
    assert (ref, event, answer["status"]) == ("1", "phx_reply", "ok")
    assert [{k: v for k, v in binding.items() if k != "id"} for binding in bindings] == CHANGES
    _, event, system = await raw.next()
    assert (event, system["status"], system["message"], system["channel"]) == (
        "system", "ok", "Subscribed to PostgreSQL", "room",
    )  # fmt: skip
    await project.realtime.change("INSERT", "notes", {"id": 7})
    ref, event, change = await raw.next()
    assert (ref, event, change["ids"]) == (None, "postgres_changes", [bindings[0]["id"]])
    assert change["data"]["record"] == {"id": 7}
    assert "old_record" not in change["data"]


async def test_nothing_is_told_before_the_subscription(project: SupabaseDouble, raw: Raw) -> None:
    project.realtime.faults.subscribe_delay = 0.2
    await raw.join(postgres_changes=CHANGES)
    await raw.next()
    await project.realtime.change("INSERT", "notes", {"id": 1})

    assert (await raw.next())[1] == "system"
    await project.realtime.change("INSERT", "notes", {"id": 2})
    assert (await raw.next())[2]["data"]["record"] == {"id": 2}


async def test_a_second_join_closes_the_first_after_its_own_answer(raw: Raw) -> None:
    await raw.join(ref="1")
    await raw.next()
    await raw.join(ref="5")

    assert (await raw.next())[:2] == ("5", "phx_reply")
    assert await raw.next() == ("1", "phx_close", {})


async def test_a_join_that_comes_during_a_slow_one_waits_for_it(project: SupabaseDouble, raw: Raw) -> None:
    project.realtime.faults.join_delay = 0.1
    await raw.join(ref="1")
    await raw.join(ref="2")

    assert [(await raw.next())[:2] for _ in range(3)] == [
        ("1", "phx_reply"),
        ("2", "phx_reply"),
        ("1", "phx_close"),
    ]


async def test_leaving_is_answered_and_closed(raw: Raw) -> None:
    await raw.join()
    await raw.next()
    await raw.send("phx_leave", {}, ref="2")

    assert await raw.next() == ("2", "phx_reply", {"status": "ok", "response": {}})
    assert await raw.next() == ("1", "phx_close", {})
    await raw.send("broadcast", {"event": "e", "payload": {}}, ref="3")
    assert (await raw.next())[2] == {"status": "error", "response": {"reason": "unmatched topic"}}


async def test_heartbeats_are_answered_unless_muted(project: SupabaseDouble, raw: Raw) -> None:
    await raw.send("heartbeat", {}, ref="9", topic="phoenix", join_ref=None)
    assert await raw.next() == ("9", "phx_reply", {"status": "ok", "response": {}})

    project.realtime.faults.mute_heartbeats = True
    await raw.send("heartbeat", {}, ref="10", topic="phoenix", join_ref=None)
    await raw.join(ref="11")
    assert (await raw.next())[0] == "11"
    assert project.realtime.heartbeats == 2


async def test_bad_frames_change_nothing(raw: Raw) -> None:
    await raw.websocket.send_str("no JSON")
    await raw.websocket.send_str('{"topic": 1}')
    await raw.websocket.send_str("[1]")
    await raw.websocket.send_bytes(b"\x07rubbish")
    await raw.join()

    assert (await raw.next())[0] == "1"


async def test_shutdown_error_crash_and_resubscription_are_told(project: SupabaseDouble, raw: Raw) -> None:
    await raw.join(postgres_changes=CHANGES)
    await raw.next()
    await raw.next()
    await project.realtime.subscribe_anew()
    assert (await raw.next())[2]["message"] == "Subscribed to PostgreSQL"
    await project.realtime.subscription_error("Too many database timeouts")
    assert (await raw.next())[2]["status"] == "error"
    await project.realtime.crash_channels()
    assert await raw.next() == ("1", "phx_error", {"reason": "channel_crash"})
    await raw.join(ref="2")
    await raw.next()
    await project.realtime.expire_tokens()
    _, event, system = await raw.next()
    assert (event, system["extension"], system["status"]) == ("system", "system", "error")
    assert await raw.next() == ("2", "phx_close", {})


@pytest.mark.parametrize(("echo", "acknowledged"), [(True, False), (False, True)])
async def test_broadcasts_of_version_1(project: SupabaseDouble, echo: bool, acknowledged: bool) -> None:
    async with connected(project) as one, connected(project) as other:
        for client in (one, other):
            await client.join(broadcast={"self": echo, "ack": acknowledged})
            await client.next()
        await one.send("broadcast", {"type": "broadcast", "event": "e", "payload": {"n": 1}}, ref="4")

        told = (None, "broadcast", {"type": "broadcast", "event": "e", "payload": {"n": 1}})
        assert await other.next() == told
        assert await one.next() == (told if echo else ("4", "phx_reply", {"status": "ok", "response": {}}))


async def test_broadcasts_of_version_2_are_binary(project: SupabaseDouble) -> None:
    async with connected(project, version=2) as new, connected(project) as old:
        for client in (new, old):
            await client.join(broadcast={"self": True})
            await client.next()
        head = bytes([3, 1, 1, len(TOPIC), 1, 0, 1])
        await new.websocket.send_bytes(head + b"12" + TOPIC.encode() + b"e" + b'{"n": 1}')

        message = await new.websocket.receive_bytes(timeout=60)
        assert message == bytes([4, len(TOPIC), 1, 0, 1]) + TOPIC.encode() + b"e" + b'{"n": 1}'
        assert (await old.next())[2]["payload"] == {"n": 1}

        await new.websocket.send_bytes(head[:-1] + b"\x00" + b"12" + TOPIC.encode() + b"e" + b"\xff\x00")
        assert (await new.websocket.receive_bytes(timeout=60)).endswith(b"e\xff\x00")
        await project.realtime.broadcast("room", "after", {})
        assert (await old.next())[2]["event"] == "after"  # what version 1 cannot carry was dropped


async def test_tokens_are_looked_at_when_they_come_and_when_they_expire(project: SupabaseDouble) -> None:
    async with connected(project, key=project.keys.publishable) as raw:
        await raw.join(token="nonsense")
        assert (await raw.next())[2]["response"]["reason"].startswith("InvalidJWTToken")
        await raw.join(token=project.keys.token("authenticated", expires_in=3600), postgres_changes=CHANGES)
        assert (await raw.next())[2]["status"] == "ok"
        await raw.next()

        await raw.send("access_token", {"access_token": "sb_secret_whatever"}, ref="2")  # ignored, as there
        await raw.send("access_token", {"access_token": project.keys.token("authenticated")}, ref="3")
        assert (await raw.next())[2]["message"] == "Subscribed to PostgreSQL"
        await raw.send(
            "access_token", {"access_token": project.keys.token("authenticated", expires_in=-9)}, ref="4"
        )
        assert "expired" in (await raw.next())[2]["message"]
        assert (await raw.next())[1] == "phx_close"

        await raw.join(ref="7", token=project.keys.token("authenticated", expires_in=1.5))
        await raw.next()
        assert "expired" in (await raw.next())[2]["message"]


async def test_who_may_connect(project: SupabaseDouble) -> None:
    keys = project.keys
    for key in (keys.secret, keys.publishable, keys.service_role, keys.anon):
        async with connected(project, key=key):
            pass
    for key, sentence in (
        ("sb_secret_wrong", "not a valid JWT"),
        (keys.token("service_role", expires_in=-9), "expired"),
    ):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{project.url}/realtime/v1/websocket", params={"apikey": key}) as answer,
        ):
            assert answer.status == 401
            assert sentence in (await answer.json())["error"]


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_closing_codes(project: SupabaseDouble, raw: Raw, code: int) -> None:
    await eventually(lambda: project.realtime.sockets)
    await project.realtime.drop(code)

    assert (await raw.websocket.receive(timeout=60)).type == aiohttp.WSMsgType.CLOSE
    assert raw.websocket.close_code == code


async def test_a_reset_and_an_outage_leave_no_one_connected(project: SupabaseDouble) -> None:
    async with connected(project) as raw:
        await eventually(lambda: project.realtime.sockets)
        project.realtime.reset()
        message = await raw.websocket.receive(timeout=60)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert raw.websocket.close_code == 1006
    await project.outage()
    with pytest.raises(aiohttp.ClientConnectorError):
        async with connected(project):
            pass
    port = project.port
    await project.back()
    assert project.port == port
    async with connected(project) as raw:
        await raw.join()
        assert (await raw.next())[0] == "1"


async def test_a_socket_that_says_nothing_is_cut(project: SupabaseDouble) -> None:
    project.realtime.idle = 0.1
    async with connected(project) as raw:
        assert (await raw.websocket.receive(timeout=60)).type is not aiohttp.WSMsgType.TEXT


async def test_a_frozen_service_says_nothing(project: SupabaseDouble, raw: Raw) -> None:
    project.realtime.faults.frozen = True
    await raw.join()
    await eventually(lambda: project.realtime.channels)
    with pytest.raises(asyncio.TimeoutError):
        await raw.websocket.receive(timeout=0.2)
