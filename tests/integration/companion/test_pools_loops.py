"""Event loops, threads and forks: nobody is handed a dead client, and nobody disturbs another's."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from servers import Database, eventually, run_apart
from services.api_double import StandIn
from unstale import ConnectionPool
from unstale.compat.per_loop import PerLoop


@pytest.fixture
async def standin() -> AsyncIterator[StandIn]:
    async with StandIn() as server:
        yield server


def use_everything(pool: ConnectionPool, url: str) -> None:
    """In a loop of its own, which ends without anybody closing the pool."""

    async def use() -> None:
        async with (await pool.http()).get(f"{url}/plain") as response:
            assert await response.text() == "plain"
        await (await pool.openai()).models.list()
        await (await pool.supabase()).table("profiles").select("*").execute()
        if pool._settings.database_url is not None:
            assert await (await pool.postgres()).fetchval("select 1") == 1

    asyncio.run(use())


async def test_a_new_loop_gets_new_clients_and_an_ended_one_closed_its_own(
    standin: StandIn, database: Database
) -> None:
    """Also: no ResourceWarning, which would be an error here, and no session left in Postgres."""
    pool = ConnectionPool.from_env(env_file=None, **standin.settings, database_url=database.dsn)
    for _ in range(3):
        await asyncio.to_thread(use_everything, pool, standin.url)
    assert pool._dependencies() == []
    await pool.close()


async def test_two_loops_at_once_have_their_own_clients(standin: StandIn) -> None:
    pool = ConnectionPool.from_env(env_file=None, **standin.settings)
    here = await pool.openai()
    seen: list[object] = []
    leave, ready = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        client = await pool.openai()
        await client.models.list()
        seen.append(client)
        ready.set()
        await asyncio.to_thread(leave.wait)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(ready.wait)
    try:
        assert seen != [here]
        stats = await pool.get_stats()
        assert set(stats["dependencies"]) == {"openai", "openai+"}  # type: ignore[call-overload]
        await pool.close()  # closes them in their own loops
        assert seen[0].is_closed()  # type: ignore[attr-defined]
        assert here.is_closed()
    finally:
        leave.set()
        thread.join()


FORKED = """
import asyncio, os, sys
from unstale import ConnectionPool

url, dsn = sys.argv[1:]
pool = ConnectionPool.from_env(
    env_file=None, openai_api_key="sk", openai_base_url=url + "/v1", supabase_url=url, supabase_key="sb",
    database_url=dsn,
)

async def use():
    async with (await pool.http()).get(url + "/plain") as response:
        await response.read()
    await (await pool.openai()).models.list()
    await (await pool.supabase()).table("profiles").select("*").execute()
    pid = await (await pool.postgres()).fetchval("select pg_backend_pid()")
    pool.openai_sync().models.list()
    return pid

loop = asyncio.new_event_loop()
first = loop.run_until_complete(use())
clients = loop.run_until_complete(pool.openai()), pool.openai_sync()

child = os.fork()
if child == 0:
    try:
        mine = asyncio.run(use())
        asyncio.run(pool.close())
        os._exit(0 if mine != first and pool._closed else 3)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

# The parent's own connections work as before.
assert loop.run_until_complete(use()) == first
assert (loop.run_until_complete(pool.openai()), pool.openai_sync()) == clients
loop.run_until_complete(pool.close())
loop.close()
"""


async def test_a_forked_child_starts_afresh_and_leaves_its_parent_alone(
    standin: StandIn, database: Database
) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", FORKED, standin.url, database.dsn],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # Four clients of the parent and four of the child; the parent's were used again, not opened anew.
    assert standin.connections == 8


IMPORTING: str = """
import importlib.machinery, sys, threading
import openai
import unstale.companion.pools.environment, unstale.companion.pools.http_transport
from unstale.settings import PoolSettings

openai.OpenAI(api_key="k")  # whatever it imports late
half, asked = threading.Event(), threading.Event()

class Slow(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "httpx._api":
            return None
        spec = super().find_spec(name, path, target)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (half.set(), asked.wait(2.0), run(module))
        return spec

sys.meta_path.insert(0, Slow)
supabase = threading.Thread(target=__import__, args=["httpx"])
supabase.start()
half.wait()
from unstale.companion.pools.openai_clients import OpenAISync
OpenAISync(PoolSettings.from_env(env_file=None, openai_api_key="k"))
asked.set()
supabase.join()
"""


def test_openai_is_not_disturbed_by_a_supabase_client_that_is_imported_meanwhile() -> None:
    """The library takes a half-imported ``httpx`` of another thread for a whole one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTING], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- the holder itself ------------------------------------------------------------------------------


class Resource:
    """Notes its life."""

    def __init__(self, log: list[str], *, fails: bool = False) -> None:
        self.log = log
        self.fails = fails

    async def __aenter__(self) -> Resource:
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("away")
        self.log.append("opened")
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.sleep(0)
        self.log.append("closed")


async def test_it_opens_once_and_anew_after_closing() -> None:
    log: list[str] = []
    holder = PerLoop(lambda: Resource(log), name="test")
    first = await asyncio.gather(*(holder.get() for _ in range(10)))
    assert len(set(map(id, first))) == 1
    assert holder.peek() is first[0]
    await asyncio.gather(holder.close(), holder.close())
    assert log == ["opened", "closed"]
    assert await holder.get() is not first[0]
    await holder.close()
    assert log == ["opened", "closed"] * 2
    assert holder.opened() == []


async def test_what_fails_to_open_is_tried_again() -> None:
    log: list[str] = []
    holder = PerLoop(lambda: Resource(log, fails=not log), name="test")
    outcomes = await asyncio.gather(*(holder.get() for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError] * 3
    log.append("repaired")
    assert await holder.get()
    await holder.close()


async def test_the_context_of_the_first_request_is_not_kept() -> None:
    request = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Looks(Resource):
        async def __aenter__(self) -> Resource:
            seen.append(request.get())
            return self

    holder = PerLoop(lambda: Looks([]), name="test")
    request.set("of somebody")
    await holder.get()
    await holder.close()
    assert seen == ["none"]


def test_asyncio_run_closes_what_nobody_closed() -> None:
    log: list[str] = []
    holder = PerLoop(lambda: Resource(log), name="test")
    asyncio.run(holder.get())
    assert log == ["opened", "closed"]


def test_a_loop_that_just_stopped_is_forgotten() -> None:
    log: list[str] = []
    holder = PerLoop(lambda: Resource(log), name="test")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(holder.get())
    run_apart(holder.close())  # cannot be closed there: it does not run
    assert log == ["opened"]
    loop.run_until_complete(holder.close())
    loop.close()
    assert log == ["opened", "closed"]


async def test_closing_while_it_opens() -> None:
    log: list[str] = []
    holder = PerLoop(lambda: Resource(log), name="test")
    opening = asyncio.create_task(holder.get())
    await asyncio.sleep(0)
    await holder.close()
    await eventually(opening.done)
    assert log == ["opened", "closed"]


async def test_another_threads_loop_that_stops_meanwhile_does_not_hold_closing_up() -> None:
    closing, stop = threading.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    class NeverCloses(Resource):
        async def __aexit__(self, *_error: object) -> None:
            closing.set()
            await asyncio.Event().wait()

    holder = PerLoop(lambda: NeverCloses([]), name="test")

    def elsewhere() -> None:
        loop = asyncio.new_event_loop()
        loops.append(loop)
        loop.run_until_complete(holder.get())
        loop.run_until_complete(asyncio.to_thread(stop.wait))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await eventually(lambda: loops and loops[0].is_running() and holder.opened())
    ending = asyncio.create_task(holder.close())
    await asyncio.to_thread(closing.wait)
    assert not ending.done()
    stop.set()
    async with asyncio.timeout(30):
        await ending
    await asyncio.to_thread(thread.join)

    async def cancel_what_is_left() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.wait(left)

    await asyncio.to_thread(loops[0].run_until_complete, cancel_what_is_left())
    loops[0].close()
