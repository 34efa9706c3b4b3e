"""The same traffic against unstale and two naive caches: the checker passes the first and catches both."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from history import Checker, Final, Heard, Record, Recorder, State, Verdict, Writes
from history.naive import Subject, subject
from history.recorder import seen_in
from servers import Database, eventually
from servers.proxy import Proxy
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers import applied, connected, redis_at, running_worker

pytestmark = pytest.mark.leaves_keys("item:.*")  # a naive cache sets no TTL

ROW, KEY = "item:1", "item:1"
RULES = """
[[watch]]
table = "public.items"
keys = ["item:{id}", "trace:item:{id}:{version}"]

[ttl]
"item:*" = "1d"
"""
SCHEMA = """
create table public.items (id bigint primary key, version bigint not null);
insert into public.items values (1, 1);
select unstale.watch('public.items', '{id,version}');
"""


@dataclass(slots=True)
class Stage:
    """One agent, whose connections to Redis go through ``proxy``, and a writer."""

    subject: Subject
    recorder: Recorder
    cache: Cache
    proxy: Proxy
    connection: asyncpg.Connection
    redis: Any
    states: list[State] = field(default_factory=lambda: [State(1, True, 0.0, 0.0)])
    records: list[Record] = field(default_factory=list)

    async def commit(self) -> int:
        """A new version, applied in Redis when this returns."""
        version, before = self.states[-1].version + 1, time.monotonic()
        await self.connection.execute("update public.items set version = $1", version)
        self.states.append(State(version, True, before, time.monotonic()))
        await applied(self.redis, self.connection)
        return version

    async def told(self, version: int) -> None:
        """Wait until the agent was told of a version."""
        await eventually(
            lambda: any((ROW, version) in r.versions for r in self.records if isinstance(r, Heard))
        )

    async def load(self) -> dict[str, object]:
        return {"versions": {ROW: await self.connection.fetchval("select version from public.items")}}

    async def read(self, loader: Any = None) -> None:
        await self.recorder.read(KEY, lambda: self.subject.get_or_load(KEY, loader or self.load), rows=(ROW,))

    async def verdict(self) -> Verdict:
        """What the checker says, with what is cached in the end."""
        await eventually(lambda: self.cache.attached)
        await self.recorder.sample()
        value = await self.subject.get_or_load(KEY, self.load)
        self.records.append(Final(KEY, seen_in(value, (ROW,))))
        checker = Checker(Writes({ROW: self.states}))
        checker.judge("agent", self.records)
        return checker.verdict


@contextlib.asynccontextmanager
async def staged(kind: str, database: Database, valkey: EmbeddedValkey) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(database.dsn))
        await connection.execute(SCHEMA)
        await stack.enter_async_context(running_worker(database.dsn, valkey.url, rules=RULES))
        proxy = await stack.enter_async_context(Proxy(valkey.port))
        url = proxy.url(valkey.url)
        cache = await stack.enter_async_context(Cache.from_env(env_file=None, redis_url=url))
        await eventually(lambda: cache.attached)
        redis = await stack.enter_async_context(redis_at(valkey.url))
        records: list[Record] = []
        recorder = Recorder(cache, records.append)
        listener = asyncio.create_task(recorder.listen())
        stack.push_async_callback(_ended, listener)
        await recorder.listening.wait()
        judged = await stack.enter_async_context(subject(kind, cache, url))
        yield Stage(judged, recorder, cache, proxy, connection, redis, records=records)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def overtaken(stage: Stage) -> None:
    """A load that a change overtakes, and a read after the agent was told of the change."""
    loaded, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> dict[str, object]:
        value = await stage.load()
        loaded.set()
        await go_on.wait()
        return value

    reading = asyncio.create_task(stage.read(slow))
    await loaded.wait()
    await stage.told(await stage.commit())
    go_on.set()
    await reading
    await stage.read()


async def unheard(stage: Stage) -> None:
    """A change while the agent's connections are away, and a read after it is back and was told."""
    await stage.read()
    await stage.read()
    await stage.proxy.refuse()
    stage.proxy.cut()
    version = await stage.commit()
    await stage.proxy.heal()
    await stage.told(version)
    await eventually(lambda: stage.cache.attached)
    await stage.read()


async def quiet(stage: Stage) -> None:
    """Reads and changes, one after the other: where no defence is needed."""
    for _ in range(3):
        await stage.read()
        await stage.told(await stage.commit())
        await stage.read()


CAUGHT = {("aside", overtaken), ("deaf", unheard)}


@pytest.mark.parametrize("traffic", [overtaken, unheard, quiet])
@pytest.mark.parametrize("kind", ["unstale", "aside", "deaf"])
async def test_the_checker_catches_exactly_the_cache_that_lacks_the_defence(
    kind: str, traffic: Any, database: Database, valkey: EmbeddedValkey
) -> None:
    async with staged(kind, database, valkey) as stage:
        await traffic(stage)
        verdict = await stage.verdict()
    if (kind, traffic) in CAUGHT:
        assert verdict.stale, "the naive cache was not caught"
        assert verdict.wrong == ("item:1 in agent",)
    else:
        assert verdict.true, verdict.complaints
    assert verdict.reads > 1
