"""The TypeScript client as a process that reads, and writes its history as the checker reads it."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest

from history import Record, decode

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"


class Follower:
    """One Node.js process; its loader's questions are answered by ``load``."""

    def __init__(
        self, process: asyncio.subprocess.Process, load: Callable[[str], Awaitable[dict[str, Any]]]
    ) -> None:
        self._process, self._load = process, load
        self.records: list[Record] = []
        self.errors: list[str] = []
        self.reads = 0
        self.started = asyncio.Event()
        self.stats: dict[str, int] = {}

    async def follow(self) -> None:
        """Read its output to the end; the process ends by itself after `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_errors())
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                if line.startswith(b"["):
                    self.records.append(decode(line))
                    self.reads += line.startswith(b'["Read"')
                    continue
                said = orjson.loads(line)
                if "load" in said:
                    tasks.create_task(self._answer(said["load"], said["row"]))
                elif "ended" in said:
                    self.stats = said["ended"]
                else:
                    self.started.set()
        assert await self._process.wait() == 0, "\n".join(self.errors)

    def stop(self, token: str) -> None:
        """Let it read on until the token's transaction is applied, say what it holds, and end."""
        self._tell({"stop": token})

    def pause(self) -> None:
        """Let the process stand still."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _answer(self, number: int, row: str) -> None:
        self._tell({"loaded": number, "value": await self._load(row)})

    def _tell(self, said: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(said) + b"\n")

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.errors.append(line.decode().rstrip("\n"))


@asynccontextmanager
async def follower(
    settings: dict[str, Any], load: Callable[[str], Awaitable[dict[str, Any]]]
) -> AsyncIterator[Follower]:
    """Start a follower that reads; it is killed if the test did not stop it."""
    process = await asyncio.create_subprocess_exec(
        node(),
        str(PACKAGE / "build" / "test" / "agent.js"),
        orjson.dumps(settings).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    client = Follower(process, load)
    try:
        yield client
    finally:
        client.kill()
        await process.wait()


def node() -> str:
    """Node.js with what the client needs, which ``.ci/run`` installs; outside CI its tests are skipped."""
    found = shutil.which("node")
    if found is None:
        _missing("Node.js", "apt-get install nodejs npm")
    if not (PACKAGE / "node_modules" / "typescript").exists():
        _missing("the TypeScript client", "npm install --no-package-lock --prefix clients/typescript")
    return found


def _missing(what: str, remedy: str) -> NoReturn:
    sentence = f"{what} is not installed: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)
