"""The connection pool against servers that speak the real APIs: made once, shared, renewed, told apart."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from servers import Database, eventually
from services.api_double import KEY, SUPABASE_KEY, StandIn
from unstale import ConnectionPool, PoolClosed, SettingError

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


@pytest.fixture
async def pool(standin: StandIn) -> AsyncIterator[ConnectionPool]:
    async with ConnectionPool.from_env(env_file=None, **standin.settings, pool_shutdown=5) as pool:
        yield pool


async def ask(pool: ConnectionPool) -> str | None:
    answer = await (await pool.openai()).chat.completions.create(**ASK)
    text: str | None = answer.choices[0].message.content
    return text


async def test_each_client_speaks_to_its_server(pool: ConnectionPool, standin: StandIn) -> None:
    assert await ask(pool) == "You said: hello"
    answer = await asyncio.to_thread(lambda: pool.openai_sync().chat.completions.create(**ASK))
    assert answer.choices[0].message.content == "You said: hello"
    rows = await (await pool.supabase()).table("profiles").select("*").execute()
    assert rows.data == [{"table": "profiles", "schema": "public"}]
    async with (await pool.http()).get(f"{standin.url}/plain") as response:
        assert await response.text() == "plain"
    assert standin.keys == {f"Bearer {KEY}", f"Bearer {SUPABASE_KEY}", ""}


async def test_a_hundred_tasks_at_once_get_one_client_of_each(pool: ConnectionPool) -> None:
    for get in (pool.openai, pool.supabase, pool.http):
        clients = await asyncio.gather(*(get() for _ in range(100)))
        assert len(set(map(id, clients))) == 1

    with ThreadPoolExecutor(20) as threads:
        loop = asyncio.get_running_loop()
        sync = await asyncio.gather(*(loop.run_in_executor(threads, pool.openai_sync) for _ in range(100)))
    assert len(set(map(id, sync))) == 1


async def test_the_one_who_asked_first_may_be_cancelled(pool: ConnectionPool) -> None:
    await pool.http()  # so that this loop's clients are there, and only the one is being made
    first = asyncio.create_task(pool.openai())
    await asyncio.sleep(0)  # it has begun
    second = asyncio.create_task(pool.openai())
    await asyncio.sleep(0)
    first.cancel()

    assert await second is await pool.openai()
    assert first.cancelled()


async def test_supabase_clients_differ_by_schema_and_key_and_share_connections(
    pool: ConnectionPool, standin: StandIn
) -> None:
    public, other, anon = (
        await pool.supabase(),
        await pool.supabase(schema="other"),
        await pool.supabase(key="sb_publishable_x"),
    )
    assert len({id(public), id(other), id(anon)}) == 3
    assert await pool.supabase(schema="other") is other
    for client in (public, other, anon):
        await client.table("profiles").select("*").execute()
    assert "Bearer sb_publishable_x" in standin.keys
    assert standin.connections == 1
    assert (await pool.get_stats())["supabase_clients"] == 3


async def test_a_key_per_user_is_refused_before_it_leaks(pool: ConnectionPool) -> None:
    for number in range(32):
        await pool.supabase(key=f"key-{number}")
    with pytest.raises(ValueError, match="keys are API keys"):
        await pool.supabase(key="one more")


async def test_requests_reuse_connections(pool: ConnectionPool, standin: StandIn) -> None:
    for _ in range(20):
        await ask(pool)
        async with (await pool.http()).get(f"{standin.url}/plain") as response:
            await response.read()
    assert standin.connections == 2


async def test_one_host_gets_no_more_connections_than_it_may(standin: StandIn) -> None:
    async with ConnectionPool.from_env(env_file=None, pool_connections_per_host=3) as pool:
        session = await pool.http()
        standin.gate.clear()

        async def get() -> None:
            async with session.get(f"{standin.url}/plain") as response:
                await response.read()

        requests = [asyncio.create_task(get()) for _ in range(9)]
        await eventually(lambda: standin.waiting == 3)
        standin.gate.set()
        await asyncio.gather(*requests)
        assert standin.connections == 3


async def test_stats_have_these_fields(pool: ConnectionPool) -> None:
    assert await pool.get_stats() == {
        "supabase_clients": 0,
        "http_session_active": False,
        "openai_clients_ready": False,
        "connection_errors": 0,
        "status": "healthy",
        "database_pool_active": False,
        "dependencies": {},
    }
    await pool.warm()
    await ask(pool)
    stats = await pool.get_stats()
    assert stats | {"dependencies": None} == {
        "supabase_clients": 1,
        "http_session_active": True,
        "openai_clients_ready": True,
        "connection_errors": 0,
        "status": "healthy",
        "database_pool_active": False,
        "dependencies": None,
    }
    dependencies: Any = stats["dependencies"]
    assert set(dependencies) == {"openai", "supabase", "http"}
    assert dependencies["openai"]["state"] == "healthy"
    assert dependencies["openai"]["requests"] == 1
    assert dependencies["openai"]["latency_ms"] > 0
    assert dependencies["supabase"]["state"] == "unknown"


async def test_secrets_are_in_no_repr_stat_or_log(
    pool: ConnectionPool, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="unstale")
    await pool.warm()
    await ask(pool)
    await standin.__aexit__(None, None, None)
    with pytest.raises(openai.APIConnectionError):
        await (await pool.openai()).with_options(max_retries=0).chat.completions.create(**ASK)
    said = repr(pool) + json.dumps(await pool.get_stats()) + caplog.text + repr(await pool.supabase())
    for secret in (KEY, SUPABASE_KEY, "sk-", "sb_secret"):
        assert secret not in said
    assert repr(pool) == "<ConnectionPool http, openai, supabase>"
    await standin.__aenter__()


async def test_what_is_not_configured_says_so() -> None:
    async with ConnectionPool.from_env(env_file=None, openai_api_key=None, supabase_url=None) as pool:
        with pytest.raises(SettingError, match="OPENAI_API_KEY is not set"):
            await pool.openai()
        with pytest.raises(SettingError, match="OPENAI_API_KEY is not set"):
            pool.openai_sync()
        with pytest.raises(SettingError, match="SUPABASE_URL is not set"):
            await pool.supabase()
        with pytest.raises(SettingError, match="DATABASE_URL"):
            await pool.postgres()
        await pool.warm()
        assert (await pool.get_stats())["http_session_active"] is True


async def test_a_client_that_somebody_closed_is_not_handed_out(
    pool: ConnectionPool, standin: StandIn
) -> None:
    async with await pool.http() as session:  # a common mistake: it closes what is shared
        pass
    assert session.closed
    async with (await pool.http()).get(f"{standin.url}/plain") as response:
        assert response.status == 200
    await (await pool.openai()).close()
    assert await ask(pool) == "You said: hello"
    pool.openai_sync().close()
    assert not pool.openai_sync().is_closed()


# --- cleaning up ------------------------------------------------------------------------------------


async def test_cleaning_up_fails_no_request_and_keeps_the_clients(
    pool: ConnectionPool, standin: StandIn
) -> None:
    """Requests of every client wait at the server while the pool is cleaned up; all are answered."""
    client, session, supabase = await pool.openai(), await pool.http(), await pool.supabase()
    sync = pool.openai_sync()

    async def page() -> str:
        async with session.get(f"{standin.url}/plain") as response:
            return await response.text()

    standin.gate.clear()
    under_way = [
        asyncio.create_task(ask(pool)),
        asyncio.create_task(page()),
        asyncio.create_task(supabase.table("profiles").select("*").execute()),
        asyncio.create_task(asyncio.to_thread(lambda: sync.chat.completions.create(**ASK))),
    ]
    await eventually(lambda: standin.waiting == 4)
    before = standin.connections

    await pool.cleanup()

    stats: Any = await pool.get_stats()
    assert {name: each["in_flight"] for name, each in stats["dependencies"].items()} == {
        "openai": 1,
        "http": 1,
        "supabase": 1,
        "openai_sync": 1,
    }
    standin.gate.set()
    answers: list[Any] = await asyncio.gather(*under_way)
    assert answers[:2] == ["You said: hello", "plain"]
    # Answered the first time: the clients would have tried again and hidden a failure.
    assert standin.requests == {"/v1/chat/completions": 2, "/plain": 1, "/rest/v1/profiles": 1}
    assert await pool.openai() is client
    assert await pool.http() is session
    assert pool.openai_sync() is sync
    # The old connections are gone, so each client has to open one.
    await asyncio.gather(ask(pool), page(), supabase.table("profiles").select("*").execute())
    await asyncio.to_thread(lambda: sync.chat.completions.create(**ASK))
    assert standin.connections == before + 4


async def test_a_stream_goes_on_over_a_clean_up(pool: ConnectionPool, standin: StandIn) -> None:
    words = []
    async with await (await pool.openai()).chat.completions.create(**ASK, stream=True) as stream:
        async for piece in stream:
            words.append(piece.choices[0].delta.content)
            if len(words) == 1:
                standin.gate.clear()
                await pool.cleanup()
                standin.gate.set()
    assert words == ["You", "said:", "hello"]
    stats: Any = await pool.get_stats()
    assert stats["dependencies"]["openai"]["in_flight"] == 0


async def test_cleaning_up_clears_errors(pool: ConnectionPool, standin: StandIn) -> None:
    await ask(pool)
    await standin.__aexit__(None, None, None)
    with pytest.raises(openai.APIConnectionError):
        await (await pool.openai()).with_options(max_retries=0).chat.completions.create(**ASK)
    stats: Any = await pool.get_stats()
    assert stats["status"] == "degraded"
    assert stats["connection_errors"] == 1
    assert stats["dependencies"]["openai"]["last_error"] == "ConnectError (ECONNREFUSED)"
    await pool.cleanup()
    stats = await pool.get_stats()
    assert (stats["status"], stats["connection_errors"]) == ("healthy", 0)
    await standin.__aenter__()
    assert await ask(pool) == "You said: hello"


# --- closing ----------------------------------------------------------------------------------------


async def test_closing_waits_for_what_is_in_flight(pool: ConnectionPool, standin: StandIn) -> None:
    standin.gate.clear()
    request = asyncio.create_task(ask(pool))
    await eventually(lambda: standin.waiting == 1)
    closing = asyncio.create_task(pool.close())
    await eventually(lambda: repr(pool).endswith("closed>"))
    with pytest.raises(PoolClosed):
        await pool.http()
    assert not closing.done()
    standin.gate.set()
    await closing
    assert await request == "You said: hello"


async def test_closing_cuts_off_what_takes_too_long(standin: StandIn) -> None:
    pool = ConnectionPool.from_env(env_file=None, **standin.settings, pool_shutdown=0.05)
    client = (await pool.openai()).with_options(max_retries=0)
    standin.gate.clear()
    request = asyncio.create_task(client.chat.completions.create(**ASK))
    await eventually(lambda: standin.waiting == 1)

    await pool.close()

    with pytest.raises(openai.APIConnectionError):
        await request


async def test_the_youngest_is_closed_first(standin: StandIn, database: Database) -> None:
    pool = ConnectionPool.from_env(env_file=None, **standin.settings, database_url=database.dsn)
    order: list[str] = []
    await pool.http()
    await pool.postgres()
    await pool.openai()
    await pool.supabase()
    for dependency in pool._dependencies():
        close, name = dependency.close, dependency.name

        async def noted(*, timeout: float, close: Any = close, name: str = name) -> None:
            order.append(name)
            await close(timeout=timeout)

        dependency.close = noted  # type: ignore[method-assign]
    await pool.close()
    assert order == ["supabase", "openai", "database", "http"]


@pytest.mark.parametrize("steps", range(12))
async def test_closing_is_safe_at_any_moment(standin: StandIn, steps: int) -> None:
    """Close while clients are being made, after so many steps of the loop; twice at once, and again."""
    pool = ConnectionPool.from_env(env_file=None, **standin.settings, pool_shutdown=5)
    asked = [asyncio.create_task(get()) for get in (pool.openai, pool.http, pool.supabase)]
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.gather(pool.close(), pool.close())
    await pool.close()
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(outcome, PoolClosed) or not isinstance(outcome, BaseException)
    with pytest.raises(PoolClosed):
        await pool.openai()
    with pytest.raises(PoolClosed):
        pool.openai_sync()
    with pytest.raises(PoolClosed):
        await pool.__aenter__()
    assert (await pool.get_stats())["status"] == "closed"


async def test_a_cancelled_close_still_closes(pool: ConnectionPool, standin: StandIn) -> None:
    standin.gate.clear()
    request = asyncio.create_task(ask(pool))
    await eventually(lambda: standin.waiting == 1)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    standin.gate.set()
    assert await request == "You said: hello"
    await pool.close()
    assert pool._dependencies() == []


# --- Postgres ---------------------------------------------------------------------------------------


async def test_the_postgres_pool_opens_what_it_needs(database: Database) -> None:
    async with ConnectionPool.from_env(
        env_file=None, database_url=database.dsn, pool_database_connections=3
    ) as pool:
        postgres = await pool.postgres()
        assert postgres.get_size() == 0
        assert await postgres.fetchval("select current_setting('application_name')") == "unstale-agent"
        await asyncio.gather(*(postgres.fetchval("select pg_sleep(0.01)") for _ in range(9)))
        assert postgres.get_size() == 3
        async with postgres.acquire() as held:
            first = held.get_server_pid()
            await pool.cleanup()
            assert await held.fetchval("select 1") == 1
        async with postgres.acquire() as held:
            assert held.get_server_pid() != first
        assert await pool.postgres() is postgres


async def test_a_transaction_pooler_gets_no_prepared_statements(database: Database) -> None:
    dsn = database.dsn
    pooled = dsn.replace(f":{database.server.port}/", ":6543/")
    assert pooled != dsn
    for url, size in ((dsn, 100), (pooled, 0)):
        async with ConnectionPool.from_env(env_file=None, database_url=url) as pool:
            postgres: Any = await pool.postgres()
            assert postgres._connect_kwargs["statement_cache_size"] == size


async def test_a_database_that_is_away_is_reported(unused_tcp_port: int) -> None:
    url = f"postgresql://ada:hunter2@127.0.0.1:{unused_tcp_port}/x"
    async with ConnectionPool.from_env(env_file=None, database_url=url) as pool:
        with pytest.raises(OSError, match="Connect"):
            await (await pool.postgres()).fetchval("select 1")
        stats: Any = await pool.get_stats()
        assert stats["status"] == "degraded"
        assert stats["dependencies"]["database"]["last_error"] == "ConnectionRefusedError (ECONNREFUSED)"
        assert "hunter2" not in repr(pool) + str(stats)


async def test_a_server_that_resets_is_an_error_of_the_session(pool: ConnectionPool) -> None:
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        session = await pool.http()
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"http://127.0.0.1:{port}/")
    stats: Any = await pool.get_stats()
    assert stats["connection_errors"] >= 1
    assert stats["dependencies"]["http"]["state"] == "failing"
    assert stats["dependencies"]["http"]["in_flight"] == 0


async def test_the_pages_code_runs(standin: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first block of docs/pools.md, with the environment that its table names."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{standin.url}/v1",
        "SUPABASE_URL": standin.url,
        "SUPABASE_SECRET_KEY": SUPABASE_KEY,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",  # nothing connects before its first query
    }.items():
        monkeypatch.setenv(name, value)
    page = (Path(__file__).parents[3] / "docs" / "pools.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(f"async def page():\n{textwrap.indent(code, '    ')}\n    return openai, pool", scope)
    client, pool = await scope["page"]()
    assert isinstance(client, openai.AsyncOpenAI)
    assert (await pool.get_stats())["status"] == "closed"
