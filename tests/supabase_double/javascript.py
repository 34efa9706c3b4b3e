"""The official JavaScript client in a process of its own, at the end of two pipes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent
ANSWER_SECONDS = 30.0
"""Far more than any answer needs."""


class JavaScript:
    """What the client was told, and what it saw, by kind and in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._came: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.others: list[tuple[str, Any]] = []
        """What came while `next` waited for something else."""

    async def tell(self, command: str, value: Any = None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"command": command, "value": value}).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self, what: str) -> Any:
        """The next of its kind; raises `TimeoutError`, or `AssertionError` when the client has ended."""
        for index, (kind, value) in enumerate(self.others):
            if kind == what:
                del self.others[index]
                return value
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                kind, value = await self._came.get()
                assert kind != "ended", f"the client has ended, and said {value}"
                if kind == what:
                    return value
                self.others.append((kind, value))

    async def read(self) -> None:
        """Take its lines in until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            seen = json.loads(line)
            self._came.put_nowait((seen["what"], seen["value"]))
        assert self._process.stderr is not None
        self._came.put_nowait(("ended", (await self._process.stderr.read()).decode()[-2000:]))


@asynccontextmanager
async def javascript(url: str, key: str, *, version: int) -> AsyncIterator[JavaScript]:
    """A client in channel ``room``, subscribed to the table ``notes``."""
    process = await asyncio.create_subprocess_exec(
        _node(),
        "client.mjs",
        url,
        key,
        f"{version}.0.0",
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    client = JavaScript(process)
    reading = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


def _node() -> str:
    """Node.js with the client, which ``.ci/run`` installs; outside CI a test that needs it is skipped."""
    node = shutil.which("node")
    if node is None:
        _missing("Node.js", "apt-get install nodejs npm")
    if not (HERE / "node_modules" / "@supabase" / "supabase-js").exists():
        _missing("the JavaScript client", "npm install --no-package-lock --prefix tests/supabase_double")
    return node


def _missing(what: str, remedy: str) -> NoReturn:
    sentence = f"{what} is not installed: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)
