"""``unstale dev``: embedded servers and a worker for the user's own code."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import asyncpg

from unstale.errors import ConfigurationError
from unstale.settings import WorkerSettings
from unstale_worker.dev_servers import stack
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from unstale_worker.runtime.event_loop import run_until_ready

MIGRATIONS: Final = Path("supabase/migrations")
"""The user's own migrations, in the folder of the Supabase command line below the working directory."""
SEED: Final = Path("supabase/seed.sql")
"""SQL that is run after the migrations, as the Supabase command line does."""


async def run_dev(
    rules: Rules,
    *,
    config: Path | None,
    stop: asyncio.Event,
    say: Callable[[str], None],
    restricted: bool = False,
    cluster: bool = False,
) -> None:
    """Serve until ``stop`` is set, then stop and remove everything.

    unstale's migrations are applied first, then those in `MIGRATIONS`, then `SEED`. Once the worker has
    accepted the servers, ``say`` receives their URLs as lines of an ``.env`` file; if it is stopped before,
    nothing is printed. With ``restricted``, Redis' URL is of a user as rented servers have them; with
    ``cluster`` it is a cluster of one node. Raises
    `ConfigurationError` if an SQL file fails or a watch is missing.
    """

    async def work(ready: Callable[[], None]) -> None:
        await _serve(
            rules, config=config, stop=stop, say=say, ready=ready, restricted=restricted, cluster=cluster
        )

    await run_until_ready(work, stop=stop)


async def _serve(
    rules: Rules,
    *,
    config: Path | None,
    stop: asyncio.Event,
    say: Callable[[str], None],
    ready: Callable[[], None],
    restricted: bool,
    cluster: bool,
) -> None:
    folders = [MIGRATIONS] if MIGRATIONS.is_dir() else []
    seed = SEED.read_text("utf-8") if SEED.is_file() else ""
    try:
        async with stack(migrations=folders, sql=seed, restricted=restricted, cluster=cluster) as servers:
            settings = WorkerSettings.from_env(
                database_url=servers.worker_database_url, redis_url=servers.redis_url, config=config
            )
            if "http_port" not in settings.model_fields_set:
                settings = settings.model_copy(update={"http_port": 0})
            worker = Worker(settings, rules)
            async with serving_page(settings, rules, worker.status) as url:
                working = asyncio.create_task(worker.run(stop=stop))
                try:
                    await _accepted(worker, working)
                    ready()
                    applied = [*map(str, folders), *([str(SEED)] if seed else [])]
                    say(f"# {rules.file}; applied: {', '.join(applied) or 'only the migrations of unstale'}")
                    say(f"DATABASE_URL={servers.database_url}")
                    say(f"REDIS_URL={servers.redis_url}")
                    say(f"# the worker's page: {url}/; Ctrl-C stops everything")
                    await working
                finally:
                    working.cancel()
                    await asyncio.wait([working])
    except asyncpg.PostgresError as error:
        where = "; ".join(getattr(error, "__notes__", ()))
        raise ConfigurationError(f"SQL failed {where or f'in {SEED}'}: {error}; correct the file") from error


async def _accepted(worker: Worker, working: asyncio.Task[None]) -> None:
    """Wait until the worker has checked the servers against its rules, or has ended; raise its error."""
    while worker.status().role is Role.STARTING and not working.done():
        await asyncio.wait([working], timeout=0.02)
    if working.done():
        await working
