"""A change of the rules with 100,000 warm keys that are read and written: keys dropped, loads, stale keys.

In one of the 50 rules more changes count than before, then fewer; then a TTL changes. After each change the
four agents are replaced one by one.

``loads_unexplained`` are the loads after the change of keys that neither it nor a write took out of Redis.
The keys of the 49 rules that did not change are the control group: ``loads_ratio`` is all loads in the time
after the change, divided by what they would be if the keys of all rules had been loaded as often as theirs.
A dropped key is loaded once, when it is next read. So where 2 % are dropped the ratio is about
``1 + 0.02 / m`` at first, with a share ``m`` of reads that miss anyway.
"""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial

import aiohttp
import asyncpg
import orjson
from harness import applied, arguments, finish, leads, medians, run, servers, worker
from redis.asyncio import Redis

from unstale import Cache
from unstale.protocol.names import Names

RULES = 50
ROWS = 2_000
AGENTS = 4
CHANGED = 7
"""The rule that changes."""
SQL = f"""
create table public.items (id bigint primary key, version bigint not null, note text);
insert into public.items select g, 1 from generate_series(1, {ROWS}) g;
select unstale.watch('public.items', '{{id}}');
"""  # noqa: S608


def rules(*, filtered: bool = False, ttl: str = "1h") -> str:
    """50 rules of one table; with ``filtered`` one of them counts other changes."""
    watch = '[[watch]]\ntable = "public.items"\nkeys = ["r{}:{{id}}"]\n{}'
    columns = 'columns = ["version"]\n'
    each = [watch.format(n, columns if filtered and n == CHANGED else "") for n in range(RULES)]
    return "".join(each) + f'[ttl]\n"*" = "{ttl}"\n'


class Load:
    """Agents that read, and a writer that changes rows, all the time."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.loads, self.causes = Counter[int](), Counter[str]()
        self._absent: dict[tuple[int, int], str] = {}

    def changed(self, rules: Iterable[int], rows: Iterable[int], cause: str) -> None:
        """Note the cause for which the next load of these keys is expected, unless there is one already."""
        keys = [(rule, row) for row in rows for rule in rules]
        self._absent = dict.fromkeys(keys, cause) | self._absent

    def loads_ratio(self) -> float:
        """Return all loads, divided by those that rules which did not change would have caused."""
        others = [self.loads[rule] for rule in range(RULES) if rule != CHANGED]
        return self.loads.total() / (sum(others) / len(others) * RULES)

    async def version(self, rule: int, row: int) -> int:
        """Load a row's version."""
        self.loads[rule] += 1
        self.causes[self._absent.pop((rule, row), "unexplained")] += 1
        return int(await self._pool.fetchval("select version from items where id = $1", row))

    async def read(self, cache: Cache) -> None:
        """Read random keys for ever, at most 200 a second."""
        while True:
            row, rule = random.randint(1, ROWS), random.randrange(RULES)
            await cache.get_or_load(f"r{rule}:{row}", partial(self.version, rule, row))
            await asyncio.sleep(0.005)

    async def write(self) -> None:
        """Change a random row ten times a second, so 500 keys."""
        while True:
            row = random.randint(1, ROWS)
            await self._pool.execute("update items set version = version + 1 where id = $1", row)
            self.changed(range(RULES), [row], "written")
            await asyncio.sleep(0.1)


class Agent:
    """A cache that is read all the time."""

    def __init__(self, load: Load, redis_url: str) -> None:
        self._reads = asyncio.create_task(self._run(load, redis_url))

    async def _run(self, load: Load, redis_url: str) -> None:
        async with Cache.from_env(env_file=None, redis_url=redis_url) as cache:
            await load.read(cache)

    async def close(self) -> None:
        """End it; raises what ended its reads before."""
        self._reads.cancel()
        with suppress(asyncio.CancelledError):
            await self._reads


async def warm(redis: Redis, pool: asyncpg.Pool) -> None:
    """Let Redis hold every key."""
    versions = {row: version for row, version in await pool.fetch("select id, version from items")}
    for rule in range(RULES):
        pipeline = redis.pipeline(transaction=False)
        for row, version in versions.items():
            pipeline.set(f"r{rule}:{row}", orjson.dumps(version), ex=3600)
        await pipeline.execute()


async def stale(redis: Redis, pool: asyncpg.Pool) -> int:
    """Count the keys in Redis that differ from the database."""
    wrong = 0
    for row, version in await pool.fetch("select id, version from items"):
        found = await redis.mget([f"r{rule}:{row}" for rule in range(RULES)])
        wrong += sum(
            isinstance(value, bytes) and not value.startswith(b"\0") and int(value) != version
            for value in found
        )
    return wrong


async def ready(port: int) -> None:
    """Wait until a worker leads or stands by."""
    async with aiohttp.ClientSession() as session:
        for _ in range(600):
            with suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise SystemExit("the worker was not ready in time")


async def in_force(redis: Redis, before: object) -> None:
    """Wait until other rules than ``before`` are in force."""
    for _ in range(30_000):
        if await redis.hget(Names().state, "rules") not in (before, b"adopting"):
            return
        await asyncio.sleep(0.002)
    raise SystemExit("the worker's rules were not put in force")


async def measure(seconds: float) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(servers(sql=SQL))
        pool = await stack.enter_async_context(
            asyncpg.create_pool(running.database_url, min_size=1, max_size=8)
        )
        redis = Redis.from_url(running.redis_url)
        stack.push_async_callback(redis.aclose)
        first = stack.enter_context(worker(running, rules=rules(filtered=True)))
        await leads(redis, process=first)
        await warm(redis, pool)
        load = Load(pool)
        agents = [Agent(load, running.redis_url) for _ in range(AGENTS)]
        writer = asyncio.create_task(load.write())
        for name, text in (
            ("1 of 50 rules", rules()),
            ("1 of 50 rules counts fewer", rules(filtered=True)),
            ("a TTL", rules(filtered=True, ttl="30m")),
        ):
            await asyncio.sleep(seconds)
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            second = stack.enter_context(worker(running, rules=text, UNSTALE_HTTP_PORT=str(port)))
            await ready(port)  # it stands by
            before, known = await redis.dbsize(), await redis.hget(Names().state, "rules")
            first.terminate()
            await in_force(redis, known)
            dropped, first = before - await redis.dbsize(), second
            if dropped > before / RULES / 2:
                load.changed([CHANGED], range(1, ROWS + 1), "dropped")
            load.loads.clear()
            load.causes.clear()
            for at, agent in enumerate(agents):
                agents[at] = Agent(load, running.redis_url)
                await agent.close()
                await asyncio.sleep(seconds / AGENTS)
            figures[name] = {
                "dropped_percent": 100 * dropped / before,
                "loads_ratio": load.loads_ratio(),
                "loads": float(load.loads.total()),
                "loads_dropped": float(load.causes["dropped"]),
                "loads_unexplained": float(load.causes["unexplained"]),
            }
        writer.cancel()
        await asyncio.wait([writer])
        xid = int(await pool.fetchval("select max(xid::text::bigint) from unstale.outbox"))
        await applied(redis, xid, process=first)
        figures["afterwards"] = {"stale": float(await stale(redis, pool))}
        for agent in agents:
            await agent.close()
    return figures


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, seconds=10.0)
    seconds = options.seconds / 4 if options.quick else options.seconds
    runs = [await measure(seconds) for _ in range(options.repeats)]
    finish("rules", medians(runs), as_json=options.json, repeats=options.repeats)


if __name__ == "__main__":
    run(main)
