"""What the official client does at each fault when nobody supervises it: why we do, and when that may change.

A double on which the client behaved otherwise than under the service's rules would be a bad one; and when a
test here fails because the client has learnt better, a part of our supervision is needless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.types import RealtimePostgresChangesListenEvent, RealtimeSubscribeStates

from servers import eventually
from supabase_double import SupabaseDouble

SUBSCRIBED, CLOSED = RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CLOSED
TIMED_OUT, ERROR = RealtimeSubscribeStates.TIMED_OUT, RealtimeSubscribeStates.CHANNEL_ERROR


class Alone:
    """A client with its defaults, one channel, and what it was told."""

    def __init__(self, client: AsyncRealtimeClient, channel: AsyncRealtimeChannel) -> None:
        self.client, self.channel = client, channel
        self.states: list[RealtimeSubscribeStates] = []
        self.changes: list[Any] = []
        self.raises = False

    def changed(self, payload: Any) -> None:
        if self.raises:
            raise RuntimeError("a bug in a callback")
        self.changes.append(payload["data"]["record"]["id"])

    async def comes_to(self, *states: RealtimeSubscribeStates) -> None:
        await eventually(lambda: self.states == list(states), message=f"{states}")


@asynccontextmanager
async def alone(project: SupabaseDouble, *, timeout: int = 10) -> AsyncIterator[Alone]:
    client = AsyncRealtimeClient(f"{project.url}/realtime/v1", project.keys.secret, timeout=timeout)
    channel = client.channel("room")
    it = Alone(client, channel)
    channel.on_postgres_changes(RealtimePostgresChangesListenEvent.All, it.changed, table="notes")
    tasks: set[asyncio.Task[Any]] = set()
    try:
        await channel.subscribe(lambda state, _: it.states.append(state))
        yield it
    finally:
        tasks |= {task for task in (client._listen_task, client._heartbeat_task) if task is not None}
        await client.close()
        channel.rejoin_timer.reset()
        for push in (channel.join_push, *channel.messages_waiting_for_ack.values()):
            push.destroy()
        await asyncio.gather(*tasks, return_exceptions=True)


async def streams(project: SupabaseDouble) -> None:
    await eventually(lambda: project.realtime.streaming)


@pytest.mark.parametrize("code", [1000, 1012])
async def test_it_joins_again_after_a_drop_and_loses_what_came_meanwhile(
    project: SupabaseDouble, code: int
) -> None:
    async with alone(project) as it:
        await streams(project)
        await project.realtime.drop(code)
        await project.realtime.change("INSERT", "notes", {"id": 1})
        await it.comes_to(SUBSCRIBED, ERROR, SUBSCRIBED)
        await streams(project)
        await project.realtime.change("INSERT", "notes", {"id": 2})
        await eventually(lambda: it.changes == [2])


async def test_an_exception_in_a_callback_leaves_it_deaf_and_connected(project: SupabaseDouble) -> None:
    async with alone(project) as it:
        await streams(project)
        listening = it.client._listen_task
        assert listening is not None
        it.raises = True
        await project.realtime.change("INSERT", "notes", {"id": 1})
        await eventually(listening.done)
        it.raises = False
        await project.realtime.change("INSERT", "notes", {"id": 2})
        assert it.client.is_connected
        assert it.channel.is_joined
        assert it.states == [SUBSCRIBED]
        assert it.changes == []


async def test_a_channel_that_is_shut_down_stays_closed(project: SupabaseDouble) -> None:
    async with alone(project) as it:
        await streams(project)
        await project.realtime.expire_tokens()
        await it.comes_to(SUBSCRIBED, ERROR, CLOSED)
        assert it.channel.rejoin_timer.timer is None
        assert it.client.channels == {}


async def test_a_subscription_error_makes_it_join_twice_and_close_a_channel_that_lives(
    project: SupabaseDouble,
) -> None:
    async with alone(project) as it:
        await streams(project)
        await project.realtime.subscription_error()
        await it.comes_to(SUBSCRIBED, ERROR, SUBSCRIBED, CLOSED)
        assert it.client.channels == {}
        assert len(project.realtime.channels) == 1  # at the service it is joined still
        assert project.realtime.joins == 2


async def test_a_late_join_closes_a_channel_that_lives(project: SupabaseDouble) -> None:
    project.realtime.faults.join_delay = 3.0  # given up after 1 s, joined again after 2, answered after 3
    async with alone(project, timeout=1) as it:
        project.realtime.faults.join_delay = 0.0
        await eventually(lambda: CLOSED in it.states)
        assert it.states[0] is TIMED_OUT
        assert it.client.channels == {}
        assert len(project.realtime.channels) == 1


async def test_it_joins_again_after_a_crash_or_a_rejection(project: SupabaseDouble) -> None:
    project.realtime.faults.reject_join = "RealtimeRestarting: please standby"
    async with alone(project) as it:
        await it.comes_to(ERROR)
        project.realtime.faults.reject_join = None
        await it.comes_to(ERROR, SUBSCRIBED)
        await streams(project)
        await project.realtime.crash_channels()
        await it.comes_to(ERROR, SUBSCRIBED, ERROR, SUBSCRIBED)


async def test_it_never_looks_for_the_answer_to_a_heartbeat(project: SupabaseDouble) -> None:
    project.realtime.faults.mute_heartbeats = True
    async with alone(project) as it:
        await eventually(lambda: project.realtime.heartbeats)
        assert it.states == [SUBSCRIBED]
        assert it.client.is_connected
