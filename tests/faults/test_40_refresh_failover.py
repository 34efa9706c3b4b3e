"""40: Sentinel makes another server the primary while Python loaders are wanted.

Guards: what is to be done stands in the refresh set, which the replica has, too; the connection of refreshes
asks the Sentinels again when it broke.
"""

import pytest

import refresh_loaders
from servers import Database
from servers.sentinels import guarded
from workers import connected, redis_at, running_worker
from workers.refresh_stage import due, filled, rules_in_force, settled

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'User ' || n from generate_series(1, 100) n;
select unstale.watch('public.profiles', '{id}');
"""
RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
"""


@pytest.mark.parametrize("how", ["killed", "SENTINEL FAILOVER"])
async def test_loaders_go_on_at_the_new_primary(database: Database, how: str) -> None:
    refresh_loaders.reset()
    async with guarded() as watched, connected(database.dsn) as db:
        await db.execute(SCHEMA)
        async with running_worker(database.dsn, watched.url, rules=RULES):
            async with redis_at(watched.primary.url) as redis:
                await rules_in_force(redis)
                await due(redis, "user:1:greeting")
                await filled(redis, "user:1:greeting")
            if how == "killed":
                await watched.primary.kill()
            else:
                await watched.fail_over()
            await watched.promoted()
            async with redis_at(watched.replica.url) as redis:
                await due(redis, *(f"user:{n}:greeting" for n in range(2, 30)))
                for number in range(2, 30):
                    await filled(redis, f"user:{number}:greeting", timeout=60.0)
                await settled(redis, timeout=60.0)
