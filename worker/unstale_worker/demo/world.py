"""Start the demo's servers and processes, and end them."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from unstale.errors import UnstaleError
from unstale_worker.demo.children import Child
from unstale_worker.demo.example import companion_folder
from unstale_worker.demo.figures import DemoFigures
from unstale_worker.demo.language_model import Model
from unstale_worker.demo.ledger import Ledger
from unstale_worker.demo.reports import MODEL_VARIABLE, Report, World, statement
from unstale_worker.dev_servers import Stack, stack
from unstale_worker.rules import Rules

SETTLE_SECONDS: Final = 5.0
"""Maximum seconds for the agents to receive the last change."""
WARM_READS: Final = 500
"""Reads of each agent before the first change, so that the caches are warm."""
START_SECONDS: Final = 30.0
"""Maximum seconds for worker and agents to start and attach."""

SMALL_POOL: Final = {"UNSTALE_POOL_DATABASE_CONNECTIONS": "4"}
"""Settings of agents and worker: the embedded Postgres allows 100 connections for up to 12 agents."""
TRACES: Final = Path(__file__).with_name("traces.toml")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A running demo.

    Attributes:
        servers: Postgres and Valkey.
        ledger: Receives every report of the processes.
    """

    servers: Stack
    ledger: Ledger

    def figures(self) -> DemoFigures:
        """Return the current figures."""
        return self.ledger.figures(now=time.monotonic())


class Demo:
    """Real servers, a worker, instances of the companion, and a writer.

    Example:
        >>> demo = Demo(World(), agents=3, model=Model(STAND_IN))
        >>> async with demo.running(say=print):
        ...     await asyncio.sleep(10)
        >>> print(demo.figures.stale_reads)
    """

    def __init__(self, world: World, *, agents: int, model: Model) -> None:
        self._world, self._agents, self._model = world, agents, model
        self.failed = asyncio.Event()
        """Set when a process has ended unexpectedly; `running` then raises on exit."""
        self.figures: DemoFigures | None = None
        """The final figures, after `running` has exited."""

    @asynccontextmanager
    async def running(self, *, say: Say) -> AsyncIterator[Running]:
        """Run everything during the block; raises `UnstaleError` if a part failed."""
        async with AsyncExitStack() as cleanup:
            say("starting Postgres and Valkey")
            project = companion_folder()
            servers = await cleanup.enter_async_context(
                stack(sql=(project / "supabase/seed.sql").read_text("utf-8"), settings=_postgres_settings())
            )
            folder = servers.postgres.folder  # removed with the server, even if this process is killed
            rules = folder / "unstale.toml"
            rules.write_text(
                (project / "unstale.toml").read_text("utf-8") + TRACES.read_text("utf-8"), "utf-8"
            )
            await self._fill(servers, Rules.load(rules))
            say("starting the worker and the agents")
            running = Running(servers, Ledger(agents=self._agents))
            tasks: list[asyncio.Task[None]] = []
            cleanup.push_async_callback(_cancel, tasks)
            children: list[Child] = []

            async def start(module: str, name: str, **environment: str) -> Child:
                child = await Child.start(
                    module,
                    name=name,
                    folder=folder,
                    environment=self._world.environment()
                    | {"REDIS_URL": servers.redis_url, "DATABASE_URL": servers.database_url}
                    | environment,
                )
                children.append(child)
                cleanup.push_async_callback(child.end)
                cleanup.callback(_close, children)  # all at the same time: each may take a while to end
                task = asyncio.create_task(child.follow(self._receiver(running.ledger)), name=name)
                task.add_done_callback(self._ended)
                tasks.append(task)
                return child

            ledger = running.ledger
            model = self._model.environment
            if model is None:
                await start("language_model", "model")
                await self._wait(lambda: bool(ledger.model_url), seconds=START_SECONDS)
                model = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": ledger.model_url}
            model = {**model, MODEL_VARIABLE: self._model.name}
            worker = await start(
                "worker_process",
                "worker",
                **model,
                **SMALL_POOL,
                DATABASE_URL=servers.worker_database_url,
                UNSTALE_CONFIG=str(rules),
                UNSTALE_HTTP_PORT="0",
            )
            agents = [
                await start(
                    "agent_process", f"agent-{number}", DEMO_NAME=f"agent-{number}", **model, **SMALL_POOL
                )
                for number in range(1, self._agents + 1)
            ]
            await self._wait(lambda: ledger.attached(reads=WARM_READS) == self._agents, seconds=START_SECONDS)
            if ledger.attached() < self._agents and not self.failed.is_set():
                raise UnstaleError(f"the agents did not attach; the worker's log:\n{worker.tail()}")
            writer = await start("writer_process", "writer")
            try:
                await self._wait(lambda: ledger.changes > 0, seconds=START_SECONDS)
                yield running
            finally:
                writer.close()
                await self._wait(
                    lambda: tasks[-1].done() and not running.ledger.outstanding, seconds=SETTLE_SECONDS
                )
                for child in (*agents, worker):
                    child.close()
                # The model ends last, after all processes that call it.
                ending = [task for task in tasks if task.get_name() != "model"]
                await asyncio.wait(ending, timeout=SETTLE_SECONDS)
                running.ledger.finish()
                self.figures = running.figures()
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error

    def _receiver(self, ledger: Ledger) -> Callable[[Report], None]:
        return lambda report: ledger.receive(report, now=time.monotonic())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.failed.set()

    async def _wait(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Wait until ``condition`` holds, a process fails, or the time is over."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self.failed.wait()
                    return

    async def _fill(self, servers: Stack, rules: Rules) -> None:
        """Insert rows, and watch the tables that the rules name."""
        connection = await asyncpg.connect(servers.database_url)
        try:
            await connection.execute("analyze")
            await connection.fetchrow(statement("fill"), self._world.users, self._world.organizations)
            for (schema, table), needs in rules.tables.items():
                await connection.execute(
                    statement("watch"), schema, table, list(needs.keys), needs.columns and list(needs.columns)
                )
        except asyncpg.PostgresError as error:
            raise UnstaleError(f"creating the demo's tables failed: {error}") from error
        finally:
            await connection.close()


def _close(children: list[Child]) -> None:
    for child in children:
        child.close()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _postgres_settings() -> dict[str, str | int]:
    """Enable durable commits, as in production; keep shared memory in files, for a small /dev/shm."""
    return {"fsync": "on", **({"dynamic_shared_memory_type": "mmap"} if sys.platform == "linux" else {})}
