"""A process of the chaos run: started, killed, stopped and started again by us alone."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from servers import eventually

INHERITED: Final = ("UNSTALE_", "REDIS_", "SUPABASE_", "DATABASE_", "PG", "CHAOS_")
"""What the environment says of these is not for our processes."""
END_SECONDS: Final = 60.0


class Process:
    """One process at a time under one name; the log of all of them is one file.

    Attributes:
        name: Of this life: ``agent-1.3`` is the third.
        news: The newest JSON object it wrote to stdout.
    """

    def __init__(
        self,
        base: str,
        command: list[str],
        *,
        folder: Path,
        environment: Callable[[str], Mapping[str, str]],
    ) -> None:
        self.base, self._command, self._folder, self._environment = base, command, folder, environment
        self.lives = 0
        self.news: dict[str, Any] = {}
        self.killed: set[str] = set()
        """Lives that were ended by SIGKILL: their last line may be cut off."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._expected = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Process {self.name}>"

    @property
    def name(self) -> str:
        """The current life's name."""
        return f"{self.base}.{self.lives}"

    @property
    def pid(self) -> int:
        """Of the current life."""
        assert self._process is not None
        return self._process.pid

    @property
    def failed(self) -> bool:
        """Whether it ended although nobody ended it."""
        return not self._expected and self._process is not None and self._process.returncode is not None

    async def start(self) -> None:
        """Begin a new life; the last one must be over."""
        self.lives += 1
        self._process = None  # the last one is over, and did not fail
        self.news, self._expected, self._stopped = {}, False, False
        with (self._folder / f"{self.base}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._command,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=self.variables(self.name), start_new_session=True,
            )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    def variables(self, name: str) -> dict[str, str]:
        """The environment of a life of this name."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
        return inherited | dict(self._environment(name))

    async def kill(self) -> None:
        """SIGKILL, and wait."""
        self.killed.add(self.name)
        await self._end(signal.SIGKILL)

    async def finish(self) -> None:
        """SIGTERM, and wait until it has done what it does then.

        Raises `AssertionError` with its log when it does not end well. One that has only just been started is
        waited for first: until it listens to the signal, that is a kill.
        """
        await eventually(lambda: self.failed or self._listens_to(signal.SIGTERM), timeout=math.inf)
        await self._end(signal.SIGTERM)
        assert self._process is not None
        assert self._process.returncode == 0, f"{self.name} ended badly:\n{self.tail()}"

    async def over(self) -> None:
        """SIGTERM, and wait, whatever it says of what it found."""
        await eventually(lambda: self.failed or self._listens_to(signal.SIGTERM), timeout=math.inf)
        await self._end(signal.SIGTERM)

    def calm(self) -> None:
        """SIGUSR1: an agent changes nothing from now on, and says so in its `news`."""
        self._signal(signal.SIGUSR1)

    async def ready(self) -> None:
        """Wait until it has said something, or is over: before that, a signal would end it."""
        await eventually(lambda: self.news or self.failed, timeout=math.inf)

    def move_clock(self) -> None:
        """SIGUSR2: see `clocks`."""
        self._signal(signal.SIGUSR2)

    def tell(self) -> None:
        """SIGUSR1: a worker writes what its tasks wait for to its log, see `tasks`."""
        self._signal(signal.SIGUSR1)

    def stop(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)
        self._stopped = True

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self._stopped = False

    async def close(self) -> None:
        """Make sure that it is gone."""
        if self._process is not None:
            await self._end(signal.SIGKILL)

    def tail(self) -> str:
        """The end of what it wrote to stderr."""
        log = self._folder / f"{self.base}.log"
        return log.read_text("utf-8", "replace")[-6000:] if log.exists() else "(nothing)"

    def _listens_to(self, number: signal.Signals) -> bool:
        """Whether the process has a handler for it (Linux tells; elsewhere it is supposed)."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status")
        if self._process.returncode is not None or not status.exists():
            return True
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> number - 1 & 1)

    async def _end(self, number: signal.Signals) -> None:
        self._expected = True
        self._signal(number)
        if self._stopped:
            self._signal(signal.SIGCONT)
        await self._over()

    async def _over(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            tail = self.tail()
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"{self.name} did not end within {END_SECONDS} s:\n{tail}") from None
        await self._reading

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(b"{"):
                with suppress(orjson.JSONDecodeError):  # cut off by a kill
                    self.news = orjson.loads(line)
