"""Keeps a server from outliving the process that asked for it.

Run as a script (`python -I -S guard.py PARENT_PID DIRECTORY`), with nothing but the standard library, in a
session of its own, so that a terminal's Ctrl-C does not reach the server. It answers one JSON line per JSON
line; `process.py` is the other end. When its standard input ends, or its parent is another process than
before, the asking process is gone however it died: the server and everything it started are ended, and
DIRECTORY (when not empty) is removed. Should the guard itself be killed, Linux ends the server for it.

The server is a child of this single-threaded process because the kernel's parent-death signal follows the
*thread* that forked; in the asking process that could be any short-lived worker thread.
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

LAST_GRACE_SECONDS = 3.0  # an immediate Postgres shutdown takes some 10 ms; after this everything is killed
KILL_SECONDS = 10.0  # SIGKILL only waits for processes in uninterruptible I/O


def main() -> None:
    parent, directory = int(sys.argv[1]), sys.argv[2]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _outlive)  # a handler, not SIG_IGN: the server would inherit that
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # they were blocked until now, for the same reason
    if LINUX:
        # Whatever the server leaves behind becomes our child, so that we can find and reap it.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = Server(parent)
    try:
        for line in _lines(parent):
            sys.stdout.write(json.dumps(server.answer(json.loads(line))) + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at exit
    finally:
        server.end()
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


class Server:
    """The one child of the guard, and what descends from it."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._guard = os.getpid()
        self._pid: int | None = None
        self._code: int | None = None
        self._last_signal = signal.SIGKILL
        self._folder = Path("/nonexistent")

    def answer(self, command: dict[str, object]) -> dict[str, object]:
        try:
            what = command["do"]
            if what == "start":
                self._start(command)
                return {"pid": self._pid}
            if what == "stop":
                self._stop(signal.Signals(int(str(command["signal"]))), float(str(command["seconds"])))
            elif what == "wait":
                self._wait()
            elif what == "kill":
                self._kill()
            self._reap()
            return {"running": self._pid is not None and self._code is None, "code": self._code}
        except OSError as error:
            return {"error": str(error)}

    def end(self) -> None:
        self._stop(self._last_signal, LAST_GRACE_SECONDS)

    def _start(self, command: dict[str, object]) -> None:
        self._kill()  # backends of a killed postmaster keep its shared memory, and it could not start again
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
        child.returncode = 0  # we reap by pid, orphans too; Popen must not

    def _die_with_guard(self) -> None:
        """In the child, after the change of user (which would clear the signal), before the exec."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(self._last_signal), 0, 0, 0)
        if os.getppid() != self._guard:
            os._exit(1)  # it died in between, and the signal was not set yet

    def _stop(self, number: signal.Signals, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._reap()
        if self._pid is not None and self._code is None:
            os.kill(self._pid, number)
        self._wait(deadline)
        self._kill()

    def _wait(self, deadline: float = math.inf) -> None:
        """Until the server has ended or the deadline; without one, until the asking process is gone."""
        while self._pid is not None and self._code is None and time.monotonic() < deadline:
            if deadline == math.inf and os.getppid() != self._parent:
                return
            time.sleep(0.005)
            self._reap()

    def _kill(self) -> None:
        """SIGKILL whatever is left, and forget what it left in the kernel."""
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline:
            family = _descendants(os.getpid())
            for pid in family:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._reap()
            if not family:
                break
            time.sleep(0.002)
        self._remove_shared_memory()

    def _remove_shared_memory(self) -> None:
        """A Postgres that was killed leaves its System V segment behind; its pid file names both."""
        for pid_file in self._folder.glob("*/postmaster.pid"):
            try:
                lines = pid_file.read_text().splitlines()
                if int(lines[0]) == self._pid:
                    ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)  # 0 is IPC_RMID
            except (OSError, ValueError, IndexError):
                continue

    def _reap(self) -> None:
        """Collect every child that has ended, the server's orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._code = os.waitstatus_to_exitcode(status)


def _outlive(number: int, frame: object) -> None:
    """The end of our input decides, not a signal that a process group or a service manager sends around."""


def _lines(parent: int) -> Iterator[bytes]:
    """The commands, until the asking process is gone: input ended, or (should a fork of it hold the pipe) our
    parent changed."""
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
    """Every live process below `ancestor`, zombies left out."""
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
    """(pid, parent) of every live process."""
    found: list[tuple[int, int]] = []
    if not LINUX:
        ps = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=False
        )
        for line in ps.stdout.splitlines():
            pid, ppid, state = line.split(None, 2)
            if not state.startswith("Z") and int(ppid) != 0:
                found.append((int(pid), int(ppid)))
        return [pair for pair in found if _exists(pair[0])]  # leaves out the `ps` that looked
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state ppid ...": the name may hold anything, the last parenthesis ends it.
            state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # ended while we looked
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
