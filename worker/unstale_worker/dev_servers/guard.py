"""Guard process: ends a server when the process that started it has gone.

This file runs as a script (`python -I -S guard.py PARENT_PID DIRECTORY`) and uses the standard library only.
It has its own session, so that Ctrl-C on a terminal does not reach the server. It answers each JSON line with
one JSON line; `process.py` is the client.

If standard input ends or the parent process changes, the client is gone, however it died. The guard then ends
the server with all its descendants and removes DIRECTORY (if it is not empty). If the guard itself is killed,
Linux ends the server through its parent-death signal.

The server is a child of this single-threaded process, because the parent-death signal follows the *thread*
that forked. In the client that could be any short-lived worker thread.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LINUX = sys.platform == "linux"

LAST_GRACE_SECONDS = 3.0  # an immediate Postgres shutdown takes about 10 ms; then everything is killed
KILL_SECONDS = 10.0  # after SIGKILL only processes in uninterruptible I/O remain


def main() -> None:
    """Answer commands until the client is gone, then end the server."""
    parent, directory = int(sys.argv[1]), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)  # a handler, not SIG_IGN, which the server would inherit
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the client has blocked them until now
    if LINUX:
        # Orphans of the server become children of this process, which can then find and reap them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = GuardedProcess(parent)
    try:
        for line in _lines(parent):
            sys.stdout.write(json.dumps(server.answer(json.loads(line))) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the flush at exit fails
    finally:
        server.end()
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


class GuardedProcess:
    """The server process and its descendants."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._guard = os.getpid()
        self._pid: int | None = None
        self._code: int | None = None
        self._last_signal = signal.SIGKILL
        self._folder = Path("/nonexistent")

    def answer(self, command: dict[str, object]) -> dict[str, object]:
        """Execute one command and return its answer."""
        try:
            action = command["do"]
            if action == "start":
                self._start(command)
                return {"pid": self._pid}
            if action == "stop":
                self._stop(signal.Signals(int(str(command["signal"]))), float(str(command["seconds"])))
            elif action == "wait":
                self._wait()
            elif action == "kill":
                self._kill()
            self._reap()
            return {"running": self._pid is not None and self._code is None, "code": self._code}
        except OSError as error:
            return {"error": str(error)}

    def end(self) -> None:
        """Stop the server with its last signal; kill the rest after `LAST_GRACE_SECONDS`."""
        self._stop(self._last_signal, LAST_GRACE_SECONDS)

    def _start(self, command: dict[str, object]) -> None:
        self._kill()  # backends of a killed postmaster keep its shared memory, which prevents a new start
        self._last_signal = signal.Signals(int(str(command["last_signal"])))
        self._folder = Path(str(command["cwd"]))
        argv, user, group = command["argv"], command["user"], command["group"]
        assert isinstance(argv, list)
        assert user is None or isinstance(user, int)
        assert group is None or isinstance(group, int)
        with Path(str(command["log"])).open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=str(command["cwd"]),
                start_new_session=True,
                preexec_fn=self._die_with_guard if LINUX else None,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        self._pid, self._code = child.pid, None
        child.returncode = 0  # children are reaped by pid here, including orphans; Popen must not do it

    def _die_with_guard(self) -> None:
        """Set the parent-death signal, in the child.

        This runs after the change of user, which would clear the signal, and before the exec.
        """
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(self._last_signal), 0, 0, 0)
        if os.getppid() != self._guard:
            os._exit(1)  # the guard died before the signal was set

    def _stop(self, number: signal.Signals, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._reap()
        if self._pid is not None and self._code is None:
            os.kill(self._pid, number)
        self._wait(deadline)
        self._kill()

    def _wait(self, deadline: float = math.inf) -> None:
        """Wait until the server has ended or the deadline is over; without one, until the client is gone."""
        while self._pid is not None and self._code is None and time.monotonic() < deadline:
            if deadline == math.inf and os.getppid() != self._parent:
                return
            time.sleep(0.005)
            self._reap()

    def _kill(self) -> None:
        """Kill all remaining processes and remove their shared memory."""
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline:
            self._reap()
            family = set(_descendants(os.getpid()))
            if self._pid is not None and self._code is None:
                # It may be a zombie whose other threads still run: it has ended once it can be reaped.
                family.add(self._pid)
            if not family:
                break
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.002)
        self._remove_shared_memory()

    def _remove_shared_memory(self) -> None:
        """Remove the System V segment of a killed Postgres; its pid file names process and segment."""
        for pid_file in self._folder.glob("*/postmaster.pid"):
            try:
                lines = pid_file.read_text().splitlines()
                if int(lines[0]) == self._pid:
                    ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)  # 0 is IPC_RMID
            except (OSError, ValueError, IndexError):
                continue

    def _reap(self) -> None:
        """Reap every child that has ended, including orphans of the server."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._code = os.waitstatus_to_exitcode(status)


def _ignore(number: int, frame: object) -> None:
    """Ignore signals to the process group: only the end of the input ends the guard."""


def _lines(parent: int) -> Iterator[bytes]:
    """Yield the commands until the client is gone.

    Then the input ends; or, if a fork of the client still holds the pipe, the parent process changes.
    """
    rest = b""
    while True:
        readable, _, _ = select.select([0], [], [], 1.0)
        if os.getppid() != parent:
            return
        if not readable:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def _descendants(ancestor: int) -> list[int]:
    """Return every live process below `ancestor`, without zombies."""
    children: dict[int, list[int]] = {}
    for pid, ppid in _processes():
        children.setdefault(ppid, []).append(pid)
    found: list[int] = []
    unseen = list(children.get(ancestor, []))
    while unseen:
        pid = unseen.pop()
        found.append(pid)
        unseen.extend(children.get(pid, []))
    return found


def _processes() -> list[tuple[int, int]]:
    """Return pid and parent of every live process."""
    found: list[tuple[int, int]] = []
    if not LINUX:
        ps = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=False
        )
        for line in ps.stdout.splitlines():
            pid, ppid, state = line.split(None, 2)
            if not state.startswith("Z") and int(ppid) != 0:
                found.append((int(pid), int(ppid)))
        return [pair for pair in found if _exists(pair[0])]  # without the `ps` itself
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid ...": the name may contain any character; the last parenthesis ends it.
            state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # the process has just ended
        if state != "Z":
            found.append((int(entry.name), int(ppid)))
    return found


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
