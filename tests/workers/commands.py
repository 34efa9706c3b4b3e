"""Run the command line in processes, as users do, and look for processes it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from servers import eventually
from workers.forked import PATIENCE, Streamed, fork, streamed

MODULE = "unstale_worker.cli.commands"
COMMAND = [sys.executable, "-m", MODULE]
SECONDS = PATIENCE


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment without settings of unstale, plus ``settings``."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("UNSTALE_", "REDIS_", "DATABASE_", "SUPABASE_", "OPENAI_"))
    }
    return inherited | {"COLUMNS": "200"} | settings


def run(*arguments: str, cwd: Path, settings: Mapping[str, str] | None = None) -> Ended:
    """Run ``unstale`` to its end."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = fork(
            [MODULE, *arguments],
            cwd=cwd,
            env=environment(**(settings or {})),
            stdout=out.fileno(),
            stderr=err.fileno(),
        )
        try:
            code = process.wait(SECONDS)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read())


class Command:
    """A running command. Its output can be awaited line by line."""

    def __init__(self, process: asyncio.subprocess.Process | Streamed) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, containing: str) -> str:
        """Return the next line that contains a text. Raises `AssertionError` if the output ends first."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while raw := await self.process.stdout.readline():
                self.lines.append(raw.decode().rstrip("\n"))
                if containing in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"{containing!r} was not said; only: {self.lines}; {await self.errors()}")

    async def rest(self) -> list[str]:
        """Read to the end, and return every line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            self.lines += (await self.process.stdout.read()).decode().splitlines()
        return self.lines

    async def errors(self) -> str:
        """Read stderr to its end."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(SECONDS):
            await self.rest()
            return await self.process.wait()

    def family(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def parts(self, name: str) -> list[psutil.Process]:
        """Return the processes of the family that run ``name``, without any that has just ended."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # also a zombie
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found


@asynccontextmanager
async def started(
    *arguments: str, cwd: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Command]:
    """Run ``unstale``, and kill it afterwards if it still runs."""
    command = [MODULE, *arguments]
    async with streamed(command, cwd=cwd, env=environment(**(settings or {}))) as process:
        yield Command(process)


async def all_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs. Raises `AssertionError` naming those that do."""

    def left() -> list[str]:
        return [
            " ".join(process.cmdline()[:6])
            for process in processes
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]

    def none() -> bool:
        try:
            return not left()
        except psutil.NoSuchProcess:
            return False  # it has just ended

    await eventually(none, message="every process of the command is gone")
