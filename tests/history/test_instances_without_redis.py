"""Two instances without Redis under changes, cut connections and slow loaders: the checker finds nothing."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import asyncpg
import pytest

from history import Checker, Final, Limits, Record, Recorder, State, Verdict, Writes
from history.recorder import seen_in
from servers import Database, eventually, takes
from servers.proxy import Proxy
from unstale import Cache
from unstale.near_cache.in_flight import InFlightReads
from workers import connected
from workers.no_redis import alone, follower_of

ROWS = 6
CHANGES = 400
RULES = """
[[watch]]
table = "public.items"
keys = ["item:{id}", "trace:item:{id}:{version}"]

[ttl]
"item:*" = "1d"
"""
SCHEMA = """
create table public.items (id bigint primary key, version bigint not null);
insert into public.items select g, 1 from generate_series(1, 6) g;
select unstale.watch('public.items', '{id,version}');
"""


@dataclass(slots=True)
class Instance:
    """One process' cache, its own connection for loaders, and what it saw."""

    cache: Cache
    loaders: asyncpg.Pool
    chance: random.Random
    records: list[Record] = field(default_factory=list)

    async def load(self, row: str) -> dict[str, object]:
        """Reads the row, and takes its time with it: changes overtake one load in a few."""
        number = int(row.partition(":")[2])
        version = await self.loaders.fetchval("select version from items where id = $1", number)
        await takes(self.chance.random() * 0.03)
        return {"versions": {row: version}}

    async def read(self, row: str, bound: float | None = None) -> Any:
        """Through the cache."""
        return await self.cache.get_or_load(row, partial(self.load, row), max_staleness=bound)

    async def converse(self, recorder: Recorder, stop: asyncio.Event) -> None:
        """Read one row after another."""
        while not stop.is_set():
            row, bound = f"item:{self.chance.randint(1, ROWS)}", self.chance.choice((None, None, None, 0.05))
            await recorder.read(row, partial(self.read, row, bound), rows=(row,), bound=bound)
            await recorder.sample()
            await takes(self.chance.random() * 0.004)


@asynccontextmanager
async def instance(dsn: str, own: str, seed: int) -> AsyncIterator[Instance]:
    """Follows over ``dsn``, loads over ``own``."""
    async with AsyncExitStack() as stack:
        loaders = await stack.enter_async_context(asyncpg.create_pool(own, min_size=1, max_size=4))
        cache = await stack.enter_async_context(alone(dsn, rules=RULES, max_silence=2.0, leader_ttl=1.0))
        yield Instance(cache, loaders, random.Random(seed))


async def write(db: asyncpg.Connection) -> dict[str, list[State]]:
    """Change rows, one or two in a transaction, one in five rolled back; returns what was committed."""
    chance = random.Random(11)
    rows = {f"item:{number}": [State(1, True, 0.0, 0.0)] for number in range(1, ROWS + 1)}
    for version in range(2, CHANGES + 2):
        numbers = sorted(chance.sample(range(1, ROWS + 1), chance.randint(1, 2)))
        before = time.monotonic()
        change = db.transaction()
        await change.start()
        await db.execute("update items set version = $2 where id = any($1::bigint[])", numbers, version)
        if chance.random() < 0.2:
            await change.rollback()
        else:
            await change.commit()
            after = time.monotonic()
            for number in numbers:
                rows[f"item:{number}"].append(State(version, True, before, after))
        await takes(chance.random() * 0.01)
    return rows


async def break_connections(proxy: Proxy, stop: asyncio.Event) -> None:
    """Cut, delay and hold what the followers read over, each at least once; their loaders go on."""
    chance = random.Random(5)
    ways: list[Callable[[], object]] = [proxy.cut, partial(proxy.slow, 0.02), proxy.hold]
    rounds = itertools.chain(ways, iter(lambda: chance.choice(ways), None))
    for number, way in enumerate(rounds):
        if stop.is_set() and number >= len(ways):
            break
        way()
        await takes(0.15)
        await proxy.heal()
        await takes(0.25)


@pytest.mark.parametrize("defended", [True, False])
async def test_instances_without_redis_keep_every_promise(
    database: Database, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    if not defended:  # what a load in flight must not bring in, comes in
        monkeypatch.setattr(InFlightReads, "invalidate", lambda self, key: None)
    stop = asyncio.Event()
    async with (
        connected(database.dsn) as db,
        Proxy(database.server.port) as proxy,
    ):
        await db.execute(SCHEMA)
        dsn = proxy.url(database.dsn)
        async with instance(dsn, database.dsn, 1) as one, instance(dsn, database.dsn, 2) as two:
            verdict = await traffic(db, proxy, stop, [one, two])
            restarts = [follower_of(each.cache).restarts for each in (one, two)]
    assert verdict.reads > CHANGES
    if defended:
        assert verdict.true, verdict.complaints
        assert verdict.attached_reads
        assert restarts == [1, 1]  # no fault cost the position
        assert proxy.accepted > 6  # three at the start of each: some were cut
    else:
        assert verdict.stale.get("older"), "the missing marks were not noticed"


async def traffic(
    db: asyncpg.Connection, proxy: Proxy, stop: asyncio.Event, instances: list[Instance]
) -> Verdict:
    """Read, write and break for a while; then let it settle and judge it."""
    recorders = [Recorder(each.cache, each.records.append) for each in instances]
    listeners = [asyncio.create_task(recorder.listen()) for recorder in recorders]
    for recorder in recorders:
        await recorder.listening.wait()
    readers = [
        asyncio.create_task(each.converse(recorder, stop))
        for each, recorder in zip(instances, recorders, strict=True)
        for _ in range(3)
    ]
    breaking = asyncio.create_task(break_connections(proxy, stop))
    rows = await write(db)
    stop.set()
    await asyncio.gather(breaking, *readers)
    token = await last_token(db)
    for each, recorder in zip(instances, recorders, strict=True):
        await each.cache.wait_for(token, timeout=20)
        await eventually(partial(attrgetter("attached"), each.cache))
        await recorder.sample()
        for row in rows:
            each.records.append(Final(row, seen_in(await each.read(row), (row,))))
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    checker = Checker(Writes(rows), Limits(detached=30.0))
    for number, each in enumerate(instances):
        checker.judge(f"instance {number}", each.records)
    return checker.verdict


async def last_token(db: asyncpg.Connection) -> str:
    """A token of a transaction after all others; it changes nothing that is watched."""
    async with db.transaction():
        await db.execute("create temporary table marker () on commit drop")
        token: str = await db.fetchval("select unstale.token()")
    return token
