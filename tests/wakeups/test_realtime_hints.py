"""Hints in good times: from a committed row to the worker; no key in any log; attempts at a bearable rate."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from urllib.parse import quote

import asyncpg
import pytest
import structlog
from realtime import AsyncRealtimeClient

from servers import Database, eventually
from servers.both_sources import publish
from supabase_double import SupabaseDouble
from unstale.errors import SettingError
from unstale_worker.sources.realtime import RealtimeWakeUps, Target, Timing
from unstale_worker.sources.realtime.session import Ended
from unstale_worker.supabase_double.changes import Change
from unstale_worker.supabase_double.channels import Channel
from wakeups.realtime_stage import FAST, TABLE, listening

INSERT = """
    insert into public.unstale_wakeup (id) select coalesce(max(id), 0) + 1 from public.unstale_wakeup
"""
HOSTILE_KEY = "sb_secret_a+b/c d%e&f"


@pytest.fixture
async def sql(database: Database) -> AsyncIterator[asyncpg.Connection]:
    await publish(database)
    connection = await asyncpg.connect(database.superuser_dsn)
    yield connection
    await connection.close()


async def test_a_committed_row_is_a_hint(database: Database, sql: asyncpg.Connection) -> None:
    async with SupabaseDouble(database, poll=0.02) as project, listening(project) as stage:
        hints = stage.wakeups.hints
        await sql.execute(f"begin; {INSERT}; rollback")
        await sql.execute(INSERT)
        await eventually(lambda: stage.wakeups.hints > hints)
        assert project.realtime.told == 1
        hints = stage.wakeups.hints
        await sql.execute("delete from public.unstale_wakeup")  # the purge wakes nobody
        await eventually(lambda: project.realtime.told == 2)
        await sql.execute(INSERT)
        await eventually(lambda: stage.wakeups.hints == hints + 1)


async def test_hints_go_on_after_a_disconnect_with_rows_in_between(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with SupabaseDouble(database, poll=0.02) as project, listening(project) as stage:
        for sessions in range(2, 7):
            await project.realtime.drop()
            stage.made += 1
            await sql.execute(INSERT)
            await stage.healthy(sessions=sessions)
            await eventually(lambda: stage.seen == stage.made)
            hints = stage.wakeups.hints
            await sql.execute(INSERT)
            await eventually(partial(_hinted_beyond, stage.wakeups, hints))


@pytest.mark.parametrize("granted", [False, True], ids=["as migrated", "opened by mistake"])
async def test_nobody_but_the_service_role_hears_of_rows(
    database: Database, sql: asyncpg.Connection, granted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a grant to everybody row level security is left, which has no policy."""
    if granted:
        await sql.execute("grant select on public.unstale_wakeup to anon, authenticated")
    told: list[tuple[str, list[str], tuple[str, ...]]] = []
    proper = Channel.change

    async def remember(self: Channel, change: Change) -> None:
        told.append((self.claims.role, sorted(change.record), change.errors))
        await proper(self, change)

    monkeypatch.setattr(Channel, "change", remember)
    async with SupabaseDouble(database, poll=0.02) as project, AsyncExitStack() as stack:
        listeners = [
            RealtimeWakeUps(project.url, key, on_hint=lambda: None, timing=FAST)
            for key in (project.keys.secret, project.keys.publishable, project.keys.token("authenticated"))
        ]
        for listener in listeners:
            await stack.enter_async_context(listener)
        await eventually(lambda: all(listener.healthy for listener in listeners))
        await sql.execute(INSERT)
        await eventually(lambda: project.realtime.told == 1)
        await sql.execute(INSERT)
        await eventually(lambda: project.realtime.told == 2)  # so the first was told to all

        wanted: list[tuple[str, list[str], tuple[str, ...]]] = [("service_role", ["at", "id"], ())]
        if not granted:
            wanted += [(role, [], ("Error 401: Unauthorized",)) for role in ("anon", "authenticated")]
        assert sorted(told[: len(wanted)]) == sorted(wanted)


async def test_a_missing_grant_is_still_a_hint_and_one_sentence(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("revoke select on public.unstale_wakeup from service_role")
    with structlog.testing.capture_logs() as logs:
        async with SupabaseDouble(database, poll=0.02) as project, listening(project) as stage:
            for expected in range(1, 4):
                hints = stage.wakeups.hints
                await sql.execute(INSERT)
                await eventually(partial(_hinted_beyond, stage.wakeups, hints))
                assert stage.wakeups.unreadable == expected
            assert stage.wakeups.reconnects == 0
    remedies = [entry["remedy"] for entry in logs if "remedy" in entry]
    assert remedies == [
        "service_role may not read the table: grant select on public.unstale_wakeup to service_role"
    ]


async def test_a_table_that_is_not_published_is_said_and_not_asked_for_at_once_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("alter publication supabase_realtime drop table public.unstale_wakeup")
    async with SupabaseDouble(database) as project:
        wakeups = RealtimeWakeUps(project.url, project.keys.secret, on_hint=lambda: None, timing=FAST)
        async with wakeups:
            await eventually(lambda: "Unable to subscribe to changes" in wakeups.problem)
            assert not wakeups.healthy
            await sql.execute("alter publication supabase_realtime add table public.unstale_wakeup")
            await eventually(lambda: wakeups.healthy)


async def test_a_wrong_key_is_said_without_the_key(project: SupabaseDouble) -> None:
    wakeups = RealtimeWakeUps(project.url, HOSTILE_KEY, on_hint=lambda: None, timing=FAST)
    async with wakeups:
        await eventually(lambda: wakeups.problem)
        assert "HTTP 401" in wakeups.problem
        assert not wakeups.healthy
        assert HOSTILE_KEY not in repr(wakeups) + wakeups.problem + repr(
            Target(project.url, HOSTILE_KEY, "p", "t")
        )


async def test_no_key_in_any_log_at_any_level(
    project: SupabaseDouble, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        async with listening(project) as stage:
            await project.realtime.malformed()
            await project.realtime.shut_down_channels(f"a service that echoes {project.keys.secret}")
            stage.misses_a_change()
            await stage.recovers(sessions=2)
            project.realtime.faults.refuse_upgrade = 503
            await project.realtime.drop()
            await eventually(lambda: stage.wakeups.attempts >= 4)
    own = [record for record in caplog.records if record.name.startswith(("realtime", "websockets"))]
    assert any(record.name.startswith("realtime") for record in own)
    assert _without(
        project.keys.secret, [record.getMessage() for record in own] + [str(entry) for entry in logs]
    )

    # What the libraries say when nobody stops them: the filter is what keeps the key out.
    caplog.clear()
    project.realtime.faults.refuse_upgrade = None
    client = AsyncRealtimeClient(f"{project.url}/realtime/v1", project.keys.secret, auto_reconnect=False)
    await client.connect()
    await client.close()
    assert not _without(project.keys.secret, [record.getMessage() for record in caplog.records])


async def test_an_outage_is_said_once_and_so_is_its_end(project: SupabaseDouble) -> None:
    with structlog.testing.capture_logs() as logs:
        async with listening(project) as stage:
            project.realtime.faults.refuse_upgrade = 503
            await project.realtime.drop()
            await eventually(lambda: stage.wakeups.attempts >= 10)
            project.realtime.faults.refuse_upgrade = None
            await stage.healthy(sessions=2)
    said = [(entry["log_level"], entry.get("problem", "")) for entry in logs]
    assert [level for level, _ in said] == ["info", "warning", "warning", "info"]
    assert "1012" in said[1][1]
    assert "HTTP 503" in said[2][1]


def test_what_is_no_address_is_refused_without_the_key() -> None:
    for url in ("", "localhost:54321", "postgresql://x", "https://", "http://[::1", "http://h:99999999"):
        with pytest.raises(SettingError, match="SUPABASE_URL") as caught:
            Target(url, HOSTILE_KEY, schema="public", table=TABLE)
        assert HOSTILE_KEY not in str(caught.value)
    with pytest.raises(SettingError, match="SUPABASE_SECRET_KEY"):
        Target("https://x.supabase.co", "", schema="public", table=TABLE)
    assert (
        Target("https://x.supabase.co/", "k", "public", TABLE).endpoint == "https://x.supabase.co/realtime/v1"
    )


async def test_pauses_grow_to_a_bound_and_begin_again_after_a_good_session() -> None:
    timing = Timing(first_pause=0.1, most_pause=5.0, refused_pause=30.0, settled=10.0)
    wakeups = RealtimeWakeUps("http://h", "k", on_hint=lambda: None, timing=timing)
    down = Ended("gone")
    pauses = [wakeups._pause(down, lasted=0.0) for _ in range(500)]

    assert 0.05 <= pauses[0] <= 0.1
    assert all(2.5 <= pause <= 5.0 for pause in pauses[10:])
    assert 15 <= wakeups._pause(Ended("no", refused=True), lasted=0.0) <= 30
    assert wakeups._pause(down, lasted=9.0) > 2
    assert wakeups._pause(down, lasted=11.0) <= 0.1


def _without(key: str, lines: list[str]) -> bool:
    """Whether no line has the key, or a part of it that would help, in any notation."""
    text = json.dumps(lines, ensure_ascii=False)
    forms = {key, quote(key, safe="")}
    return not any(form[:16] in text or form[-12:] in text for form in forms)


def _hinted_beyond(wakeups: RealtimeWakeUps, hints: int) -> bool:
    return wakeups.hints > hints
