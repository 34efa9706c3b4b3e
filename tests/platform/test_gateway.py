"""The compose file's gateway, in a real nginx: both services behind one address, for the official client."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from supabase import AsyncClientOptions, create_async_client

from servers import Database, eventually
from services.programs import REPOSITORY, program
from supabase_double import SupabaseDouble
from unstale_worker.dev_servers.process import free_port
from unstale_worker.sources.realtime import RealtimeWakeUps
from workers import connected

MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log info;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/gateway.conf;
}}
"""
PORTS = 5


@asynccontextmanager
async def gateway(folder: Path, project: SupabaseDouble) -> AsyncIterator[str]:
    """The gateway's URL; behind it, the project stands for PostgREST and Realtime, under their own paths."""
    conf = (REPOSITORY / "docker" / "gateway.conf").read_text()
    for name, here in {
        "http://rest:3000/": f"{project.url}/rest/v1/",
        "http://realtime-dev.supabase-realtime:4000/api/": f"{project.url}/realtime/v1/api/",
        "http://realtime-dev.supabase-realtime:4000/socket/": f"{project.url}/realtime/v1/",
    }.items():
        assert conf.count(name) == 1, name
        conf = conf.replace(name, here)
    assert conf.count("listen 8000;") == 1
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    for _ in range(PORTS):
        port = free_port()
        (folder / "gateway.conf").write_text(conf.replace("listen 8000;", f"listen 127.0.0.1:{port};"))
        process = await asyncio.to_thread(_start, folder)
        try:
            url = f"http://127.0.0.1:{port}"
            if await _serves(url, process):
                yield url
                return
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
        # Another process may have taken the port since it was free.
        assert "Address already in use" in (folder / "error.log").read_text()
    raise AssertionError(f"nginx found none of {PORTS} ports free")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    nginx = program("nginx", remedy="apt-get install nginx-light")
    return subprocess.Popen([nginx, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"])


async def _serves(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the gateway answers, or has ended."""
    async with aiohttp.ClientSession() as session:

        async def decided() -> bool:
            if process.poll() is not None:
                return True
            try:
                async with session.get(f"{url}/healthz") as response:
                    return response.status == 204
            except aiohttp.ClientError:
                return False

        await eventually(decided, message="the gateway answers or ends")
    return process.poll() is None


async def test_functions_and_changes_come_through(database: Database, tmp_path: Path) -> None:
    hints: list[None] = []
    async with (
        SupabaseDouble(database, poll=0.02) as project,
        gateway(tmp_path, project) as url,
        RealtimeWakeUps(url, project.keys.service_role, on_hint=lambda: hints.append(None)) as realtime,
    ):
        async with connected(database.superuser_dsn) as connection:
            await connection.execute("create publication supabase_realtime; select unstale.publish_wakeups()")
            async with httpx.AsyncClient() as http:
                options = AsyncClientOptions(httpx_client=http)
                client = await create_async_client(url, project.keys.service_role, options)
                page: Any = (await client.rpc("unstale_read", {}).execute()).data
            assert page["position"]
            await eventually(lambda: realtime.healthy)
            before = len(hints)
            await connection.execute("insert into public.unstale_wakeup (id) values (1)")
            await eventually(lambda: len(hints) > before)
        # With the key in `apikey` alone, as the new kind of key is sent.
        async with (
            aiohttp.ClientSession(headers={"apikey": project.keys.service_role}) as session,
            session.post(f"{url}/rest/v1/rpc/unstale_watches", json={}) as response,
        ):
            assert response.status == 200
    # The key is part of the socket's URL, and in no log.
    logs = (tmp_path / "access.log").read_text() + (tmp_path / "error.log").read_text()
    assert "unstale_read" in logs
    assert project.keys.service_role not in logs
