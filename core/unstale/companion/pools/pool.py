"""``ConnectionPool``: the clients of an agent, and their health."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from unstale.companion.pools.dependency import Dependency
from unstale.companion.pools.loop_clients import LoopClients
from unstale.companion.pools.renewable import CLOSED
from unstale.companion.pools.vitals import State
from unstale.compat.per_loop import PerLoop
from unstale.errors import MissingExtra, PoolClosed
from unstale.runtime.extras import needs
from unstale.runtime.fork import forget_after_fork
from unstale.settings import PoolSettings

if TYPE_CHECKING:
    import aiohttp
    import asyncpg
    from openai import AsyncOpenAI, OpenAI
    from supabase import AsyncClient

    from unstale.companion.pools.http_session import HttpSession
    from unstale.companion.pools.openai_clients import OpenAIClients, OpenAISync
    from unstale.companion.pools.postgres import Database
    from unstale.companion.pools.supabase_clients import SupabaseClients

_OPENAI: Final = "unstale.companion.pools.openai_clients"
_SUPABASE: Final = "unstale.companion.pools.supabase_clients"
_HTTP: Final = "unstale.companion.pools.http_session"
_DATABASE: Final = "unstale.companion.pools.postgres"


class ConnectionPool:
    """OpenAI, Supabase, HTTP and Postgres clients, each made once and on first use.

    Example:
        >>> async with ConnectionPool.from_env() as pool:
        ...     openai = await pool.openai()
        ...     supabase = await pool.supabase()
        ...     rows = await supabase.table("profiles").select("*").eq("id", 42).execute()

    One object serves a whole process. Each event loop gets clients of its own, and a forked child starts
    without any. Get a client from the pool where you use it; that costs less than two microseconds.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._loops = PerLoop(self._open_loop, name="pool")
        self._sync: OpenAISync | None = None
        self._lock = threading.Lock()
        self._closed = False
        forget_after_fork(self)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Return a pool with the settings of the environment and ``.env``; arguments beat them."""
        return cls(PoolSettings.from_env(**overrides))

    # --- clients --------------------------------------------------------------------------------

    async def openai(self) -> "AsyncOpenAI":
        """Return the OpenAI client for coroutines; raises `SettingError` without ``OPENAI_API_KEY``."""
        clients = cast("OpenAIClients | None", self._made("openai"))
        if clients is None:
            loop = asyncio.get_running_loop()
            clients = cast("OpenAIClients", await self._get(
                "openai", _in_thread(_OPENAI, lambda module: module.OpenAIClients(self._settings, loop))
            ))  # fmt: skip
        return clients.client

    def openai_sync(self) -> "OpenAI":
        """Return the OpenAI client for threads. Its calls block, so do not use it in coroutines."""
        clients = self._sync
        if clients is None or not clients.alive:
            with self._lock:
                if self._closed:
                    raise PoolClosed(CLOSED)
                clients = self._sync
                if clients is None or not clients.alive:
                    clients = self._sync = _module(_OPENAI).OpenAISync(self._settings)
        return cast("OpenAISync", clients).client

    async def supabase(self, *, schema: str = "public", key: str | None = None) -> "AsyncClient":
        """Return the Supabase client of a schema and API key (by default the project's secret key).

        Do not sign users in with it: all callers share its Authorization header. Raises `SettingError`
        without ``SUPABASE_URL`` or a key.
        """
        clients = cast("SupabaseClients | None", self._made("supabase"))
        if clients is None:
            loop = asyncio.get_running_loop()
            clients = cast("SupabaseClients", await self._get(
                "supabase", _in_thread(_SUPABASE, lambda module: module.SupabaseClients(self._settings, loop))
            ))  # fmt: skip
        return clients.client(schema=schema, key=key)

    async def http(self) -> "aiohttp.ClientSession":
        """Return the aiohttp session for all other HTTP servers."""
        session = cast("HttpSession | None", self._made("http"))
        if session is None:

            async def make() -> Dependency:
                module = await asyncio.to_thread(_module, _HTTP)
                return cast(Dependency, module.HttpSession(self._settings))

            session = cast("HttpSession", await self._get("http", make))
        return session.client

    async def postgres(self) -> "asyncpg.Pool[asyncpg.Record]":
        """Return the asyncpg pool; raises `SettingError` without ``DATABASE_URL``."""
        database = cast("Database | None", self._made("database"))
        if database is None:

            async def make() -> Dependency:
                module = await asyncio.to_thread(_module, _DATABASE)
                return cast(Dependency, await module.Database(self._settings).open())

            database = cast("Database", await self._get("database", make))
        return database.client

    async def warm(self) -> None:
        """Make every client that is configured and installed, so that no request waits for it.

        Connects to nothing.
        """
        settings = self._settings
        wanted: list[Callable[[], Awaitable[object]]] = [self.http]
        if settings.openai_api_key is not None:
            wanted.append(self.openai)
        if settings.supabase_url is not None and settings.supabase_key is not None:
            wanted.append(self.supabase)
        if settings.database_url is not None:
            wanted.append(self.postgres)
        async with asyncio.TaskGroup() as group:
            for client in wanted:
                group.create_task(_made_if_installed(client))

    # --- health ---------------------------------------------------------------------------------

    async def get_stats(self) -> dict[str, object]:
        """Return the state of the pool and of each dependency; JSON-ready, no I/O, no secrets."""
        dependencies: dict[str, dict[str, object]] = {}
        errors, failing = 0, False
        for dependency in self._dependencies():
            report = dependency.vitals.report(in_flight=dependency.in_flight)
            errors += report.connection_errors
            failing |= report.state is State.FAILING
            name = dependency.name
            while name in dependencies:  # of another event loop
                name += "+"
            dependencies[name] = report.as_dict()
        clients = {
            kind: sum(dependency.clients for dependency in self._dependencies() if dependency.name == kind)
            for kind in ("supabase", "http", "openai", "openai_sync", "database")
        }
        return {
            "supabase_clients": clients["supabase"],
            "http_session_active": bool(clients["http"]),
            "openai_clients_ready": bool(clients["openai"] or clients["openai_sync"]),
            "connection_errors": errors,
            "status": "closed" if self._closed else "degraded" if failing else "healthy",
            "database_pool_active": bool(clients["database"]),
            "dependencies": dependencies,
        }

    async def cleanup(self) -> None:
        """Open new connections from now on, and reset errors and counts; requests in flight do not fail.

        The clients stay the same objects, so code that holds one can go on using it.
        """
        for dependency in self._dependencies():
            await dependency.renew()
            dependency.vitals.reset()

    # --- life -----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for requests in flight (at most ``pool_shutdown`` seconds), then close the youngest first.

        Safe at any moment and more than once. From its start on, asking for a client raises `PoolClosed`.
        """
        with self._lock:
            self._closed = True
        try:
            await self._loops.close()
        finally:
            clients = self._sync
            if clients is not None:
                await clients.close(timeout=self._settings.pool_shutdown)
                self._sync = None

    async def __aenter__(self) -> Self:
        if self._closed:
            raise PoolClosed(CLOSED)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def after_fork(self) -> object:
        """Start in a forked child with a new lock and no client; see `unstale.runtime.fork.Forgets`."""
        inherited, self._sync, self._lock = self._sync, None, threading.Lock()
        return inherited

    # --- inside ---------------------------------------------------------------------------------

    def _made(self, name: str) -> Dependency | None:
        clients = self._loops.peek()
        return None if clients is None else clients.made(name)

    async def _get(self, name: str, make: Callable[[], Awaitable[Dependency]]) -> Dependency:
        if self._closed:
            raise PoolClosed(CLOSED)
        return await (await self._loops.get()).get(name, make)

    def _open_loop(self) -> LoopClients:
        if self._closed:  # meanwhile, by another thread
            raise PoolClosed(CLOSED)
        return LoopClients(self._settings)

    def _dependencies(self) -> list[Dependency]:
        found = [dependency for clients in self._loops.opened() for dependency in clients.all()]
        sync = self._sync
        if sync is not None and sync.alive:
            found.append(sync)
        return found

    def __repr__(self) -> str:
        names = ", ".join(sorted({dependency.name for dependency in self._dependencies()}))
        return f"<ConnectionPool {'closed' if self._closed else names or 'nothing made yet'}>"


def _module(name: str) -> Any:
    """Import the module of a client; raises `MissingExtra`."""
    with needs("companion", what="ConnectionPool"):
        return import_module(name)


def _in_thread(module: str, make: Callable[[Any], Dependency]) -> Callable[[], Awaitable[Dependency]]:
    """Import and make in a thread: the first import takes up to a second and would block the loop."""

    async def made() -> Dependency:
        return await asyncio.to_thread(lambda: make(_module(module)))

    return made


async def _made_if_installed(client: Callable[[], Awaitable[object]]) -> None:
    """Make a client, if its packages are installed.

    A worker without the extra ``companion`` may have ``OPENAI_API_KEY`` in its environment, and no loader
    that uses the client.
    """
    with suppress(MissingExtra):
        await client()
