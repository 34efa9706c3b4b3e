"""A process that has imported the worker, and forks for each command: ``python preloaded.py SOCKET``.

The client is `workers.forked`. Each message on the socket is a JSON object with arguments, folder and
environment, and carries four descriptors: standard input, output, error, and one for news of the command: its
process id, then its exit code. When the client is gone, all commands are killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
from pathlib import Path

MODULES = (
    "unstale_worker.cli.agents_command",
    "unstale_worker.cli.audit_command",
    "unstale_worker.cli.forecast_commands",
    "unstale_worker.cli.output",
    "unstale_worker.cli.replay_command",
    "unstale_worker.cli.tracing_commands",
    "unstale_worker.doctor",
    "unstale_worker.forecast.migrations",
    "unstale_worker.page.service",
    "unstale_worker.runtime.event_loop",
    "uvloop",
)
"""All but the module that is run as ``__main__``. What is missing here is imported by each command."""

NUMBER = struct.Struct("i")


def serve(control: socket.socket) -> dict[str, object]:
    """Fork for each message until the client is gone. Returns in each child, with its message."""
    news: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the default action would wake nobody
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(news)
        if control.fileno() not in ready:
            continue
        data, given, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not data:
            for pid in news:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            for number, descriptor in enumerate(given[:3]):
                os.dup2(descriptor, number)
            for descriptor in (*given, *news.values(), woken, wake):
                os.close(descriptor)
            control.close()
            message: dict[str, object] = json.loads(data)
            return message
        for descriptor in given[:3]:
            os.close(descriptor)
        news[pid] = given[3]
        os.write(news[pid], NUMBER.pack(pid))


def _reap(news: dict[int, int]) -> None:
    while news:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = news.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            os.write(descriptor, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(descriptor)


def run(message: dict[str, object]) -> None:
    """Do what ``python -m MODULE ARGUMENTS`` does in this folder and environment."""
    environment, arguments = message["environment"], message["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.chdir(str(message["folder"]))
    os.environ.clear()
    os.environ.update(environment)
    paths = str(environment.get("PYTHONPATH", "")).split(os.pathsep)
    sys.path[:0] = [str(Path.cwd()), *filter(None, paths)]
    module, *sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # The first is this folder, whose modules no command sees.
    own = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [path for path in sys.path[1:] if path not in own]
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a child's collections copy none of these pages
    asked = socket.socket(fileno=int(sys.argv[1]))
    run(serve(asked))
