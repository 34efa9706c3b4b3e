"""Run commands of the worker as processes that are forked from one that has imported it.

To start Python and import the worker takes a second of CPU, to fork takes milliseconds. The commands are
processes as any other: they have their own session, and can be killed, stopped and waited for. Tests of the
start itself use `sys.executable`.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from workers.preloaded import NUMBER

PATIENCE = 90.0  # far more than any command needs to end
_starting = threading.Lock()


class Forked:
    """A command. The part of `subprocess.Popen` that tests need.

    Attributes:
        returncode: The exit code, negative if a signal ended it; None until it was seen to have ended.
    """

    def __init__(self, news: int) -> None:
        self._news = news
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._news], [], [], timeout)[0]:
            self.returncode = self._read()
            os.close(self._news)
        return self.returncode

    def _read(self) -> int:
        data = os.read(self._news, NUMBER.size)
        if not data:
            raise RuntimeError("the preloaded process that forks commands has ended")
        number: int = NUMBER.unpack(data)[0]
        return number


def fork(
    arguments: Sequence[str],
    *,
    cwd: str | Path,
    env: Mapping[str, str],
    stdout: int,
    stderr: int,
) -> Forked:
    """Do what ``python -m ARGUMENTS`` does, without any input.

    Args:
        arguments: The module, and what follows it.
        cwd: Its folder.
        env: Its whole environment.
        stdout: Descriptor of its output; it stays open here.
        stderr: The same for errors.
    """
    message = {"arguments": list(arguments), "folder": str(cwd), "environment": dict(env)}
    with _starting:
        preloaded = _preloaded(os.getpid())
    nothing, (news, told) = os.open(os.devnull, os.O_RDWR), os.pipe()
    try:
        socket.send_fds(preloaded, [json.dumps(message).encode()], [nothing, stdout, stderr, told])
    finally:
        os.close(nothing)
        os.close(told)
    return Forked(news)


class Streamed:
    """A command with output to be read. The part of `asyncio.subprocess.Process` that tests need."""

    stdin: asyncio.StreamWriter | None = None

    def __init__(self, forked: Forked, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self._forked, self.pid = forked, forked.pid
        self.stdout: asyncio.StreamReader | None = stdout
        self.stderr: asyncio.StreamReader | None = stderr

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        self._forked.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._forked.kill()

    async def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return await asyncio.to_thread(self._forked.wait, PATIENCE)


@asynccontextmanager
async def streamed(
    arguments: Sequence[str], *, cwd: str | Path, env: Mapping[str, str]
) -> AsyncIterator[Streamed]:
    """Do what ``python -m ARGUMENTS`` does, and kill it afterwards if it still runs."""
    async with _pipe() as (out, said), _pipe() as (err, complained):
        with os.fdopen(said, "wb"), os.fdopen(complained, "wb"):
            process = fork(arguments, cwd=cwd, env=env, stdout=said, stderr=complained)
        try:
            yield Streamed(process, out, err)
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[asyncio.StreamReader, int]]:
    """Open a pipe: a reader, and the descriptor of the end that is written."""
    read, write = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb")
    )
    try:
        yield reader, write
    finally:
        transport.close()
        await asyncio.sleep(0)  # its file is closed in the next turn of the loop


@functools.cache
def _preloaded(pid: int) -> socket.socket:
    """Start the process that forks; it ends with this process, whose id is ``pid``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("preloaded.py")), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
