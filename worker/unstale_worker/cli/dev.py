"""``unstale dev``: embedded servers and a worker for the user's own code."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg

from unstale.errors import ConfigurationError
from unstale.settings import WorkerSettings
from unstale_worker.dev_servers import stack
from unstale_worker.dev_servers.project import Project
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from unstale_worker.runtime.event_loop import run_until_ready


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

    unstale's migrations are applied first, then those of the `Project`, then its seeds. Once the worker has
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
    project = Project.read()
    try:
        async with stack(
            project=project,
            restricted=restricted,
            cluster=cluster,
            tell=lambda sentence: say(f"# {sentence}"),
        ) as servers:
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
                    applied = [
                        *([str(project.migrations)] if project.migrations else []),
                        *map(str, project.seeds),
                    ]
                    say(f"# {rules.file}; applied: {', '.join(applied) or 'only the migrations of unstale'}")
                    say(f"DATABASE_URL={servers.database_url}")
                    say(f"REDIS_URL={servers.redis_url}")
                    say(f"# the worker's page: {url}/; Ctrl-C stops everything")
                    await working
                finally:
                    working.cancel()
                    await asyncio.wait([working])
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"the database could not be set up: {error}") from error


async def _accepted(worker: Worker, working: asyncio.Task[None]) -> None:
    """Wait until the worker has checked the servers against its rules, or has ended; raise its error."""
    while worker.status().role is Role.STARTING and not working.done():
        await asyncio.wait([working], timeout=0.02)
    if working.done():
        await working
