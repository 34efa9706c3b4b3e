"""A worker that stands by says at its start which Python loaders it could not call if it led."""

import pytest
import structlog

from servers import Database, eventually
from unstale.names import Names
from unstale_worker.status import Role
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker

LOADERS = """
[refresh."user:{user_id}:profile"]
loader = "no_such_module:greet"

[refresh."user:{user_id}:greeting_instructions"]
loader = "refresh_loaders:greeting"
"""


@pytest.mark.parametrize("leading", [False, True])
async def test_a_broken_import_is_said_before_it_matters(
    leading: bool, database: Database, redis_url: str
) -> None:
    """By a standby as by a leader; standing by, and taking over, go on."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        if not leading:
            await redis.set(Names().leader, "somebody", px=60_000)
        with structlog.testing.capture_logs() as logs:
            rules = PROFILES.replace("[ttl]", f"{LOADERS}\n[ttl]")
            async with running_worker(database.dsn, redis_url, rules=rules, leading=leading) as worker:

                def problems() -> list[str]:
                    return [line["problem"] for line in logs if "problem" in line]

                await eventually(problems, message="the loader that is not there is named")
                assert worker.status().role is (Role.LEADING if leading else Role.STANDBY)
                await redis.delete(Names().leader)
                await eventually(lambda: worker.status().role is Role.LEADING and worker.status().ready)
                assert all("no_such_module:greet" in problem for problem in problems())
