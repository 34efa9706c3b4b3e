"""However the asking process dies, its servers and their folders are gone with it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from servers import eventually
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey

ASKS = """
import asyncio, json, os, sys
sys.modules["async_timeout"] = asyncio  # redis wants it before Python 3.11.3, which may be the only other one
import asyncpg
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey

async def main():
    async with EmbeddedPostgres(settings={"fsync": "off"}) as postgres, EmbeddedValkey() as valkey:
        connection = await asyncpg.connect(postgres.superuser_dsn)
        pid = connection.get_server_pid()
        busy = asyncio.create_task(connection.execute("do $$ begin loop end loop; end $$"))
        print(json.dumps({
            "user": os.geteuid(), "pids": [postgres.pid, valkey.pid, pid],
            "folders": [str(postgres.folder), str(valkey.folder)],
        }), flush=True)
        if "fork" in sys.argv and os.fork() == 0:  # a child that holds every pipe of its parent
            os.read(0, 1)
            os._exit(0)
        await busy

asyncio.run(main())
"""


# Where this interpreter finds what is installed, without its own standard library.
PACKAGES = os.pathsep.join(path for path in sys.path if path and not path.startswith(sys.base_prefix))

INITIALIZES = """
import asyncio
from unstale_worker.dev_servers import EmbeddedPostgres

asyncio.run(EmbeddedPostgres().__aenter__())
"""


class Asking:
    """A process of its own that has started both servers, with a backend in an endless loop."""

    def __init__(self, *args: str, python: str = sys.executable, user: str | None = None) -> None:
        self.segments = set(_makers_of_shared_memory())
        self.process = subprocess.Popen(
            [python, "-c", ASKS, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else [],
            env=os.environ | ({} if python == sys.executable else {"PYTHONPATH": PACKAGES}),
            cwd="/",
        )
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.user = int(said["user"])
        self.folders = [Path(name) for name in said["folders"]]
        self.servers = [psutil.Process(pid) for pid in said["pids"]]
        children = psutil.Process(self.process.pid).children()
        self.guards = [child for child in children if any("guard.py" in part for part in child.cmdline())]

    async def is_gone(self) -> bool:
        processes = [*self.servers, *self.guards]
        await eventually(
            lambda: not any(_alive(process) for process in processes), message=f"{processes} end"
        )
        await eventually(lambda: not any(map(_exists, self.folders)), message=f"{self.folders} are removed")
        pids = {str(server.pid) for server in self.servers}
        makers = _makers_of_shared_memory()
        left = {segment for segment in makers.keys() - self.segments if makers[segment] in pids}
        assert not left, f"System V shared memory is left: {left}"
        return True


def _makers_of_shared_memory() -> dict[str, str]:
    """Process id that made each existing segment; none where the kernel does not tell."""
    table = Path("/proc/sysvipc/shm")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return {row[1]: row[4] for row in rows}


def _exists(folder: Path) -> bool:
    return folder.exists()


def _dead(process: psutil.Process) -> bool:
    return not _alive(process)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def asking() -> Iterator[type[Asking]]:
    """Makes asking processes, and ends them after the test."""
    made: list[Asking] = []

    class Made(Asking):
        def __init__(self, *args: str, python: str = sys.executable, user: str | None = None) -> None:
            super().__init__(*args, python=python, user=user)
            made.append(self)

    yield Made
    for one in made:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_no_signal_leaves_an_orphan(asking: type[Asking], number: signal.Signals) -> None:
    ours = asking()
    assert len(ours.guards) == 2
    assert all(map(_alive, ours.servers))
    ours.process.send_signal(number)
    assert await ours.is_gone()


async def test_a_fork_that_holds_the_pipes_keeps_nothing_alive(asking: type[Asking]) -> None:
    ours = asking("fork")
    await eventually(lambda: len(psutil.Process(ours.process.pid).children()) == 3)
    ours.process.kill()
    assert await ours.is_gone()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_servers() -> None:
    async with EmbeddedValkey() as valkey, EmbeddedPostgres(settings={"fsync": "off"}) as postgres:
        for server in (valkey, postgres):
            assert os.getsid(server.pid) != os.getsid(0)
            for guard in psutil.Process(server.pid).parents()[:1]:
                assert os.getsid(guard.pid) != os.getsid(0)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    guard.send_signal(number)
            assert await server.running()


async def test_death_in_the_middle_of_initdb_leaves_nothing() -> None:
    asks = await asyncio.create_subprocess_exec(sys.executable, "-c", INITIALIZES)
    try:
        ours = psutil.Process(asks.pid)
        await eventually(lambda: any("initdb" in child.name() for child in ours.children(recursive=True)))
        family = ours.children(recursive=True)
        folder = Path(family[0].cmdline()[-1])
        assert _exists(folder)
    finally:
        asks.kill()
        await asks.wait()
    await eventually(lambda: not any(map(_alive, family)) and not _exists(folder))


if sys.platform == "linux":  # elsewhere there is no parent-death signal: a killed guard takes nothing along

    async def test_a_killed_guard_takes_the_servers_along() -> None:
        for server in (EmbeddedValkey(), EmbeddedPostgres(settings={"fsync": "off"})):
            await server.__aenter__()
            process = psutil.Process(server.pid)
            guard = process.parent()
            assert guard is not None
            guard.kill()
            await eventually(partial(_dead, process))
            with pytest.raises(Exception, match="guard"):
                await server.restart()
            await server.close()
            assert not server.folder.exists()


def _python_for_nobody() -> str | None:
    """An interpreter of this version that an unprivileged user can run; ours may lie in root's home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        probe = [python, "-c", "import sys, asyncpg, unstale.errors; print(sys.version_info[:2])"]
        environment = {} if python == sys.executable else {"PYTHONPATH": PACKAGES}
        try:
            run = subprocess.run(
                probe,
                user="nobody",
                extra_groups=[],
                env=environment,
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if run.stdout.decode().strip() == str(sys.version_info[:2]):
            return python
    return None


if os.geteuid() == 0 and (PYTHON := _python_for_nobody()) is not None:
    # Where we are a normal user, every other test has shown it.

    async def test_a_normal_user_starts_both_as_itself(asking: type[Asking]) -> None:
        assert PYTHON is not None
        ours = asking(python=PYTHON, user="nobody")
        assert ours.user == pwd.getpwnam("nobody").pw_uid
        assert {process.uids().effective for process in (*ours.servers, *ours.guards)} == {ours.user}
        ours.process.kill()
        assert await ours.is_gone()


if os.geteuid() == 0:

    async def test_root_becomes_somebody_else_for_postgres() -> None:
        async with EmbeddedPostgres(settings={"fsync": "off"}) as postgres:
            uids = psutil.Process(postgres.pid).uids()
            assert 0 not in (uids.real, uids.effective, uids.saved)
            assert psutil.Process(postgres.pid).gids().effective != 0
