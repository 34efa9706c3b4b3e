"""Everything the chaos run consists of: servers, proxies, workers, refresh workers, agents, a writer."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from chaos.processes import Process
from chaos.restores import Restores
from chaos.valkeys import Valkeys
from chaos.world import RULES, fill
from servers.proxy import Proxy
from unstale.protocol.names import WORKER_ROLE, Names
from unstale_worker.dev_servers import EmbeddedPostgres, migrate

WORKERS: Final = 2
REFRESHERS: Final = 2
MAX_SILENCE: Final = 5.0
DETACHED_TTL: Final = 4.0
"""Shorter than the default of 30 s, so that faults of seconds reach that mode."""
KNOBS: Final[Mapping[str, str]] = {
    "UNSTALE_MAX_SILENCE": str(MAX_SILENCE),
    "UNSTALE_DETACHED_TTL": str(DETACHED_TTL),
    # Small, so that batches need several scripts and pages, and logs do not reach back for ever.
    "UNSTALE_SCRIPT_KEYS": "40",
    "UNSTALE_READ_ENTRIES": "20",
    "UNSTALE_LOG_MAX_BYTES": "65536",
    # Short, so that what fails is attempted again, and given up, within a run of a minute.
    "UNSTALE_REFRESH_BACKOFF": "0.2",
}
RECOVERY_SECONDS: Final = 60.0
"""Longer than this no recovery may take."""


class NotRecovered(AssertionError):
    """Everything was healed, and some agent did not become true again."""


@dataclass(slots=True)
class Slot:
    """A process and what it reaches the servers through."""

    process: Process
    redis: Proxy
    postgres: Proxy | None = None


@dataclass(slots=True)
class Stage:
    """A running world.

    Attributes:
        rules: The rules file of workers and refresh workers.
        auditor: ``unstale audit``, but for a naive cache.
        unpromised: Intervals after failovers that lost writes: `max_silence` from the moment that
            connections reach the promoted server.
        uncaptured: Intervals in which a table was not watched, and the beginning of its rows' names.
    """

    folder: Path
    postgres: EmbeddedPostgres
    valkeys: Valkeys
    workers: list[Slot]
    refreshers: list[Slot]
    auditor: Slot | None
    agents: list[Slot]
    writer: Process
    restores: Restores
    rules: Path
    unpromised: list[tuple[float, float]] = field(default_factory=list)
    uncaptured: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def failed(self) -> Process | None:
        """A process that ended by itself."""
        slots = [*self.workers, *self.refreshers, *self.agents]
        slots += [] if self.auditor is None else [self.auditor]
        processes = [slot.process for slot in slots] + [self.writer]
        return next((process for process in processes if process.failed), None)

    def true_since(self, moment: float) -> bool:
        """Whether every agent claims to be true to everything before ``moment``."""
        return all((slot.process.news.get("fresh") or 0.0) > moment for slot in self.agents)

    async def recovered(self) -> float:
        """Wait until every agent is true to everything before now; the seconds it took."""
        moment = time.monotonic()
        await self._until(lambda: self.true_since(moment))
        return time.monotonic() - moment

    async def calm(self) -> None:
        """Nobody writes any more; agents go on reading."""
        await self.writer.finish()
        for slot in self.agents:
            slot.process.calm()
        await self._until(lambda: all(slot.process.news.get("calm") for slot in self.agents))

    async def refreshing(self) -> None:
        """Wait until every refresh worker has been heard of since now: none hangs, or is away for good."""
        began, moment = time.monotonic(), time.time()
        workers = Names().refresh_workers
        while True:
            beats = await self.valkeys.beats(workers)
            heard = {name.split("#")[1] for name, at in beats.items() if at > 1000 * moment}
            silent = [slot.process.name for slot in self.refreshers if str(slot.process.pid) not in heard]
            if not silent:
                return
            self.check()
            if time.monotonic() - began > RECOVERY_SECONDS:
                raise NotRecovered(f"{silent} call no loaders any more; heard of were {beats}")
            await asyncio.sleep(0.1)

    async def made_new(self) -> None:
        """Wait until nothing is to be made new, and nothing stale is served, any more."""
        names, began = Names(), time.monotonic()
        while await self.valkeys.contents((names.stale("*"),)) or await self.valkeys.waiting(names.refresh):
            self.check()
            if time.monotonic() - began > RECOVERY_SECONDS:
                raise NotRecovered("not everything that changed was made new")
            await asyncio.sleep(0.1)

    async def _until(self, condition: Callable[[], bool]) -> None:
        moment = time.monotonic()
        while not condition():
            self.check()
            waited = time.monotonic() - moment
            if waited > RECOVERY_SECONDS:
                news = {slot.process.name: slot.process.news for slot in self.agents}
                raise NotRecovered(f"not every agent is true again after {waited:.0f} s: {news}")
            await asyncio.sleep(0.02)

    def check(self) -> None:
        """Raise `AssertionError` with its log when a process ended by itself."""
        if (failed := self.failed) is not None:
            raise AssertionError(f"{failed.name} ended by itself; its log ends:\n{failed.tail()}")


@asynccontextmanager
async def staged(
    folder: Path, *, agents: int, seed: int, subject: str, valkeys: Valkeys
) -> AsyncIterator[Stage]:
    """Everything runs inside, agents attached; afterwards nothing is left but the files in ``folder``."""
    async with AsyncExitStack() as stack:
        rules = folder / RULES.name
        rules.write_text(RULES.read_text())
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings={"fsync": "off"}))
        await postgres.create_supabase_roles()
        await migrate(postgres, database="postgres")
        connection = await asyncpg.connect(postgres.dsn())
        try:
            await fill(connection)
        finally:
            await connection.close()
        await stack.enter_async_context(valkeys.running())

        async def slot(
            base: str, command: str, more: Callable[[str], dict[str, str]], dsn: str, *, pg: bool
        ) -> Slot:
            redis = await stack.enter_async_context(Proxy(valkeys.primary.port))
            valkeys.fronts.append(redis)
            database = await stack.enter_async_context(Proxy(postgres.port)) if pg else None
            process = Process(
                base,
                ["-m", *command.split()],
                folder=folder,
                environment=lambda name: {
                    "REDIS_URL": valkeys.url(redis),
                    "DATABASE_URL": database.url(dsn) if database is not None else dsn,
                    **KNOBS,
                    **more(name),
                },
            )
            stack.push_async_callback(process.close)
            return Slot(process, redis, database)

        def theirs(name: str) -> dict[str, str]:
            slept = slept_file(folder, name)
            slept.write_text("0")
            return {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "UNSTALE_CONFIG": str(rules),
                "UNSTALE_HTTP_PORT": "0",
                "CHAOS_NAME": name,
                "CHAOS_SEED": str(seed),
                "CHAOS_SLEPT": str(slept),
                "CHAOS_LOADED": str(folder / f"{name}.loaded"),
            }

        workers = [
            await slot(f"worker-{n}", "chaos.worker", theirs, postgres.dsn(user=WORKER_ROLE), pg=True)
            for n in range(1, WORKERS + 1)
        ]

        command = "unstale_worker.cli.commands worker --role refresh"
        refreshers = [
            await slot(f"refresher-{n}", command, theirs, postgres.dsn(user=WORKER_ROLE), pg=True)
            for n in range(1, REFRESHERS + 1)
        ]

        auditor = None
        if subject == "unstale":
            command = "unstale_worker.cli.commands audit --json --delays 1s,5s --rate 300"
            auditor = await slot("auditor", command, theirs, postgres.dsn(user=WORKER_ROLE), pg=True)

        dsn = postgres.dsn()  # once: while it is restored it runs elsewhere

        def ours(name: str) -> dict[str, str]:
            return {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "CHAOS_FOLDER": str(folder),
                "CHAOS_NAME": name,
                "CHAOS_SEED": str(seed),
                "CHAOS_SUBJECT": subject,
                "CHAOS_COMMITS": str(folder / f"{name}.commits"),
                "DATABASE_URL": dsn,
            }

        crowd = [await slot(f"agent-{n}", "chaos.agent", ours, dsn, pg=False) for n in range(1, agents + 1)]
        writer = Process("writer", ["-m", "chaos.writer"], folder=folder, environment=ours)
        stack.push_async_callback(writer.close)
        stage = Stage(
            folder, postgres, valkeys, workers, refreshers, auditor, crowd, writer,
            Restores(postgres, folder), rules,
        )  # fmt: skip
        for each in (*workers, *refreshers, *crowd):
            await each.process.start()
        await stage.recovered()
        if auditor is not None:
            await auditor.process.start()
        await writer.start()
        yield stage


def slept_file(folder: Path, name: str) -> Path:
    """Holds the seconds that this life of a worker has slept."""
    return folder / f"{name}.slept"


async def journal(postgres: EmbeddedPostgres, text: str) -> tuple[list[tuple[str, int, bool]], float]:
    """What was committed, in order, and when that was read."""
    connection: Any = await asyncpg.connect(postgres.dsn())
    try:
        rows = [(row, version, present) for row, version, present in await connection.fetch(text)]
        return rows, time.monotonic()
    finally:
        await connection.close()
