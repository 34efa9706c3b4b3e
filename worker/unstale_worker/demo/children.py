"""Parent side of a demo process: start it, receive its reports, end it."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from unstale.errors import UnstaleError
from unstale_worker.demo.example import companion_folder
from unstale_worker.demo.reports import BREAK_VARIABLE, Report, decode

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Maximum bytes of one report."""
END_SECONDS: Final = 5.0
"""Seconds a child may take to end before it is killed."""


class Child:
    """One process of the demo: ``python -m unstale_worker.demo.<module>``.

    It cannot outlive this process: its stdin is a pipe that only this process holds, and the child ends when
    the pipe is closed.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self._closed = False

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self._process.pid}>"

    @classmethod
    async def start(cls, module: str, *, name: str, folder: Path, environment: Mapping[str, str]) -> "Child":
        """Start the process in ``folder``, with ``environment`` instead of the settings of this process.

        The process can import the companion, like code in the example's own folder.
        """
        inherited = {
            variable: value
            for variable, value in os.environ.items()
            if variable == BREAK_VARIABLE
            or not variable.startswith(
                ("UNSTALE_", "REDIS_", "SUPABASE_", "DATABASE_", "OPENAI_", "PG", "DEMO_")
            )
        }
        path = os.pathsep.join(filter(None, (str(companion_folder()), os.environ.get("PYTHONPATH"))))
        log = folder / f"{name}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"unstale_worker.demo.{module}",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=folder,
                env=inherited | {"PYTHONPATH": path} | dict(environment),
                limit=LINE_LIMIT,
                start_new_session=True,
            )
        return cls(name, process, log)

    async def follow(self, receive: Callable[[Report], None]) -> None:
        """Pass every report to ``receive`` until the process ends; `UnstaleError` if that was unexpected."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            receive(decode(line))
        code = await self._process.wait()
        if code or not self._closed:
            raise UnstaleError(f"{self.name} ended unexpectedly (exit code {code}); its log:\n{self.tail()}")

    def close(self) -> None:
        """Tell the process to end; `follow` returns when it has ended."""
        self._closed = True
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def end(self) -> None:
        """End the process, and kill it if it takes too long."""
        self.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def tail(self) -> str:
        """Return the end of its stderr."""
        return self._log.read_text("utf-8", "replace")[-4000:].strip() or "(nothing)"
