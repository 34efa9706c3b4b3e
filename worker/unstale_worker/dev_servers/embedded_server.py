"""Base class of the embedded servers: one guarded process on a loopback port, with a verified identity."""

from __future__ import annotations

import asyncio
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from unstale.errors import EmbeddedServerError
from unstale_worker.dev_servers.places import User, make_folder
from unstale_worker.dev_servers.process import Guard, free_port, tail

START_SECONDS = 30.0  # both start in 0.05 s; this allows for crash recovery on a busy machine
PORT_ATTEMPTS = 5


class EmbeddedServer(ABC):
    """A server that starts on entering its ``async with``, and is ended and removed on exit.

    It keeps port, password and folder over `kill`, `stop` and `start`. It is bound to no event loop: methods
    may be awaited on different loops, but only one at a time.
    """

    log_name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    stop_seconds: ClassVar[float]
    last_signal: ClassVar[signal.Signals]

    def __init__(self, *, directory: Path | None, password: str, user: User | None) -> None:
        self.port = 0
        self.pid = 0
        self.password = password
        self._given = directory
        self._folder: Path | None = None
        self._user = user
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self.port} pid={self.pid}>"

    async def __aenter__(self) -> Self:
        await self._find()
        self._folder, owned = make_folder(
            self._given, prefix=f"unstale-{self.log_name.partition('.')[0]}-", user=self._user
        )
        self._guard = Guard(owned=self._folder if owned else None)
        try:
            await self._prepare()
            await self.start()
        except BaseException:
            await self._guard.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def folder(self) -> Path:
        """The folder with all files of the server."""
        if self._folder is None:
            raise EmbeddedServerError("the server has no folder yet; use it inside its `async with`")
        return self._folder

    @property
    def log(self) -> Path:
        """The log file, over all starts."""
        return self.folder / self.log_name

    async def start(self) -> None:
        """Start on the previous port, or on a free port the first time; return when the server answers.

        Does nothing if it runs. Raises `EmbeddedServerError` with the end of the log.
        """
        if await self.running():
            return
        deadline = time.monotonic() + START_SECONDS
        attempts = PORT_ATTEMPTS
        while True:
            port = self.port or free_port()
            before = self._log_size()
            self.pid = await self.guard.start(
                self._argv(port), log=self.log, cwd=self.folder, user=self._user, last_signal=self.last_signal
            )
            if await self._becomes_ready(port, deadline=deadline):
                self.port = port
                return
            new_log = self.log.read_bytes()[before:].decode(errors="replace")
            attempts -= 1
            # The previous port may be held for a moment by a client (a connect to a free port can reach
            # itself), and shared memory by the last processes of a killed server: retry until the deadline.
            # For a new port, try a few others.
            again = "in use" in new_log and (attempts > 0 if not self.port else time.monotonic() < deadline)
            if not again:
                await self.guard.kill()
                raise EmbeddedServerError(f"{self!r} did not start; its log ends:\n{tail(self.log)}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Shut down in order; kill remaining processes after a while. `start` starts the server again."""
        await self.guard.stop(self.stop_signal, seconds=self.stop_seconds)

    async def kill(self) -> None:
        """Kill the server and its descendants, like a power failure. `start` starts the server again."""
        await self.guard.kill()

    async def restart(self) -> None:
        """Stop the server unless it was killed, then start it."""
        await self.stop()
        await self.start()

    async def running(self) -> bool:
        """Return True if the process exists; it may be paused by SIGSTOP."""
        return await self.guard.running()

    async def close(self) -> None:
        """End the server: in order if its folder was given, else at once and with its folder.

        May be called again.
        """
        if self._guard is not None:
            if self._given is not None and not self._guard.closed:
                await self.stop()
            await self._guard.close()

    @property
    def guard(self) -> Guard:
        """The guard process."""
        if self._guard is None:
            raise EmbeddedServerError("the server was never started; use it inside its `async with`")
        return self._guard

    @abstractmethod
    async def _find(self) -> None:
        """Find the program, before anything is created."""

    @abstractmethod
    async def _prepare(self) -> None:
        """Write the files that the program needs into `folder`."""

    @abstractmethod
    def _argv(self, port: int) -> Sequence[str]:
        """Return the command line."""

    @abstractmethod
    async def _answers(self, port: int) -> bool:
        """Return True if the server answers on `port` and has the expected pid, password and folder.

        Writes nothing. False means: not yet. Raises `EmbeddedServerError` if another server has the port
        permanently.
        """

    async def _becomes_ready(self, port: int, *, deadline: float) -> bool:
        """Wait for the server; False if it has ended or is too slow."""
        while time.monotonic() < deadline:
            if not await self.guard.running():
                return False
            if await self._answers(port):
                return True
            await asyncio.sleep(0.005)
        return False

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0
