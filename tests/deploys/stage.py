"""A system that is deployed while it runs: workers and agents of two versions as processes, under load."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from deploys.agent import ROWS
from deploys.previous import python_path
from history import Checker, Limits, State, Verdict, Writes, decode
from servers import Database, eventually
from workers import applied, connected, redis_at
from workers.commands import Ended, environment, run

SCHEMA = """
create table public.items (id bigint primary key, version bigint not null);
insert into public.items select g, 1 from generate_series(1, 8) g;
"""
RULES = (
    '[[watch]]\ntable = "public.items"\nkeys = [{keys}"trace:item:{{id}}:{{version}}"]\n[ttl]\n"*" = "1d"\n'
)
PATIENCE = 120.0


def rules(*templates: str) -> str:
    """Return rules that own these templates, and the trace keys that the history checker listens for."""
    return RULES.format(keys="".join(f'"{template}", ' for template in templates))


class Stage:
    """Processes that come and go, rows that change all the time, and the histories of all agents.

    Attributes:
        folder: Holds the rules file, migrations and histories.
    """

    def __init__(self, database: Database, redis_url: str, folder: Path) -> None:
        self._database, self._redis_url, self.folder = database, redis_url, folder
        self._processes: list[asyncio.subprocess.Process] = []
        self._histories: list[Path] = []
        self._rows = {f"item:{number}": [State(1, True, 0.0, 0.0)] for number in range(1, ROWS + 1)}
        self._stop = asyncio.Event()
        self._version = 1
        self._one_change = asyncio.Lock()

    async def worker(self, version: Path | None = None) -> asyncio.subprocess.Process:
        """Start a worker with the rules in the folder, and wait until it leads or stands by."""
        module = "unstale_worker.cli.commands" if version is None else "unstale_worker.entry"
        return await self._start(
            version, "-c", f"from {module} import main; main()", "worker", until="leading"
        )

    @property
    def settings(self) -> dict[str, str]:
        """Where a worker and the commands find the servers."""
        return {"DATABASE_URL": self._database.worker_dsn, "REDIS_URL": self._redis_url}

    async def refused(self) -> Ended:
        """Run a worker of this version that does not start; return how it ended."""
        return await asyncio.to_thread(run, "worker", cwd=self.folder, settings=self.settings)

    async def agent(self, template: str, version: Path | None = None) -> asyncio.subprocess.Process:
        """Start an agent, and wait until it reads."""
        history = self.folder / f"{len(self._histories)}.history"
        self._histories.append(history)
        return await self._start(version, "-m", "deploys.agent", str(history), template, until="ready")

    async def end(self, agent: asyncio.subprocess.Process, how: str = "end") -> None:
        """End an agent, with ``final`` after it has written down what it is served."""
        async with asyncio.timeout(PATIENCE):
            _, err = await agent.communicate(how.encode() + b"\n")
        assert agent.returncode == 0, err.decode()

    async def stop(self, worker: asyncio.subprocess.Process) -> None:
        """End a worker as a deploy does."""
        worker.terminate()
        async with asyncio.timeout(PATIENCE):
            await worker.communicate()

    async def _start(
        self, version: Path | None, *arguments: str, until: str = ""
    ) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=self.folder,
            env=environment(
                DATABASE_URL=self._database.worker_dsn if "worker" in arguments else self._database.dsn,
                REDIS_URL=self._redis_url,
                UNSTALE_CONFIG=str(self.folder / "unstale.toml"),
                UNSTALE_HTTP_PORT="0",
                UNSTALE_LOG="info",
                PYTHONPATH=python_path(version),
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        if until:
            source = process.stderr if until == "leading" else process.stdout
            assert source is not None
            said: list[bytes] = []
            async with asyncio.timeout(PATIENCE):
                while not any(word in (said or [b""])[-1] for word in (until.encode(), b"standing by")):
                    line = await source.readline()
                    assert line, b"".join(said).decode()
                    said.append(line)
        return process

    async def write(self) -> None:
        """Change rows until the stage ends."""
        chance = random.Random(11)
        async with connected(self._database.dsn) as db:
            while not self._stop.is_set():
                async with self._one_change:
                    self._version += 1
                    number = chance.randint(1, ROWS)
                    before = time.monotonic()
                    await db.execute("update items set version = $2 where id = $1", number, self._version)
                    self._rows[f"item:{number}"].append(State(self._version, True, before, time.monotonic()))
                await asyncio.sleep(0.1 * chance.random())

    async def changes(self, number: int) -> None:
        """Wait until so many more changes are committed."""
        until = self._version + number
        await eventually(lambda: self._version >= until, message=f"{number} changes are committed")

    @asynccontextmanager
    async def replaced_rows(self, versions: dict[int, int]) -> AsyncIterator[None]:
        """Keep the writer away while the body gives rows other versions that nothing captures."""
        async with self._one_change:
            before = time.monotonic()
            yield
            after = time.monotonic()
            for number, version in versions.items():
                self._rows[f"item:{number}"].append(State(version, True, before, after))
            self._version = max(self._version, *versions.values())

    async def settled(self, *agents: asyncio.subprocess.Process) -> Verdict:
        """End the load, let every change be applied, and judge the histories of all agents so far."""
        self._stop.set()
        await self._writer
        async with connected(self._database.dsn) as db, redis_at(self._redis_url) as redis:
            await applied(redis, db)
        await asyncio.gather(*(self.end(agent, "final") for agent in agents))
        checker = Checker(Writes(self._rows), Limits(detached=45.0))
        for history in self._histories:
            lines = await asyncio.to_thread(history.read_bytes)
            checker.judge(history.stem, map(decode, lines.splitlines()))
        return checker.verdict

    async def begin(self) -> None:
        """Begin to change rows."""
        self._writer = asyncio.create_task(self.write())

    async def close(self) -> None:
        """Kill what still runs."""
        self._stop.set()
        if hasattr(self, "_writer"):
            with suppress(asyncpg.PostgresError):
                await self._writer
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@asynccontextmanager
async def deployed(database: Database, redis_url: str, folder: Path) -> AsyncIterator[Stage]:
    """A stage without processes yet."""
    stage = Stage(database, redis_url, folder)
    try:
        yield stage
    finally:
        await stage.close()
