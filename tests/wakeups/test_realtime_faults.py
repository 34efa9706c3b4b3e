"""Whatever happens to Realtime, its client or the connection: hints come again, and no change is missed.

Each test is a way in which the official client stops for good, or loses what came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from realtime import AsyncRealtimeClient

from servers import eventually, takes
from servers.proxy import Proxy
from supabase_double import SupabaseDouble
from unstale_worker.sources.realtime import RealtimeWakeUps, session
from unstale_worker.sources.realtime.session import Session
from wakeups.realtime_stage import ECHOING, FAST, listening


@pytest.mark.parametrize("code", [1000, 1001, 1012])
async def test_a_closed_connection(project: SupabaseDouble, code: int) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        await project.realtime.drop(code)
        await stage.recovers(sessions=2)


async def test_a_reset_connection(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        project.realtime.reset()
        await stage.recovers(sessions=2)


async def test_a_deploy_of_the_service(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        await project.realtime.disconnect()
        await stage.recovers(sessions=2)


async def test_an_outage_that_outlasts_the_attempts_of_the_client_alone(
    project: SupabaseDouble, caplog: pytest.LogCaptureFixture
) -> None:
    alone = AsyncRealtimeClient(f"{project.url}/realtime/v1", project.keys.secret)
    await alone.channel("alone").subscribe()
    listen = alone._listen_task
    assert listen is not None
    try:
        async with listening(project) as stage:
            await project.outage()
            await eventually(lambda: not stage.wakeups.healthy)
            await eventually(listen.done, message="the client gave up")  # its five attempts take 15 s
            await eventually(lambda: stage.wakeups.attempts > 5)
            stage.misses_a_change()
            await project.back()
            await stage.recovers(sessions=2)
            assert not alone.is_connected  # when this fails, the client has learnt it
    finally:
        for channel in alone.channels.values():
            channel.rejoin_timer.reset()
            channel.join_push.destroy()
        await alone.close()
    assert isinstance(listen.exception(), OSError)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_an_upgrade_that_is_refused(project: SupabaseDouble, status: int) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        project.realtime.faults.refuse_upgrade = status
        await project.realtime.drop()
        await eventually(lambda: stage.wakeups.attempts >= 8)
        assert f"HTTP {status}" in stage.wakeups.problem
        project.realtime.faults.refuse_upgrade = None
        await stage.recovers(sessions=2)


@pytest.mark.parametrize("watched", [True, False], ids=["task watched", "echo alone"])
async def test_an_exception_in_a_callback(
    project: SupabaseDouble, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    """It ends the client's listening, which still says that it is connected; the task or the echo tells."""
    proper = Session._changed

    def raises(self: Session, payload: object) -> None:
        monkeypatch.setattr(Session, "_changed", proper)
        raise RuntimeError("as a bug in a callback would")

    monkeypatch.setattr(Session, "_changed", raises)
    if not watched:
        monkeypatch.setattr(Session, "_stopped_listening", lambda *_: None)
    async with listening(project, timing=FAST if watched else ECHOING) as stage:
        await stage.change()
        await stage.recovers(sessions=2)
        assert proper is Session._changed


async def test_an_exception_of_whoever_is_woken(project: SupabaseDouble) -> None:
    calls = 0

    def raises() -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("the worker's own bug")

    async with RealtimeWakeUps(project.url, project.keys.secret, on_hint=raises, timing=FAST) as wakeups:
        await eventually(lambda: wakeups.healthy)

        def called(expected: int) -> bool:
            return calls == expected

        for expected in (2, 3):
            await project.realtime.change("INSERT", "unstale_wakeup", {"id": expected})
            await eventually(partial(called, expected))
        assert wakeups.reconnects == 0


async def test_an_expired_token(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        await project.realtime.expire_tokens()
        await stage.recovers(sessions=2)


async def test_a_channel_that_is_shut_down_again_and_again(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        for sessions in (2, 3, 4):
            stage.misses_a_change()
            await project.realtime.shut_down_channels("Too many messages per second")
            await stage.recovers(sessions=sessions)


@pytest.mark.parametrize("end", ["crash_channels", "close_channels"])
async def test_a_channel_that_crashes_or_is_closed(project: SupabaseDouble, end: str) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        await getattr(project.realtime, end)()
        await stage.recovers(sessions=2)


async def test_a_subscription_error_after_which_the_client_would_join_twice(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()
        await project.realtime.subscription_error("Too many database timeouts")
        await stage.recovers(sessions=2)
        # The client's own second join comes after a second and would close the channel for good.
        assert project.realtime.joins == stage.wakeups.attempts == 2


async def test_a_database_the_service_cannot_subscribe_to_yet(project: SupabaseDouble) -> None:
    project.realtime.faults.subscribe_error = "Too many database timeouts"
    async with listening(project, ready=False) as stage:
        await eventually(lambda: stage.wakeups.attempts >= 4)
        assert "Too many database timeouts" in stage.wakeups.problem
        project.realtime.faults.subscribe_error = None
        stage.misses_a_change()
        await stage.recovers(sessions=1)
        assert project.realtime.joins == stage.wakeups.attempts


async def test_a_join_that_is_answered_too_late(
    project: SupabaseDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gives up and joins again on the same socket: a duplicate, which ends closed on its side."""
    monkeypatch.setattr(session, "CLIENT_TIMEOUT", 1)
    project.realtime.faults.join_delay = 1.5
    async with listening(project, ready=False) as stage:
        await eventually(lambda: stage.wakeups.problem)
        assert stage.wakeups.problem.startswith("TIMED_OUT")
        project.realtime.faults.join_delay = 0
        stage.misses_a_change()
        await stage.recovers(sessions=1)


async def test_a_join_that_is_never_answered(project: SupabaseDouble) -> None:
    project.realtime.faults.mute_joins = True
    async with listening(project, timing=replace(FAST, ready=0.3), ready=False) as stage:
        await eventually(lambda: stage.wakeups.attempts >= 2)
        assert stage.wakeups.problem == "not ready within 0.3 s: not joined"
        project.realtime.faults.mute_joins = False
        stage.misses_a_change()
        await stage.recovers(sessions=1)


async def test_joined_but_never_subscribed_is_not_ready(project: SupabaseDouble) -> None:
    project.realtime.faults.subscribe_delay = 60
    async with listening(project, timing=replace(FAST, ready=0.3), ready=False) as stage:
        await eventually(lambda: stage.wakeups.attempts >= 2)
        assert "Subscribed to PostgreSQL" in stage.wakeups.problem
        assert not stage.wakeups.healthy
        project.realtime.faults.subscribe_delay = 0
        stage.misses_a_change()
        await stage.recovers(sessions=1)


@pytest.mark.parametrize(
    "reason", ["ClientJoinRateLimitReached: Too many joins", "Unauthorized: no", "RealtimeRestarting"]
)
async def test_a_join_that_is_rejected(project: SupabaseDouble, reason: str) -> None:
    project.realtime.faults.reject_join = reason
    async with listening(project, ready=False) as stage:
        await eventually(lambda: stage.wakeups.attempts >= 6)
        assert reason in stage.wakeups.problem
        project.realtime.faults.reject_join = None
        stage.misses_a_change()
        await stage.recovers(sessions=1)


async def test_a_project_that_allows_private_channels_only(project: SupabaseDouble) -> None:
    project.realtime.faults.private_only = True
    async with listening(project) as stage:
        await stage.hears_a_change()
        assert stage.wakeups.attempts == 2


async def test_a_half_open_connection(project: SupabaseDouble) -> None:
    """Nothing arrives any more, and nobody says so; the client alone takes 50 s to notice."""
    async with (
        Proxy(project.port) as proxy,
        listening(project, timing=ECHOING, url=f"http://127.0.0.1:{proxy.port}") as stage,
    ):
        stage.misses_a_change()
        proxy.half_open(new=False)
        await stage.recovers(sessions=2)
        await eventually(lambda: proxy.connections == 1, timeout=5)  # the dead one was cut


async def test_a_network_that_swallows_everything_for_a_while(project: SupabaseDouble) -> None:
    async with Proxy(project.port) as proxy:
        timing = replace(ECHOING, ready=0.5)
        async with listening(project, timing=timing, url=f"http://127.0.0.1:{proxy.port}") as stage:
            stage.misses_a_change()
            proxy.half_open()
            await eventually(lambda: stage.wakeups.attempts >= 3)
            await proxy.heal()
            await stage.recovers(sessions=2)


@pytest.mark.parametrize("fault", ["frozen", "mute_broadcasts"])
async def test_a_service_that_falls_silent(project: SupabaseDouble, fault: str) -> None:
    async with listening(project, timing=replace(ECHOING, ready=1.0)) as stage:
        stage.misses_a_change()
        setattr(project.realtime.faults, fault, True)
        await eventually(lambda: stage.wakeups.attempts >= 2)
        setattr(project.realtime.faults, fault, False)
        await stage.recovers(sessions=2)


async def test_a_process_that_was_paused_does_not_take_it_for_the_connections_fault(
    project: SupabaseDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    proper, paused = project.realtime.broadcast, asyncio.Event()

    async def pause(*arguments: Any, **named: Any) -> int:
        if not paused.is_set():
            paused.set()
            time.sleep(1.5 * ECHOING.echo_within)  # noqa: ASYNC251 - the whole process stands still
            await takes(0.1)  # and the echo is still on its way when it wakes up
        return await proper(*arguments, **named)

    async with listening(project, timing=ECHOING) as stage:
        monkeypatch.setattr(project.realtime, "broadcast", pause)
        await eventually(paused.is_set)
        for _ in range(5):
            await stage.hears_a_change()
        assert stage.wakeups.attempts == 1


async def test_heartbeats_without_an_answer_cost_nothing(project: SupabaseDouble) -> None:
    project.realtime.faults.mute_heartbeats = True
    async with listening(project, timing=ECHOING) as stage:
        await eventually(lambda: project.realtime.heartbeats)
        for _ in range(5):
            await stage.hears_a_change()
        assert stage.wakeups.reconnects == 0


async def test_messages_that_nobody_understands(
    project: SupabaseDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(project) as stage:
        await project.realtime.malformed()
        await stage.hears_a_change()
        await eventually(lambda: stage.wakeups.unreadable >= 3)
        assert stage.wakeups.reconnects == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_service_that_subscribed_anew_had_a_gap(project: SupabaseDouble) -> None:
    async with listening(project) as stage:
        stage.misses_a_change()  # in the gap
        await project.realtime.subscribe_anew()
        await eventually(lambda: stage.seen == stage.made)
        assert stage.wakeups.reconnects == 0
        await stage.hears_a_change()


async def test_changes_that_are_muted_are_up_to_the_timer_which_asks_for_a_new_session(
    project: SupabaseDouble,
) -> None:
    async with listening(project) as stage:
        project.realtime.faults.mute_changes = True
        await stage.change()
        await project.realtime.subscribe_anew()  # behind the change, so a hint that is late has come by now
        await eventually(lambda: stage.seen == stage.made)
        project.realtime.faults.mute_changes = False
        stage.wakeups.reconnect("changes come that nobody announced")
        await eventually(lambda: stage.wakeups.sessions == 2)
        await stage.hears_a_change()


@pytest.mark.parametrize(
    "state",
    [
        lambda project: setattr(project.realtime.faults, "refuse_upgrade", 503),
        lambda project: setattr(project.realtime.faults, "mute_joins", True),
        lambda project: setattr(project.realtime.faults, "subscribe_delay", 60),
        lambda project: None,
    ],
    ids=["backing off", "joining", "subscribing", "ready"],
)
async def test_it_can_be_closed_in_any_state(
    project: SupabaseDouble, state: Callable[[SupabaseDouble], None]
) -> None:
    state(project)
    before = asyncio.all_tasks()
    timing = replace(FAST, first_pause=60, most_pause=60)
    async with listening(project, timing=timing, ready=False) as stage:
        await eventually(lambda: project.realtime.upgrades)
        assert len(asyncio.all_tasks()) > len(before)
    await stage.wakeups.close()  # again: nothing
    await eventually(lambda: asyncio.all_tasks() <= before, timeout=5)  # the client's timers take 10


async def test_it_can_be_closed_while_the_handshake_hangs(project: SupabaseDouble) -> None:
    async with Proxy(project.port) as proxy:
        proxy.hold()
        async with listening(project, url=f"http://127.0.0.1:{proxy.port}", ready=False):
            await eventually(lambda: proxy.accepted)
