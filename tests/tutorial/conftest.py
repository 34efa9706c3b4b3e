"""The setup of every tutorial page: a database, a worker that follows it, and a cache."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from servers import Database
from unstale import Cache
from workers import running_worker

RULES = """
[[watch]]
table = "public.profiles"
keys  = ["user:{id}:profile"]

[ttl]
"user:*:profile" = "1h"
"""

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles values (42, 'Ada');
select unstale.watch('public.profiles', '{id}');
"""


@pytest.fixture
async def db(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the user's own database; profile 42 is Ada's."""
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(SCHEMA)
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def worker(db: asyncpg.Connection, database: Database, redis_url: str) -> AsyncIterator[None]:
    """``unstale worker``, which turns committed changes into invalidations."""
    async with running_worker(database.worker_dsn, redis_url, rules=RULES):
        yield


@pytest.fixture
async def cache(worker: None, redis_url: str) -> AsyncIterator[Cache]:
    """The cache of one agent instance."""
    async with Cache.from_env(env_file=None, redis_url=redis_url) as cache:
        yield cache


@pytest.fixture
async def other_instance(worker: None, redis_url: str) -> AsyncIterator[Cache]:
    """The cache of another instance of the same agent."""
    async with Cache.from_env(env_file=None, redis_url=redis_url) as cache:
        yield cache
