"""Loaders are foreign code: whatever one does to its process, it fails alone and the leader goes on."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from servers import Database, eventually
from unstale_worker.observe.status import Role
from unstale_worker.refresh.python import loader_process
from unstale_worker.refresh.redis.dead_letters import list_dead
from workers import connected, redis_at, running_worker, worker_process
from workers.refresh_stage import NAMES, due, filled, settled
from workers.refresh_workers import refresh_workers

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
select unstale.watch('public.profiles', '{name}');
"""
LOADERS = r"""
import asyncio, os, re, signal, sys, threading, time


class Stop(BaseException):
    pass


async def deaf():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


async def leave():
    sys.exit(5)


def scribble():
    for number in range(3, 64):
        try:
            os.write(number, b"not a frame, but what a loader may write")
        except OSError:
            pass


async def act(refresh):
    what = refresh.fields["what"]
    if what == "wait":
        await asyncio.sleep(3600)
    if what.startswith("fine"):
        await asyncio.sleep(0.3)
        print("what a loader prints")
        return what
    await asyncio.sleep(0.1)  # the others run meanwhile
    match what:
        case "exit": sys.exit(3)
        case "quit": os._exit(7)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "block": time.sleep(3600)
        case "hold": re.fullmatch("(a|a)*b", "a" * 40)
        case "deaf": await deaf()
        case "stop": raise Stop("enough")
        case "task": asyncio.create_task(leave()); await asyncio.sleep(3600)
        case "scribble": scribble(); await asyncio.sleep(3600)
        case "thread": threading.Thread(target=threading.Event().wait).start()
        case "close": asyncio.get_running_loop().stop(); await asyncio.sleep(3600)
    return what
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["act:{name}"]

[refresh."act:{what}"]
loader = "foreign_loaders:act"
timeout = "2s"
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader_process, "BLOCKED_SECONDS", 3.0)
    monkeypatch.setattr(loader_process, "SILENT_SECONDS", 8.0)
    monkeypatch.setattr(loader_process, "CANCEL_SECONDS", 0.3)
    (tmp_path / "foreign_loaders.py").write_text(LOADERS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("exit", "SystemExit: 3"),
        ("quit", "it ended its process (exit code 7)"),
        ("kill", "signal 9 ended it"),
        ("block", "it blocked the event loop for 3 s; await, or use a thread"),
        ("hold", "its process did not answer for 8 s"),
        ("deaf", "the loader took longer than 2 s, and did not end when it was cancelled"),
        ("stop", "Stop: enough"),
        ("task", "it ended its process (exit code 5)"),
        ("scribble", "it wrote into its process' pipe (ValueError)"),
        ("close", "it ended its process (exit code 1)"),
    ],
)
async def test_it_is_a_dead_letter_and_nothing_else_suffers(
    database: Database, redis_url: str, what: str, error: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES, refresh_attempts=1) as worker:
            fence = worker.status().fence
            await due(redis, "act:fine1", f"act:{what}", "act:fine2")
            letters = await eventually(lambda: list_dead(redis, NAMES), timeout=60)
            assert [(letter.key, letter.error) for letter in letters] == [(f"act:{what}", error)]
            assert json.loads(await filled(redis, "act:fine1", timeout=60)) == "fine1"
            assert json.loads(await filled(redis, "act:fine2", timeout=60)) == "fine2"
            await due(redis, "act:fine3")
            await filled(redis, "act:fine3", timeout=60)
            await settled(redis)
            assert len(await list_dead(redis, NAMES)) == 1
            assert (worker.status().role, worker.status().fence) == (Role.LEADING, fence)
            assert not await redis.exists(NAMES.refresh_running("act:{what}")), "its slot is free"


async def test_a_thread_that_never_ends_keeps_nothing_from_ending(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with asyncio.timeout(90), running_worker(database.dsn, redis_url, rules=RULES):
            await due(redis, "act:thread")
            await filled(redis, "act:thread", timeout=60)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Where a loader writes its process' number when it begins."""
    marker = tmp_path / "begun"
    head = f"import os, pathlib\npathlib.Path({str(marker)!r}).write_text(str(os.getpid()))\n"
    text = LOADERS.replace("async def act(refresh):", f"async def act(refresh):\n    exec({head!r})")
    (tmp_path / "foreign_loaders.py").write_text(text)
    return marker


async def gone(begun: Path) -> None:
    """Wait until the process of the loaders has ended: it would go on reading and writing for nobody."""
    number = await asyncio.to_thread(begun.read_text)
    await eventually(
        lambda: not Path("/proc", number).exists(), timeout=60, message="the loaders' process ends"
    )


@pytest.mark.parametrize("what", ["block", "deaf", "wait", "hold"])
async def test_sigterm_ends_a_leader_whose_loader_does_not_end(
    database: Database, redis_url: str, tmp_path: Path, begun: Path, what: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        with worker_process(database.dsn, redis_url, rules=RULES, PYTHONPATH=str(tmp_path)) as process:
            await due(redis, f"act:{what}")
            await eventually(begun.exists, timeout=60, message="the loader begins")
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None, timeout=60, message="it ends")
            assert process.returncode == 0
            await gone(begun)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_refresh_worker_takes_its_loaders_along(
    database: Database, redis_url: str, tmp_path: Path, begun: Path, how: signal.Signals
) -> None:
    given = {"DATABASE_URL": database.dsn, "PYTHONPATH": str(tmp_path), "UNSTALE_REFRESH_GRACE": "0.1"}
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            with refresh_workers(redis_url, 1, rules=RULES, **given) as workers:
                await eventually(lambda: redis.exists(NAMES.refresh_workers), timeout=60)
                await due(redis, "act:block")
                await eventually(begun.exists, timeout=60, message="the loader begins")
                workers.processes[0].send_signal(how)
                await eventually(lambda: workers.processes[0].poll() is not None, timeout=60)
                await gone(begun)
