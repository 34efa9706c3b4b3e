"""From the acknowledged commit until the key is gone from Redis and from the near caches of three agents.

Every changed key was cached beforehand by all three agents (processes of their own, like writer and worker);
each is changed once. Changes are due at fixed times, whether or not earlier ones are done.

The floor is measured in turns with it, on the same servers: `bare_chain.py`, the same work by bare tools
without any of the promises. ``ratio`` is the latency beside the floor's, from pairs of runs next to each
other; ``noise`` is by how much of itself the ratio varied (half the distance between its quartiles).
With ``--write`` the result goes to bench/results/latency.json.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from subprocess import Popen
from typing import Any, Final, NamedTuple

import asyncpg
from bare_chain import SCHEMA as BARE
from harness import (
    SCHEMA,
    arguments,
    child,
    cpu_seconds,
    ended,
    finish,
    leads,
    line,
    medians,
    percentile,
    run,
    servers,
    store,
    varied,
    worker,
)
from redis.asyncio import Redis

from unstale_worker.dev_servers import Stack

AGENTS: Final = 3
RATES: Final = (200, 2_000)
VALUE: Final = b'{"id":0,"name":"Ada Lovelace","bio":"' + b"x" * 380 + b'"}'


async def main() -> None:
    options = arguments(__doc__ or "", repeats=5, seconds=5.0, write=False)
    seconds = options.seconds / 4 if options.quick else options.seconds
    runs: list[dict[str, Any]] = []
    async with chains(rows=int(sum(RATES) * seconds * options.repeats) + 10) as (running, processes):
        low = 1
        for number in range(options.repeats):
            runs.append({"floor": {}, "ratio": {}})
            for rate in RATES:
                pair = {}
                for chain in ("bare", "user") if number % 2 else ("user", "bare"):
                    pair[chain] = await measure(running, chain, processes[chain], rate, seconds, low)
                runs[-1] |= {str(rate): pair["user"]}
                runs[-1]["floor"] |= {str(rate): pair["bare"]}
                runs[-1]["ratio"] |= {str(rate): ratios(pair["user"], pair["bare"])}
                low += int(rate * seconds)
    figures = medians(runs) | {"noise": varied([each["ratio"] for each in runs])}
    finish("latency", figures, as_json=options.json, repeats=options.repeats)
    if options.write:
        store("latency", figures, repeats=options.repeats)


def ratios(ours: Mapping[str, float], floor: Mapping[str, float]) -> dict[str, float]:
    return {name.removesuffix("_ms"): ours[name] / floor[name] for name in ("p50_ms", "p99_ms")} | {
        "cpu": (ours["worker_cpu_us"] + ours["agents_cpu_us"])
        / (floor["worker_cpu_us"] + floor["agents_cpu_us"])
    }


@asynccontextmanager
async def chains(
    rows: int, *, command: Sequence[str] = ("-m", "unstale_worker.cli.commands")
) -> AsyncIterator[tuple[Stack, dict[str, "Popen[Any]"]]]:
    """Both chains on the same servers, with ``rows`` rows each: the servers, and the worker of each chain."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(servers(sql=SCHEMA + BARE))
        connection = await asyncpg.connect(running.database_url)
        for table in ("public.profiles", "bare.profiles"):
            await connection.execute(
                f"insert into {table} select g, 'somebody' from generate_series(0, $1::int) as g",  # noqa: S608  the names of two tables above
                rows,
            )
            await connection.execute(f"vacuum analyze {table}")
        await connection.close()
        bare = child("bare_chain.py", "worker", running.database_url, running.redis_url)
        stack.callback(bare.kill)
        await line(bare)
        process = stack.enter_context(worker(running, command=command))
        redis = await stack.enter_async_context(Redis.from_url(running.redis_url))
        await leads(redis, process=process)
        yield running, {"user": process, "bare": bare}


class Carried(NamedTuple):
    """One run of one chain: when each key was committed, and when each agent knew; CPU time by process."""

    committed: Mapping[str, float]
    drops: Sequence[Mapping[str, float]]
    worker_cpu: float
    agents_cpu: float
    rate: float


async def carried(
    running: Stack,
    chain: str,
    worker_: "Popen[Any]",
    rate: int,
    seconds: float,
    low: int,
    *,
    script: str = "latency_child.py",
) -> Carried:
    """Let a writer change rows at ``rate`` while three agents follow; ``script`` runs those of ours."""
    count = int(rate * seconds)
    if chain == "user":
        agents = [child(script, "agent", running.redis_url, low, low + count) for _ in range(AGENTS)]
    else:
        agents = [child("bare_chain.py", "subscriber", running.redis_url) for _ in range(AGENTS)]
    async with Redis.from_url(running.redis_url) as redis:
        if chain == "bare":
            await redis.mset({f"bare:{number}:profile": VALUE for number in range(low, low + count)})
        told = [await line(process) for process in agents]
        assert chain == "bare" or min(map(int, told)) >= count, f"the agents hold {told} of {count} keys"
        before = [cpu_seconds(process.pid) for process in (worker_, *agents)]
        writer = child("latency_child.py", "writer", running.database_url, chain, low, count, rate)
        report = await line(writer)
        writer.wait()
        await asyncio.sleep(0.5)
        after = [cpu_seconds(process.pid) for process in (worker_, *agents)]
        drops: list[dict[str, float]] = [await ended(process) for process in agents]
        left = await redis.exists(*report["committed"])
        assert left == 0 or chain == "bare", f"{left} changed keys are still in Redis"
    worker_cpu, *agents_cpu = [(b - a) / count for a, b in zip(before, after, strict=True)]
    return Carried(report["committed"], drops, worker_cpu, sum(agents_cpu) / AGENTS, report["rate"])


async def measure(
    running: Stack, chain: str, worker_: "Popen[Any]", rate: int, seconds: float, low: int
) -> dict[str, float]:
    """Latencies of one chain at one rate, and the CPU time that its processes took for a change."""
    run_ = await carried(running, chain, worker_, rate, seconds, low)
    return delays(run_.committed, run_.drops, complete=chain == "user") | {
        "worker_cpu_us": run_.worker_cpu * 1e6,
        "agents_cpu_us": run_.agents_cpu * 1e6,
        "changes_per_s": run_.rate,
    }


def delays(
    committed: Mapping[str, float], drops: Sequence[Mapping[str, float]], *, complete: bool
) -> dict[str, float]:
    """Percentiles of the time from a commit until the last agent knew; ``complete``: every change arrived."""
    arrived = {key: at for key, at in committed.items() if all(key in dropped for dropped in drops)}
    lost = len(committed) - len(arrived)
    assert not (lost and complete), f"{lost} changes did not reach every agent"
    found = [max(dropped[key] for dropped in drops) - at for key, at in arrived.items()]
    return {
        "p50_ms": 1000 * max(0.0, percentile(found, 0.5)),
        "p99_ms": 1000 * max(0.0, percentile(found, 0.99)),
        "max_ms": 1000 * max(found),
        "lost": lost,
    }


if __name__ == "__main__":
    run(main)
