"""Health checks: who is asked, who is not, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from servers import Database, eventually
from services.api_double import StandIn
from unstale import ConnectionPool
from unstale.companion.pools.health import monitor
from unstale.companion.pools.vitals import Vitals, kind

FAST = {"pool_health_interval": 0.05}


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


async def state(pool: ConnectionPool, name: str) -> dict[str, Any]:
    dependencies: Any = (await pool.get_stats())["dependencies"]
    found: dict[str, Any] = dependencies[name]
    return found


async def states(pool: ConnectionPool, name: str, wanted: str) -> bool:
    return bool((await state(pool, name))["state"] == wanted)


async def test_what_is_in_use_is_checked_and_nothing_else(standin: StandIn, database: Database) -> None:
    async with ConnectionPool.from_env(
        env_file=None, **standin.settings, **FAST, database_url=database.dsn
    ) as pool:
        await pool.openai()
        await eventually(lambda: standin.requests["/v1/models"] >= 2)
        assert standin.requests["/rest/v1/"] == 0
        await pool.supabase()
        await pool.postgres()
        await eventually(lambda: standin.requests["/rest/v1/"] >= 2)
        await eventually(lambda: states(pool, "database", "healthy"))
        assert await states(pool, "openai", "healthy")
        assert await states(pool, "supabase", "healthy")


async def test_an_outage_is_seen_told_once_and_recovered_from(
    standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unstale")
    async with ConnectionPool.from_env(env_file=None, **standin.settings, **FAST) as pool:
        await pool.openai()
        await eventually(lambda: states(pool, "openai", "healthy"))
        standin.status = 503
        await eventually(lambda: states(pool, "openai", "failing"))
        assert (await state(pool, "openai"))["last_error"] == "HTTP 503"
        assert (await pool.get_stats())["status"] == "degraded"
        before = standin.requests["/v1/models"]
        await eventually(lambda: standin.requests["/v1/models"] >= before + 3)
        standin.status = 200
        await eventually(lambda: "openai answers again" in caplog.text)
        assert (await pool.get_stats())["status"] == "healthy"
    assert caplog.text.count("openai is failing: HTTP 503") == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_named(standin: StandIn, status: int) -> None:
    standin.status = status
    async with ConnectionPool.from_env(env_file=None, **standin.settings, **FAST) as pool:
        await pool.openai()
        await pool.supabase()
        await eventually(lambda: states(pool, "openai", "failing"))
        await eventually(lambda: states(pool, "supabase", "failing"))
        assert (await state(pool, "openai"))["last_error"] == f"HTTP {status}: check OPENAI_API_KEY"
        assert (await state(pool, "supabase"))["last_error"] == f"HTTP {status}: check SUPABASE_SECRET_KEY"


async def test_a_server_that_is_gone_and_comes_back(standin: StandIn) -> None:
    async with ConnectionPool.from_env(env_file=None, **standin.settings, **FAST) as pool:
        await pool.supabase()
        await eventually(lambda: states(pool, "supabase", "healthy"))
        await standin.__aexit__(None, None, None)
        await eventually(lambda: states(pool, "supabase", "failing"))
        await standin.__aenter__()
        await eventually(lambda: states(pool, "supabase", "healthy"))


async def test_no_check_is_left_when_the_pool_closes(standin: StandIn) -> None:
    """Also while one is under way; the fixtures look for tasks left behind."""
    pool = ConnectionPool.from_env(env_file=None, **standin.settings, **FAST, pool_shutdown=5)
    await pool.openai()
    await eventually(lambda: standin.requests["/v1/models"] >= 1)
    await pool.close()
    before = standin.requests["/v1/models"]
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("unstale-pool")}
    assert standin.requests["/v1/models"] == before


class Silent:
    """A dependency that never answers."""

    name = "silent"
    alive = True
    clients = 1
    in_flight = 0

    def __init__(self) -> None:
        self.vitals = Vitals()
        self.asked = 0

    async def check(self) -> None:
        self.asked += 1
        await asyncio.Event().wait()

    async def renew(self) -> None: ...

    async def close(self, *, timeout: float) -> None: ...


async def test_who_was_heard_of_is_not_asked() -> None:
    now, turns = 0.0, 0
    silent = Silent()
    silent.vitals = Vitals(clock=lambda: now)
    silent.vitals.answered(silent.vitals.began())

    def dependencies() -> list[Silent]:
        nonlocal turns
        turns += 1
        return [silent]

    watching = asyncio.create_task(monitor(dependencies, interval=0.01))
    await eventually(lambda: turns >= 5)
    assert silent.asked == 0
    now = 0.01
    await eventually(lambda: silent.asked == 1)
    watching.cancel()


async def test_one_that_never_answers_fails_and_does_not_stop_the_monitor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unstale.companion.pools.health.CHECK_SECONDS", 0.01)
    silent = Silent()
    watching = asyncio.create_task(monitor(lambda: [silent], interval=0.01))
    await eventually(lambda: silent.asked >= 3)
    watching.cancel()
    report = silent.vitals.report(in_flight=0)
    assert report.last_error == "TimeoutError"
    assert report.connection_errors >= 2


def test_intervals_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 200:
            raise asyncio.CancelledError

    monkeypatch.setattr("unstale.companion.pools.health.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(monitor(lambda: [], interval=30.0))
    assert len(set(pauses)) == 200
    assert 24 <= min(pauses) < 26 < 34 < max(pauses) <= 36


def test_an_error_is_named_without_its_text() -> None:
    outer = RuntimeError("https://key:secret@example.com")
    outer.__cause__ = OSError(104, "reset by secret")
    assert kind(outer) == "RuntimeError (ECONNRESET)"
    assert kind(ValueError("secret")) == "ValueError"


def test_an_error_without_end_is_named() -> None:
    error = RuntimeError("x")
    error.__context__ = error
    assert kind(error) == "RuntimeError"
