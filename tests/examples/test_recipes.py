"""The recipes of `examples/`, started as their pages say, on real servers."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import nbformat
import pytest
from aiohttp import web
from nbclient import NotebookClient

from servers import Database, eventually
from workers import connected, running_worker
from workers.commands import SECONDS, Command, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
SEED = (EXAMPLES / "database" / "supabase" / "seed.sql").read_text()
RULES = (EXAMPLES / "database" / "unstale.toml").read_text()


def blocks(recipe: str, language: str) -> list[str]:
    """Return what a recipe's page shows in this language."""
    page = (EXAMPLES / recipe / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def servers(database: Database, redis_url: str) -> AsyncIterator[dict[str, str]]:
    """What `unstale dev` prints in `examples/database`: the tables are there, and a worker follows them."""
    async with connected(database.dsn) as connection:
        await connection.execute(SEED)
    async with running_worker(database.worker_dsn, redis_url, rules=RULES):
        yield {"DATABASE_URL": database.dsn, "REDIS_URL": redis_url}


@pytest.fixture
async def writer(servers: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who writes with psql."""
    async with connected(servers["DATABASE_URL"]) as connection:
        yield connection


@asynccontextmanager
async def process(recipe: str, *arguments: str, settings: dict[str, str]) -> AsyncIterator[Command]:
    """``python -m …`` in the recipe's folder, in a session of its own. Whatever of it is left is killed."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, *arguments,
        cwd=EXAMPLES / recipe,
        env=environment(PYTHONDONTWRITEBYTECODE="1", **settings),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield Command(started)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        await started.communicate()


class Readers:
    """Answers of a service by the process that gave them."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ask(self, **headers: str) -> tuple[str, dict[str, Any]]:
        """One request over a connection of its own: the kernel chooses the process."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http,
            http.get(self._url, headers=headers) as response,
        ):
            answer: dict[str, Any] = await response.json()
            assert response.status == 200, answer
            return str(answer.pop("process", response.headers.get("X-Process"))), answer

    async def processes(self, count: int) -> dict[str, dict[str, Any]]:
        """Ask until this many processes have answered."""
        answers: dict[str, dict[str, Any]] = {}

        async def all_have() -> bool:
            answers.update(await asyncio.gather(*(self.ask() for _ in range(4 * count))))
            return len(answers) >= count

        await eventually(all_have, message=f"{count} processes have answered")
        return answers

    async def all_answer(self, count: int, **wanted: Any) -> None:
        async def do() -> bool:
            answers = await self.processes(count)
            return all(wanted.items() <= answer.items() for answer in answers.values())

        await eventually(do, message=f"{count} processes answer with {wanted}")


async def test_fastapi(servers: dict[str, str], writer: asyncpg.Connection) -> None:
    command = ("-m", "uvicorn", "main:app", "--workers", "3", "--port", "0", "--no-use-colors")
    async with process("fastapi", *command, settings=servers) as service:
        url = re.findall(r"http://[\d.:]+", await service.line("Uvicorn running on"))[0] + "/users/1"
        for _ in range(3):
            await service.line("Application startup complete")
        readers = Readers(url)
        assert await readers.processes(3)
        await readers.all_answer(3, name="Ada")

        await writer.execute("update profiles set name = 'Augusta' where id = 1")
        await readers.all_answer(3, name="Augusta")

        async with aiohttp.ClientSession() as http:
            for number in range(5):
                async with http.patch(url, json={"name": f"Ada {number}"}) as response:
                    token = response.headers["X-Token"]
                answers = await asyncio.gather(*(readers.ask(**{"X-Token": token}) for _ in range(12)))
                assert {answer["name"] for _, answer in answers} == {f"Ada {number}"}
            async with http.get(url, headers={"X-Token": "no token"}) as response:
                assert (response.status, "X-Token" in await response.text()) == (400, True)
            async with http.get(url.replace("users/1", "users/99")) as response:
                assert response.status == 404
        assert await service.end(signal.SIGTERM) == 0


async def test_django(servers: dict[str, str], writer: asyncpg.Connection) -> None:
    command = ("-m", "gunicorn", "people.wsgi", "--preload", "--workers", "2", "--threads", "4")
    async with process("django", *command, "--bind", "127.0.0.1:0", settings=servers) as service:
        url = re.findall(r"http://[\d.:]+", await service.line("Listening at"))[0] + "/people/1"
        for _ in range(2):
            await service.line("Booting worker")
        readers = Readers(url)
        await readers.all_answer(2, name="Ada", plan="free")

        await writer.execute("update profiles set name = 'Augusta' where id = 1")
        await readers.all_answer(2, name="Augusta")

        async with aiohttp.ClientSession() as http, http.post(f"{url}/upgrade") as response:
            assert (await response.json())["plan"] == "team"
        await readers.all_answer(2, plan="team")
        assert await service.end(signal.SIGTERM) == 0


@pytest.mark.leaves_keys("_kombu.*", "unacked.*", "celery")
async def test_celery(servers: dict[str, str], writer: asyncpg.Connection) -> None:
    broker = servers["REDIS_URL"].rpartition("/")[0] + "/1"
    queue = {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker}
    (call,) = blocks("celery", "python")

    async def both_say(text: str) -> None:
        said: dict[int, str] = {}

        async def do() -> bool:
            async with process("celery", "-c", call, settings=servers | queue) as client:
                for line in filter(re.compile("{").match, await client.rest()):
                    answer = ast.literal_eval(line)
                    said[answer["process"]] = answer["text"]
            return len(said) == 2 and set(said.values()) == {text}

        await eventually(do, message=f"both processes say {text!r}")

    command = ("-m", "celery", "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "INFO")
    async with process("celery", *command, "--without-mingle", settings=servers | queue) as worker:
        await worker.line("ready.")
        await both_say("Hello Ada")
        await writer.execute("update profiles set name = 'Grace' where id = 1")
        await both_say("Hello Grace")
        assert await worker.end(signal.SIGTERM) == 0


class Model:
    """A language model on loopback that answers with the length of its instructions, and keeps those."""

    def __init__(self) -> None:
        self.instructions: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        system, *_ = (await request.json())["messages"]
        assert system["role"] in ("system", "developer")
        self.instructions.append(system["content"])
        message = {"role": "assistant", "content": f"answer {len(self.instructions)}"}
        return web.json_response(
            {
                "id": "1", "object": "chat.completion", "created": 1, "model": "any",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
        )  # fmt: skip


async def test_openai_agents(servers: dict[str, str], writer: asyncpg.Connection) -> None:
    model, app = Model(), web.Application()
    app.router.add_post("/v1/chat/completions", model.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    asking = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"http://{host}:{port}/v1",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    try:
        async with process("openai-agents", "assistant.py", settings=servers | asking) as assistant:

            async def turn() -> str:
                stdin = assistant.process.stdin
                assert stdin is not None
                stdin.write(b"Hello\n")
                await assistant.line(f"answer {len(model.instructions) + 1}")
                return model.instructions[-1]

            first = await turn()
            assert "You talk to Ada." in first
            assert "- plays the harp" in first
            assert await turn() == first

            await writer.execute("update memories set content = 'tunes pianos' where user_id = 1")

            async def rebuilt() -> str | None:
                text = await turn()
                return None if text == first else text

            second = await eventually(rebuilt, message="the instructions were rebuilt")
            assert second == first.replace("plays the harp", "tunes pianos")
            stable, _, own = first.partition("\n\n")
            assert (second.startswith(stable), "Ada" in stable, "Ada" in own) == (True, False, True)

            assert assistant.process.stdin is not None
            assistant.process.stdin.write(b"\n")
            assert await assistant.process.wait() == 0
    finally:
        await runner.cleanup()


async def test_sqlalchemy(servers: dict[str, str]) -> None:
    (said,) = blocks("sqlalchemy", "text")
    async with process("sqlalchemy", "-W", "error", "directory.py", settings=servers) as script:
        assert await script.rest() == said.splitlines()
        assert await script.process.wait() == 0


async def test_notebook(servers: dict[str, str], tmp_path: Path) -> None:
    text = (EXAMPLES / "notebook" / "plans.ipynb").read_text()
    notebook: Any = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}})
    await client.async_execute(env=environment(**servers))
    *_, before, after, loads = (
        cell.outputs[0].data["text/plain"] for cell in notebook.cells if cell.get("outputs")
    )
    assert (before, after, loads) == ("{'free': 1, 'team': 1}", "{'team': 2}", "2")
