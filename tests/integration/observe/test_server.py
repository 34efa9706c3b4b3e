"""The worker's HTTP side."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from unstale.errors import UnstaleError
from unstale.settings import WorkerSettings
from unstale_worker.observe import http
from unstale_worker.observe.http import serving
from unstale_worker.observe.http_guard import Guard
from unstale_worker.observe.metric_table import DEFINITIONS
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.observe.status import Role, Status, WorkerCounters

LEADING = Status(
    role=Role.LEADING, source="outbox", fence=3, lag=0.01, watermark_age=0.2, listening=True, redis=True,
    database=True, problem="", counters=WorkerCounters(entries=5, batches=2, keys=9, errors=1),
)  # fmt: skip


@asynccontextmanager
async def served(
    status: Callable[[], Status], *, token: str | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    settings = WorkerSettings.from_env(env_file=None, http_port=0, http_token=token)
    async with serving(settings, status) as url, aiohttp.ClientSession() as session:
        yield session, url


async def test_healthz_answers_while_the_process_lives() -> None:
    lagging = replace(LEADING, role=Role.STARTING, lag=math.inf)
    async with served(lambda: lagging) as (session, url), session.get(f"{url}/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (LEADING, 200, "leading"),
        (replace(LEADING, role=Role.STANDBY, lag=math.inf), 200, "standby"),
        (replace(LEADING, lag=10.5), 503, "10.5 s"),
        (
            replace(LEADING, lag=math.inf, problem="Redis is away"),
            503,
            "unknown yet (ready below 10 s): Redis",
        ),
        (replace(LEADING, role=Role.STANDBY, redis=False), 503, "Redis did not answer"),
        (replace(LEADING, role=Role.STARTING), 503, "starting"),
        (replace(LEADING, role=Role.STOPPING), 503, "stopping"),
    ],
)
async def test_readyz_says_why(status: Status, code: int, why: str) -> None:
    async with served(lambda: status) as (session, url), session.get(f"{url}/readyz") as response:
        said = await response.json()

    assert response.status == code
    assert said["ready"] is (code == 200)
    assert why in said["why"]
    assert said["source"] == "outbox"


async def test_metrics_are_those_that_are_defined() -> None:
    refresh = "user:{user_id}:greeting"
    coarse = replace(
        LEADING,
        capture_problems={("public.profiles", "whole table"): 1.0},
        refreshed=RefreshCounters(
            unchanged={(refresh,): 1.0},
            calls={(refresh,): 1.0},
            tokens={(refresh, "in", "spent"): 1.0},
            over_budget={(refresh,): 1.0},
        ),
    )
    async with served(lambda: coarse) as (session, url), session.get(f"{url}/metrics") as response:
        text = await response.text()

    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {sample.name for family in families.values() for sample in family.samples} == {
        definition.name + suffix
        for definition in DEFINITIONS
        for suffix in (("_bucket", "_count", "_sum") if definition.kind == "histogram" else ("",))
    }
    values = {sample.name: sample.value for family in families.values() for sample in family.samples}
    assert values["unstale_worker_keys_total"] == 9
    assert values["unstale_worker_lag_seconds"] == pytest.approx(0.01)
    assert values["unstale_worker_leading"] == 1


async def test_what_is_not_known_yet_is_nan_for_prometheus_and_null_in_json() -> None:
    fresh = replace(LEADING, lag=math.inf, watermark_age=math.inf)
    async with served(lambda: fresh) as (session, url):
        async with session.get(f"{url}/metrics") as response:
            assert "unstale_worker_lag_seconds NaN" in await response.text()
        async with session.get(url) as response:
            said = await response.json()
    assert said["lag"] is None
    assert said["counters"]["entries"] == 5


async def test_every_request_sees_the_status_of_its_moment() -> None:
    now = [LEADING]
    async with served(lambda: now[0]) as (session, url):
        async with session.get(f"{url}/readyz") as response:
            assert response.status == 200
        now[0] = replace(LEADING, lag=60.0)
        async with session.get(f"{url}/readyz") as response:
            assert response.status == 503


@pytest.mark.parametrize("path", ["/", "/readyz", "/metrics"])
@pytest.mark.parametrize("given", [None, "Bearer wrong", "secret", "Bearer sécret", "Basic secret"])
async def test_a_token_is_wanted_where_one_is_set(path: str, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given}
    async with (
        served(lambda: LEADING, token="secret") as (session, url),
        session.get(f"{url}{path}", headers=headers) as response,
    ):
        assert response.status == 401
        assert "leading" not in await response.text()


async def test_the_token_opens_and_health_needs_none() -> None:
    async with served(lambda: LEADING, token="secret") as (session, url):
        headers = {"Authorization": "Bearer secret"}
        async with session.get(f"{url}/metrics", headers=headers) as response:
            assert response.status == 200
        async with session.get(f"{url}/healthz") as response:
            assert response.status == 200


async def test_a_taken_port_is_named_with_its_setting() -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(UnstaleError, match=f"{port}.*UNSTALE_HTTP_PORT"):
            async with serving(WorkerSettings.from_env(env_file=None, http_port=port), lambda: LEADING):
                pass


SILENT = {
    "says nothing": b"",
    "half a header": b"GET /healthz HTTP/1.1\r\nHost: loc",
    "a body that does not come": b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
    "kept alive": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no HTTP": b"\x16\x03\x01",
}


@pytest.mark.parametrize("said", SILENT)
async def test_a_client_that_goes_silent_is_closed(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(http, "Guard", partial(Guard, silent_seconds=0.3))
    async with served(lambda: LEADING) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(SILENT[said])
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(4096):
                    pass
        writer.close()


async def test_a_client_that_trickles_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "Guard", partial(Guard, silent_seconds=0.3))
    async with served(lambda: LEADING) as (_, url), asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        while not reader.at_eof():
            writer.write(b"X: 1\r\n")
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.05):
                    await reader.read(1)
        writer.close()


async def test_silent_clients_do_not_use_up_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are ended in the order in which they came; whoever asks is answered meanwhile."""
    guards: list[Guard] = []

    def guard() -> Guard:
        guards.append(Guard(most=8))
        return guards[0]

    monkeypatch.setattr(http, "Guard", guard)
    async with served(lambda: LEADING) as (session, url):
        port = int(url.rpartition(":")[2])
        clients = []
        for _ in range(40):
            clients.append(await asyncio.open_connection("127.0.0.1", port))
            clients[-1][1].write(SILENT["half a header"])
            async with session.get(f"{url}/healthz") as response:
                assert response.status == 200
            assert len(guards[0]) <= 9
        for _, writer in clients:
            writer.close()


@pytest.mark.parametrize("path", ["/", "/metrics", "/readyz", "/healthz"])
@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("rebound.example", 421),
        ("rebound.example:8787", 421),
        ("localhost.rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("192.168.1.7", 421),
        ("[fe80::1]:8787", 421),
        ("localhost:8787", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1", 200),
        ("[::1]:8787", 200),
    ],
)
async def test_a_name_that_another_page_leads_here_is_refused(host: str, code: int, path: str) -> None:
    async with (
        served(lambda: LEADING) as (session, url),
        session.get(url + path, headers={"Host": host}) as response,
    ):
        assert response.status == code
        assert ("fence" in await response.text()) is (code == 200 and path in ("/", "/metrics"))


async def test_with_a_token_any_name_may_be_used() -> None:
    """No page of another site knows it; a proxy passes on its own name."""
    headers = {"Host": "unstale.example", "Authorization": "Bearer secret"}
    async with (
        served(lambda: LEADING, token="secret") as (session, url),
        session.get(f"{url}/", headers=headers) as response,
    ):
        assert response.status == 200
