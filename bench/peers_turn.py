"""One turn of one way in bench/peers.py: its processes, and what is measured with them."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg
from harness import leads, worker
from peers_judge import Commits, Read, gone_everywhere
from peers_ways import Way
from peers_writer import UPDATE, as_fast_as_possible, popular, steadily
from redis.asyncio import Redis

from unstale_worker.dev_servers import Stack

HERE: Final = Path(__file__).parent
AGENTS: Final = 3
MIXED: Final = 2_000
"""Keys that the agents read, from 1."""
PROBED: Final = 3_001
HITS: Final = 4_001
HIT_KEYS: Final = 1_000
RACED: Final = 12_001
RACES: Final = 20
"""Keys of each provoked race."""
WRITTEN: Final = 14_001
GIVE_UP: Final = 5.0
"""Seconds after which the agents no longer wait for a changed value."""
READ_RATE, CHANGE_RATE = 400.0, 100.0
"""Reads of an agent, and changes, a second, at the same time."""
PROBE_RATE = 60.0
"""Changes a second whose effect is waited for."""
ZIPF: Final = 1.1
CUT: Final = """
select pg_terminate_backend(pid) from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid()
    and application_name not in ('reads', 'writes')
"""


class Child:
    """A process that is told one line and answers with one."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE
        )

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.get_running_loop().run_in_executor(None, self._process.stdout.readline)
        if not line:
            raise SystemExit(f"{self._process.args!r} ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    async def tell(self, do: str, **values: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        self._process.stdin.flush()
        return await self.answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Turn:
    """Starts what a way needs on an empty Redis, measures, and ends it."""

    def __init__(self, running: Stack, way: Way, python: str, *, scale: float, seed: int) -> None:
        self._running, self._way, self._scale, self._seed = running, way, scale, seed
        self._python = sys.executable if way.told == "worker" else python
        self._dsn = running.database_url

    async def take(self) -> dict[str, Any]:
        async with AsyncExitStack() as cleanup:
            self._redis = await cleanup.enter_async_context(Redis.from_url(self._running.redis_url))
            await self._redis.flushall()
            self._telling = await self._what_is_told(cleanup)
            arguments = (self._way.name, self._running.redis_url, self._dsn, self._way.table)
            self._agents = [Child(self._python, "peers_agent.py", *arguments) for _ in range(AGENTS)]
            for agent in self._agents:
                cleanup.callback(agent.end)
            await asyncio.gather(*(agent.answer() for agent in self._agents))
            return {
                "hits": await self.hits(),
                "mixed": await self.mixed(),
                "gone": await self.gone(),
                "races": await self.races(),
                "writes": await self.writes(),
            }

    async def _what_is_told(self, cleanup: AsyncExitStack) -> int:
        """Start the listener or the worker; returns its process id, or 0."""
        if self._way.told == "listener":
            listener = Child(
                sys.executable, "peers_writer.py", self._dsn, self._running.redis_url, self._way.prefix
            )
            cleanup.callback(listener.end)
            await listener.answer()
            return listener.pid
        if self._way.told == "worker":
            process = cleanup.enter_context(worker(self._running))
            await leads(self._redis, process=process)
            return process.pid
        return 0

    async def _all(self, do: str, **values: object) -> list[dict[str, Any]]:
        return await asyncio.gather(*(agent.tell(do, **values) for agent in self._agents))

    async def _used(self) -> tuple[float, float]:
        """CPU seconds and bytes of Redis."""
        found = await self._redis.info()
        return found["used_cpu_user"] + found["used_cpu_sys"], found["used_memory"]

    async def hits(self) -> dict[str, float]:
        """One agent fills Redis, another one reads it from there and then from its memory."""
        first, second, _ = self._agents
        for low in range(HITS, HITS + 4 * HIT_KEYS, HIT_KEYS):
            _, bytes_before = await self._used()
            before = (await second.tell("memory"))["rss"]
            for start in range(low, low + HIT_KEYS, 100):
                await first.tell("warm", low=start, high=start + 100)
                if self._way.told == "nobody":
                    await self._keep()
            cpu_before, bytes_after = await self._used()
            found: dict[str, float] = {"agent_mb": before / 1e6}
            if not self._way.in_redis:
                await second.tell("warm", low=low, high=low + HIT_KEYS)
            else:
                hits = await second.tell("from_redis", low=low, high=low + HIT_KEYS)
                cpu_after, _ = await self._used()
                if hits.pop("loads"):
                    continue  # a short TTL has ended meanwhile: with other keys, once more
                found |= {f"redis_{name}": value for name, value in hits.items()}
                found["redis_server_cpu_us"] = (cpu_after - cpu_before) / HIT_KEYS * 1e6
                found["redis_bytes"] = (bytes_after - bytes_before) / HIT_KEYS
            if self._way.in_memory:
                hits = await second.tell("from_memory", low=low, high=low + HIT_KEYS, rounds=10)
                if hits.pop("loads"):
                    continue
                found |= {f"memory_{name}": value for name, value in hits.items()}
                after = (await second.tell("memory"))["rss"]
                found["memory_bytes"] = (after - before) / HIT_KEYS
            return found
        raise SystemExit(f"{self._way.title}: keys that were cached were loaded again, four times")

    async def _keep(self) -> None:
        """Let what is in Redis outlive its short TTL: the cost of a hit does not depend on it."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            async for key in self._redis.scan_iter(count=1_000):
                pipeline.expire(key, 600)
            await pipeline.execute()

    async def mixed(self) -> dict[str, Any]:
        """Agents read, the writer changes: what was read that should not have been?"""
        seconds = 3.0 * self._scale
        await self._all("warm", low=1, high=200)
        keys = popular(MIXED, int(CHANGE_RATE * seconds), exponent=ZIPF, seed=self._seed)
        acknowledged, *reads = await asyncio.gather(
            steadily(self._dsn, self._way.table, keys, CHANGE_RATE),
            *(
                agent.tell("mixed", seed=self._seed * AGENTS + n, keys=MIXED, rate=READ_RATE, seconds=seconds)
                for n, agent in enumerate(self._agents)
            ),
        )
        judged = Commits(acknowledged).judge(Read(*read) for found in reads for read in found["reads"])
        return {
            "reads": judged.reads,
            "behind": judged.behind,
            "stale": judged.stale,
            "worst_ms": judged.worst * 1000,
            "loads": sum(found["loads"] for found in reads),
            "changes": len(acknowledged),
        }

    async def gone(self) -> dict[str, Any]:
        """From the acknowledged commit until the last agent reads something newer."""
        number = int(120 * self._scale)
        keys = range(PROBED, PROBED + number)
        await self._all("warm", low=keys.start, high=keys.stop)
        ports = [found["port"] for found in await self._all("listen")]
        seconds = 0.5 + number / PROBE_RATE
        touched = asyncio.create_task(
            self._all("touch", low=keys.start, high=keys.stop, seconds=seconds, give_up=GIVE_UP)
        )
        await asyncio.sleep(0.3)
        acknowledged = await steadily(self._dsn, self._way.table, keys, PROBE_RATE, ports)
        fresh = [{int(key): at for key, at in found["fresh"].items()} for found in await touched]
        delays, never = gone_everywhere({key: at for key, _, at in acknowledged}, fresh)
        return {"delays_ms": [1000 * delay for delay in delays], "never": never, "changes": len(acknowledged)}

    async def races(self) -> dict[str, int]:
        """Provoke what is known to go wrong; the number of keys, of RACES, that are stale afterwards."""
        low = RACED + self._seed % 2 * 500
        load, fills, cut = (list(range(low + n * RACES, low + (n + 1) * RACES)) for n in range(3))
        slow, second, _ = self._agents
        # A load that has its row is overtaken by a change, and by the removal that follows it.
        await slow.tell("hold", keys=load)
        wanted = await self._change(load)
        await self._passed(low + 100)
        await slow.tell("release")
        found = {"load_against_delete": await self._stale(load, wanted)}
        # The same, and another agent has loaded and stored the new version before the slow one returns.
        await slow.tell("hold", keys=fills)
        wanted = await self._change(fills)
        await self._passed(low + 101)
        await second.tell("read", keys=fills)
        await slow.tell("release")
        found["two_fills"] = await self._stale(fills, wanted)
        if self._way.told == "nobody":
            return found
        # What is told of changes loses its connection to Postgres at the moment of the changes.
        await self._all("read", keys=cut)
        connection = await asyncpg.connect(self._running.postgres.superuser_dsn)
        try:
            update = await connection.prepare(UPDATE.format(table=self._way.table))
            await connection.execute(CUT)
            wanted = [await update.fetchval(key) for key in cut]
        finally:
            await connection.close()
        await asyncio.sleep(2.0)
        found["cut_off"] = await self._stale(cut, wanted)
        return found

    async def _change(self, keys: list[int]) -> list[int]:
        acknowledged = await steadily(self._dsn, self._way.table, keys, 1_000)
        versions = {key: version for key, version, _ in acknowledged}
        return [versions[key] for key in keys]

    async def _passed(self, marker: int) -> None:
        """Wait until a change made now has reached every agent, if anything tells them."""
        if self._way.told == "nobody":
            return
        await self._all("read", keys=[marker])
        (version,) = await self._change([marker])
        for _ in range(50):
            found = await self._all("read", keys=[marker])
            if all(each["versions"][0] >= version for each in found):
                return
            await asyncio.sleep(0.01)

    async def _stale(self, keys: list[int], wanted: list[int]) -> int:
        """Keys of which an agent still returns an older version, a moment later."""
        await asyncio.sleep(0.2)
        found = [each["versions"] for each in await self._all("read", keys=keys)]
        return sum(any(versions[n] < version for versions in found) for n, version in enumerate(wanted))

    async def writes(self) -> dict[str, float]:
        """Rate of single-row changes, and CPU of Postgres for each, beside a table without a trigger."""
        seconds, rates, cpus = 1.0 * self._scale, [], []
        keys = range(WRITTEN, WRITTEN + 2_000)
        if self._way.told == "nobody":
            return {}
        for table in ("profiles_plain", self._way.table):
            cpu = cpu_of_postgres(self._running.postgres.pid)
            done, took = await as_fast_as_possible(self._dsn, table, keys, seconds)
            cpus.append((cpu_of_postgres(self._running.postgres.pid) - cpu) / done * 1e6)
            rates.append(done / took)
        return {
            "plain_per_s": rates[0], "per_s": rates[1], "rate_ratio": rates[1] / rates[0],
            "plain_cpu_us": cpus[0], "cpu_us": cpus[1],
        }  # fmt: skip


def cpu_of_postgres(pid: int) -> float:
    """CPU seconds of the server's processes so far, those included that have ended (Linux)."""

    def fields(process: str) -> list[str]:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()

    ticks = sum(map(int, fields(str(pid))[11:15]))
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            ticks += sum(map(int, fields(child)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
