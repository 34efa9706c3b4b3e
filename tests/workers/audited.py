"""An audited system: rules whose values SQL makes, traffic, and an auditor in the test's own loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from servers import PATIENCE
from unstale import Cache
from unstale_worker.audit.auditor import Auditor, Options
from unstale_worker.audit.opening import opened
from unstale_worker.rules import Rules
from workers import settings_for

RULES = '''
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:greeting"]

[[watch]]
table = "public.orgs"
keys = ["user:{member}:plan"]
query = "select member from public.members where org = {id}"

[refresh."user:{id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"

[refresh."user:{member}:plan"]
loader = "sql"
query = """
    select o.plan as value from public.orgs as o join public.members as m on m.org = o.id
    where m.member = {member}
"""

[ttl]
"user:*" = "1h"
'''
SCHEMA = """
create table public.profiles (id bigint primary key, name text, version bigint not null default 0);
create table public.orgs (id bigint primary key, plan text);
create table public.members (org bigint, member bigint);
insert into public.profiles select n, 'User ' || n from generate_series(1, 20) as n;
insert into public.orgs select n, 'free' from generate_series(1, 4) as n;
insert into public.members select 1 + n % 4, n from generate_series(1, 20) as n;
select unstale.watch('public.profiles', '{id}');
select unstale.watch('public.orgs', '{id}');
grant select on public.profiles, public.orgs, public.members to unstale_worker;
"""
QUICK = Options(delays=(0.2,), rate=2_000.0, tick=0.05)


@asynccontextmanager
async def auditing(
    dsn: str, redis_url: str, *, options: Options = QUICK, rules: str = RULES, **more: Any
) -> AsyncIterator[Auditor]:
    """Audit in the background."""
    stop = asyncio.Event()
    settings = settings_for(dsn, redis_url, **more)
    async with opened(settings, Rules.parse(rules), options) as auditor:
        task = asyncio.create_task(auditor.run(stop))
        try:
            yield auditor
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE)


class Traffic:
    """Reads and changes of every kind, until it is stopped."""

    def __init__(self, dsn: str, cache: Cache, *, seed: int = 1) -> None:
        self._dsn, self._cache, self._chance = dsn, cache, random.Random(seed)
        self.changes = self.reads = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Change and read; a change is followed by reads of the same user."""
        connection = await asyncpg.connect(self._dsn)
        try:
            while not stop.is_set():
                user = self._chance.randrange(1, 21)
                await connection.execute(*self._change(user))
                self.changes += 1
                for _ in range(3):
                    user = self._chance.choice((user, self._chance.randrange(1, 21)))
                    await self._cache.get_or_load(f"user:{user}:profile", self._profile(connection, user))
                    await self._cache.get_or_load(f"user:{user}:plan", self._plan(connection, user))
                    self.reads += 2
                await asyncio.sleep(0)
        finally:
            await connection.close()

    def _change(self, user: int) -> tuple[Any, ...]:
        match self._chance.randrange(8):
            case 0:
                return "delete from public.profiles where id = $1", user
            case 1:
                return "update public.orgs set plan = 'plan ' || random() where id = 1 + $1 % 4", user
        return (
            "insert into public.profiles values ($1, 'User') on conflict (id) do update "
            "set version = profiles.version + 1, name = 'User ' || random()",
            user,
        )

    @staticmethod
    def _profile(connection: asyncpg.Connection, user: int) -> Callable[[], Any]:
        async def load() -> dict[str, Any] | None:
            row = await connection.fetchrow("select * from public.profiles where id = $1", user)
            return None if row is None else dict(row)

        return load

    @staticmethod
    def _plan(connection: asyncpg.Connection, user: int) -> Callable[[], Any]:
        async def load() -> Any:
            return await connection.fetchval(
                "select o.plan from public.orgs as o join public.members as m on m.org = o.id "
                "where m.member = $1",
                user,
            )

        return load


@asynccontextmanager
async def traffic(dsn: str, cache: Cache) -> AsyncIterator[Traffic]:
    """Run traffic in the background."""
    stop, running = asyncio.Event(), Traffic(dsn, cache)
    task = asyncio.create_task(running.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE)
