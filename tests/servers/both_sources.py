"""Both ways to one database, for tests that must hold over each: a connection, and HTTPS with Realtime."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import Database
from supabase_double import SupabaseDouble
from unstale_worker.leader.supervisor import Worker
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules
from workers import PROFILES, connected, running_worker

KINDS = ("outbox", "supabase")

FANOUT = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[[watch]]
table = "public.organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"
"""

FANOUT_TABLES = """
create table public.profiles (id bigint primary key, name text);
create table public.organizations (id int primary key, name text);
create table public.members (org_id int, user_id int);
insert into public.organizations values (1, 'one');
insert into public.members values (1, 7), (1, 8);
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way for a worker to reach a database.

    Attributes:
        kind: The source it takes.
        settings: What a worker on it is told, beside Redis.
        project: The project, when the way is HTTPS.
    """

    kind: str
    settings: dict[str, Any]
    project: SupabaseDouble | None = None

    def worker(
        self, redis_url: str, *, rules: str = PROFILES, **more: Any
    ) -> AbstractAsyncContextManager[Worker]:
        """Run a worker that leads; see `running_worker`."""
        settings = {**self.settings, **more}
        return running_worker(settings.pop("database_url"), redis_url, rules=rules, **settings)


def over_https(project: SupabaseDouble) -> dict[str, Any]:
    """Return the settings of a worker that has only the project's URL and a secret key."""
    return {
        "database_url": None,
        "source": "supabase",
        "supabase_url": project.url,
        "supabase_key": project.keys.secret,
    }


@asynccontextmanager
async def way(kind: str, database: Database, *, poll: float = 0.1) -> AsyncIterator[Way]:
    """Open one of `KINDS`."""
    if kind == "outbox":
        yield Way(kind, {"database_url": database.worker_dsn, "source": "outbox"})
        return
    await publish(database)
    async with SupabaseDouble(database, poll=poll) as project:
        yield Way(kind, over_https(project), project)


async def publish(database: Database) -> None:
    """Create the publication, as on the platform, and add the migrations' table to it."""
    async with connected(database.superuser_dsn) as admin, connected(database.dsn) as owner:
        await admin.execute("create publication supabase_realtime")
        await admin.execute("alter publication supabase_realtime owner to postgres")
        problem = await owner.fetchval("select unstale.publish_wakeups()")
        assert problem is None, problem


async def push(database: Database, rules: str, folder: Path) -> None:
    """Write and run the migration that the rules ask for, as `unstale migration` and a push do."""
    written = write_migration(Rules.parse(rules), folder)
    assert written.path is not None
    async with connected(database.dsn) as owner:
        await owner.execute(written.path.read_text())
