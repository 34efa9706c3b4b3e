"""What a run that went wrong leaves for whoever wants to know why: who answers whom, and all logs."""

import asyncio
import shutil
from collections.abc import Awaitable

import asyncpg
from redis.exceptions import RedisError

from chaos.stage import Stage
from chaos.valkeys import client
from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey

ANSWER_SECONDS = 3.0


async def gather(stage: Stage) -> list[str]:
    """A sentence for each server and for each way to it; the servers' logs are copied beside the others."""
    valkeys = stage.valkeys
    servers: dict[str, EmbeddedValkey | EmbeddedPostgres] = {
        "primary": valkeys.primary,
        "replica": valkeys.replica,
        "postgres": stage.postgres,
    }
    told = []
    for slot in stage.workers:
        slot.process.tell()
    for name, server in servers.items():
        state = "runs" if await server.running() else "is not running"
        ask = _postgres(server.superuser_dsn) if isinstance(server, EmbeddedPostgres) else _valkey(server)
        told.append(f"{name} at {server.port} {state}: {await _answer(ask)}")
        if server.log.exists():
            shutil.copyfile(server.log, stage.folder / f"server-{name}.log")
    for slot in (*stage.workers, *stage.refreshers, *stage.agents):
        told.append(f"{slot.process.name} to Redis: {await _through(slot.redis, valkeys.primary)}")
        if slot.postgres is not None:
            told.append(f"{slot.process.name} to Postgres: {slot.postgres!r}")
    return told


async def _valkey(server: EmbeddedValkey) -> str:
    async with client(server) as redis:
        found = await redis.info()
    shown = (
        "role",
        "loading",
        "uptime_in_seconds",
        "connected_clients",
        "blocked_clients",
        "master_link_status",
    )
    return ", ".join(f"{name} {found[name]}" for name in shown if name in found)


async def _postgres(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        answer: str = await connection.fetchval("select 'up since ' || pg_postmaster_start_time()")
        return answer
    finally:
        await connection.close()


async def _through(proxy: Proxy, server: EmbeddedValkey) -> str:
    async def greeting() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            writer.write(b"*1\r\n$4\r\nPING\r\n")
            return repr(await reader.read(100))
        finally:
            writer.close()

    stray = "" if proxy.target == server.port else f" (leads to {proxy.target}, the primary is {server.port})"
    return f"{proxy!r}{stray} {await _answer(greeting())}"


async def _answer(asking: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return f"answers {await asking}"
    except (OSError, TimeoutError, RedisError, asyncpg.PostgresError) as error:
        return f"{type(error).__name__}: {error}"
