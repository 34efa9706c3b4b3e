"""The embedded servers and a worker for a session of tests, in a thread of their own."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeAlias

from unstale.errors import RuleError
from unstale.settings import WorkerSettings
from unstale_worker.dev_servers.project import Project
from unstale_worker.dev_servers.server_stack import stack
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role, Status
from unstale_worker.rules import Rules

LOOK_SECONDS: Final = 0.02

Urls: TypeAlias = tuple[str, str, bool]
"""Postgres as ``postgres``, Valkey, and True if a worker follows the database."""


@contextlib.contextmanager
def servers_for_tests(root: Path) -> Iterator[Urls]:
    """Serve until the block ends, with the migrations, seed and rules below ``root``, if it has them.

    Raises what the servers, the SQL files or the rules raise. In a thread, because the fixture of a session
    outlives the event loop of each test.
    """
    ready: Future[Urls] = Future()
    stopping = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            stopping.wait()
            loop.call_soon_threadsafe(stop.set)

        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        try:
            await _serve(root, stop, ready.set_result)
        finally:
            stopping.set()
            await asyncio.to_thread(waiter.join)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="unstale-servers", daemon=True)
    thread.start()
    try:
        yield ready.result()
    finally:
        stopping.set()
        thread.join()


def _follows(status: Status) -> bool:
    """Return True once a watermark is out: a cache that is opened now is attached, and hears of no start."""
    return status.role is Role.LEADING and status.watermark_age < math.inf


async def _serve(root: Path, stop: asyncio.Event, ready: Callable[[Urls], object]) -> None:
    try:
        rules: Rules | None = Rules.load(root=root)
    except RuleError:  # there are none; mistakes in them are `RuleErrors`
        rules = None
    async with stack(project=Project.read(root), settings={"fsync": "off"}) as servers:
        working: asyncio.Task[None] | None = None
        if rules is not None:
            settings = WorkerSettings(database_url=servers.worker_database_url, redis_url=servers.redis_url)
            worker = Worker(settings, rules)
            working = asyncio.create_task(worker.run(stop=stop))
            while not _follows(worker.status()) and not working.done():
                await asyncio.wait([working], timeout=LOOK_SECONDS)
            if working.done():
                working.result()
        ready((servers.database_url, servers.redis_url, working is not None))
        await (stop.wait() if working is None else working)
