"""One session of ``unstale dev``: servers, worker and files, until it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from unstale.errors import ConfigurationError, EmbeddedServerError, MigrationMissing, UnstaleError
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.dev.env_file import write_env
from unstale_worker.dev.files import changed, state_of
from unstale_worker.dev.following import Following
from unstale_worker.dev.places import KEPT, PORT, Ports, Secret
from unstale_worker.dev.supabase import supabase_double, variables
from unstale_worker.dev_servers import Stack, stack
from unstale_worker.dev_servers.project import Project
from unstale_worker.dev_servers.server_stack import Places, set_up
from unstale_worker.rules import Rules
from unstale_worker.runtime.event_loop import run_until_ready
from unstale_worker.supabase_double import Keys

Say = Callable[[str], None]
_LOGIN: Final = Path(__file__).with_name("login.sql")
_LOGIN_ROLE: Final = "unstale_dev"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command."""

    config: Path | None = None
    """The rules file; None: where it is usually found."""
    port: int = PORT
    """First of the ports; 0: free ones, and new passwords."""
    data: Path | None = None
    """Folder that keeps the data of Postgres; None: nothing is kept."""
    env_file: Path | None = None
    """File to write the URLs into."""
    supabase: bool = False
    """Serve the REST API and Realtime, too."""
    restricted: bool = False
    """Redis' URL is of a user as rented servers have them."""
    cluster: bool = False
    """Redis is a cluster of one node."""


async def run_dev(rules: Rules, options: Options, *, stop: asyncio.Event, say: Say) -> None:
    """Serve until ``stop`` is set, then stop everything, and remove it unless its folder was given.

    The platform's schemas come first, then unstale's migrations, those of the `Project`, and its seeds. Once
    the worker has accepted the servers, ``say`` receives their URLs as lines of an ``.env`` file. When files
    change, new migrations are applied and new rules followed.
    Raises `ConfigurationError` if an SQL file fails, a watch is missing or a port is taken.
    """

    async def work(ready: Callable[[], None]) -> None:
        try:
            await _Session(options, stop=stop, say=say).serve(rules, ready)
        except asyncpg.PostgresError as error:
            raise ConfigurationError(f"the database could not be set up: {error}") from error
        except EmbeddedServerError as error:
            if options.data is None or "postmaster.pid" not in str(error):
                raise
            raise ConfigurationError(
                f"another Postgres, perhaps of another `unstale dev`, uses the data in {options.data}; "
                "end it, or choose another folder with --data"
            ) from error

    await run_until_ready(work, stop=stop)


class _Session:
    def __init__(self, options: Options, *, stop: asyncio.Event, say: Say) -> None:
        self._options, self._stop, self._say = options, stop, say
        self._told: set[str] = set()
        self._last = ""

    async def serve(self, rules: Rules, ready: Callable[[], None]) -> None:
        options, ports = self._options, Ports.from_first(self._options.port)
        settings = WorkerSettings.from_env(config=options.config)
        own_page = "http_port" in settings.model_fields_set
        ports.refuse_taken(page=not own_page, supabase=options.supabase)
        secret = self._secret()
        password = None if secret is None else secret.derived("password")
        project, files = Project.read(), state_of(Path(rules.file))
        self._say("# starting Postgres, Redis and a worker, and applying the migrations")
        async with AsyncExitStack() as opened:
            servers = await opened.enter_async_context(
                stack(
                    directory=options.data, project=project, restricted=options.restricted,
                    cluster=options.cluster, places=Places(ports.postgres, ports.valkey, password),
                    tell=self._tell,
                )
            )  # fmt: skip
            await servers.postgres.run_file(_LOGIN)
            following = await opened.enter_async_context(
                Following(
                    settings.model_copy(
                        update=_own(servers) | ({} if own_page else {"http_port": ports.page})
                    )
                )
            )
            await following.follow(rules)
            values = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
            if options.supabase:
                keys = Keys(None if secret is None else secret.derived("keys"))
                api = supabase_double(servers, project, keys, port=ports.supabase)
                values |= variables(await opened.enter_async_context(api))
            ready()
            self._introduce(rules, project, values, following.url)
            await self._follow_files(rules, files, servers, following)

    def _secret(self) -> Secret | None:
        if self._options.data is not None:
            return Secret.kept(self._options.data / "secret")
        return Secret.kept(KEPT) if self._options.port else None

    def _introduce(self, rules: Rules, project: Project, values: Mapping[str, str], url: str) -> None:
        applied = [*([project.migrations] if project.migrations else []), *project.seeds]
        self._say(
            f"# {rules.file}; applied: {', '.join(map(str, applied)) or 'only the migrations of unstale'}"
        )
        for name, value in values.items():
            self._say(f"{name}={value}")
        if (path := self._options.env_file) is not None:
            doubled = write_env(path, values)
            other = f"; its other lines for {', '.join(doubled)} do not count meanwhile" if doubled else ""
            self._say(f"# written to {path}{other}")
        kept = (
            "removes" if self._options.data is None else f"keeps the data in {self._options.data} and stops"
        )
        self._say(f"# the worker's page: {url}/; Ctrl-C {kept} everything")

    async def _follow_files(
        self, rules: Rules, files: dict[Path, tuple[int, int]], servers: Stack, following: Following
    ) -> None:
        """Wait for changes of the files and do what they ask for, until the session is stopped."""
        stopping = asyncio.create_task(self._stop.wait())
        current = rules
        try:
            while True:
                work = asyncio.create_task(changed(Path(rules.file), files))
                await asyncio.wait([stopping, following.task, work], return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() or following.task.done():
                    await cancelled(work)
                    break
                files = work.result()
                reloading = asyncio.create_task(self._reload(current, servers, following))
                await asyncio.wait([stopping, reloading], return_when=asyncio.FIRST_COMPLETED)
                if not reloading.done():
                    await cancelled(reloading)
                    break
                current = reloading.result()
            await following.stop()
        finally:
            await cancelled(stopping)

    async def _reload(self, current: Rules, servers: Stack, following: Following) -> Rules:
        """Apply what is new; return the rules that are followed then. A mistake changes nothing."""
        try:
            applied = await set_up(servers.postgres, Project.read(), database="postgres", tell=self._tell)
            if applied:
                self._say(f"# applied: {', '.join(applied)}")
            rules = Rules.load(self._options.config)
            if rules != current:
                await following.follow(rules)
                self._news(f"{rules.file}: the new rules are followed")
            else:
                self._news("the files changed: migrations, seeds and rules are up to date")
            return rules
        except MigrationMissing as missing:
            remedy = "run `unstale migration`, and the file that it writes is applied here"
            self._news(f"the rules wait, and the former ones go on: {missing.lacking or missing}; {remedy}")
        except (UnstaleError, asyncpg.PostgresError, OSError) as error:
            self._news(f"not applied, what was before goes on: {error}")
        return current

    def _news(self, sentence: str) -> None:
        """Say the state after a change of the files, unless it is what was said last."""
        if sentence != self._last:
            self._last = sentence
            self._say(f"# {sentence}")

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(f"# {sentence}")


def _own(servers: Stack) -> dict[str, object]:
    """Return the settings that lead to these servers and no others, whatever the environment says.

    The worker has a login of its own, so that the user may set the password of ``unstale_worker``.
    """
    own = WorkerSettings(database_url=servers.postgres.dsn(user=_LOGIN_ROLE), redis_url=servers.redis_url)
    return {
        "database_url": own.database_url, "redis_url": own.redis_url,
        "supabase_url": None, "supabase_key": None, "source": "outbox",
    }  # fmt: skip
