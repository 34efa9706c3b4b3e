"""34: the worker's sessions, its loaders' too, end at a standby of a URL that names both servers.

Guards: `PostgresConnections.open`, which takes only a primary. Without it a ``row`` refresh after a
failover, or over an address that leads to either server, reads the lagging standby and stores old values for
good.
"""

import json

import pytest

from servers.replica import pause, resume, standby_of
from unstale.errors import DatabaseUnavailable
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.sources.postgres_connections import PostgresConnections
from workers import connected, redis_at, running_worker
from workers.refresh_stage import due, filled

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
"""

SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles values (1, 'Ada');
select unstale.watch('public.profiles', '{id}');
"""


async def test_a_loader_passes_a_standby_by(own_postgres: EmbeddedPostgres, redis_url: str) -> None:
    async with connected(own_postgres.dsn()) as db:
        await db.execute(SCHEMA)
    async with standby_of(own_postgres) as standby, connected(standby.superuser_dsn) as control:
        await pause(control)
        with pytest.raises(DatabaseUnavailable, match="standby"):
            await PostgresConnections(standby.dsn()).open()

        before = f"127.0.0.1:{own_postgres.port}"
        both = own_postgres.dsn().replace(before, f"127.0.0.1:{standby.port},{before}")
        assert both != own_postgres.dsn()
        async with (
            connected(own_postgres.dsn()) as db,
            redis_at(redis_url) as redis,
            running_worker(both, redis_url, rules=RULES),
        ):
            await db.execute("update public.profiles set name = 'Grace'")
            await due(redis, "user:1:profile")
            assert json.loads(await filled(redis, "user:1:profile"))["name"] == "Grace"
        await resume(control)
