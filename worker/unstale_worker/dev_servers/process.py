"""Client of `guard.py`: start, stop and kill one server that cannot outlive this process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from unstale.errors import EmbeddedServerError
from unstale_worker.dev_servers.places import User

_GUARD = Path(__file__).with_name("guard.py")


class Guard:
    """One guard process. It is bound to no event loop; its methods may be called from any thread.

    The guard ends its server and removes `owned` when this process ends, however it ends.
    """

    def __init__(self, *, owned: Path | None) -> None:
        self._lock = threading.Lock()
        self._owned = owned
        # The signals stay blocked until the guard has its own session and handlers: Ctrl-C would end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), str(owned or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __repr__(self) -> str:
        return f"<Guard pid={self._process.pid}{'' if self._process.returncode is None else ' ended'}>"

    async def start(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        user: User | None,
        last_signal: signal.Signals,
    ) -> int:
        """Start `argv` with its output appended to `log`; return its pid.

        Processes left by an earlier start are killed first. When this process has gone, the guard sends
        `last_signal`, and kills the rest three seconds later.
        """
        answer = await asyncio.to_thread(
            self._ask,
            do="start",
            argv=list(argv),
            log=str(log),
            cwd=str(cwd),
            user=user.uid if user else None,
            group=user.gid if user else None,
            last_signal=int(last_signal),
        )
        return int(str(answer["pid"]))

    @property
    def closed(self) -> bool:
        """True if the guard was closed or killed, which also ends the server."""
        return self._process.poll() is not None

    async def running(self) -> bool:
        """Return True if the started program still runs."""
        return bool((await asyncio.to_thread(self._ask, do="poll"))["running"])

    async def ended(self) -> int:
        """Wait for the program to end; return its exit code, negative if a signal ended it."""
        return int(str((await asyncio.to_thread(self._ask, do="wait"))["code"]))

    async def stop(self, number: signal.Signals, *, seconds: float) -> None:
        """Send a signal, wait for the end, and kill the remaining processes after `seconds`."""
        await asyncio.to_thread(self._ask, do="stop", signal=int(number), seconds=seconds)

    async def kill(self) -> None:
        """Kill the server and all its descendants; return when they have ended."""
        await asyncio.to_thread(self._ask, do="kill")

    async def close(self) -> None:
        """End the server, remove the owned folder, end the guard. May be called again."""
        await asyncio.to_thread(self._close)

    def _ask(self, **command: object) -> dict[str, object]:
        with self._lock:
            stdin, stdout = self._process.stdin, self._process.stdout
            if stdin is None or stdout is None or stdin.closed:
                raise EmbeddedServerError(
                    "the server is closed; create a new object and use it inside its `async with`"
                )
            try:
                stdin.write(json.dumps(command).encode() + b"\n")
                stdin.flush()
                line = stdout.readline()
            except OSError:
                line = b""
            if not line:
                raise EmbeddedServerError(
                    "the guard process of the server was killed, which also ended the server; start a new one"
                )
            answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise EmbeddedServerError(f"the server's program failed to start: {answer['error']}")
        return answer

    def _close(self) -> None:
        with self._lock:
            if self._process.stdin is not None:
                with suppress(OSError):  # the guard may have been killed
                    self._process.stdin.close()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            if self._owned is not None:
                shutil.rmtree(self._owned, ignore_errors=True)  # the guard has done it unless it was killed


def free_port() -> int:
    """Return a loopback port that is free now.

    Another process may take it before the server does. The server then ends, and the caller, which checks the
    identity of the server that answers, tries another port.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(log: Path, *, lines: int = 12) -> str:
    """Return the last lines of a server's log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it wrote no log)"
