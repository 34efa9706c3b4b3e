"""The asyncpg pool of one event loop."""

import asyncio
import configparser
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from unstale.companion.pools.postgres_refusal import refusal
from unstale.companion.pools.vitals import Vitals
from unstale.companion.recording.recorder import current
from unstale.errors import DatabaseRefused, SettingError
from unstale.runtime.postgres_url import PostgresUrl
from unstale.runtime.tls import postgres_tls
from unstale.settings import PoolSettings

TRANSACTION_POOLER_PORT: Final = 6543
"""Port of Supabase's transaction poolers: statements prepared on one connection are lost on the next."""
APPLICATION_NAME: Final = "unstale-agent"


class Database:
    """A pool that opens its first connection for its first query."""

    name = "database"
    clients = 1

    def __init__(self, settings: PoolSettings) -> None:
        if settings.database_url is None:
            raise SettingError(
                "DATABASE_URL (or SUPABASE_DB_URL) is not set: the pool's Postgres pool needs it"
            )
        self._url = PostgresUrl.parse(settings.database_url.get_secret_value())
        dsn = self._url.dsn
        self.vitals = Vitals()
        self._timeout = settings.database_timeout
        self._learn = settings.learn
        self.client: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=settings.pool_database_connections,
            connect=self._connect,
            timeout=settings.database_timeout,
            command_timeout=settings.database_timeout,
            statement_cache_size=0 if _port(dsn) == TRANSACTION_POOLER_PORT else 100,
            server_settings={"application_name": APPLICATION_NAME},
            ssl=postgres_tls(dsn),
        )

    async def open(self) -> "Database":
        """Initialize the pool; connects to nothing."""
        await self.client
        return self

    @property
    def alive(self) -> bool:
        return not self.client.is_closing()

    @property
    def in_flight(self) -> int:
        return self.client.get_size() - self.client.get_idle_size()

    async def check(self) -> None:
        began = self.vitals.began()
        try:
            await self.client.fetchval("select 1", timeout=self._timeout)
        except (asyncpg.PostgresError, OSError, TimeoutError, DatabaseRefused) as error:
            self.vitals.failed(error)
        else:
            self.vitals.answered(began)

    async def renew(self) -> None:
        await self.client.expire_connections()

    async def close(self, *, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self.client.close()
        except TimeoutError:
            self.client.terminate()

    async def _connect(self, *args: Any, **options: Any) -> Any:
        began = self.vitals.began()
        if (recorder := current(self._learn)) is not None:
            from unstale.companion.recording.connection import recording

            options["connection_class"] = recording(recorder)
        try:
            connection = await asyncpg.connect(*args, **options)
        except (asyncpg.PostgresError, OSError, ValueError, configparser.Error) as error:
            self.vitals.failed(error)
            refused = refusal(error, self._url)
            if refused is not None:
                raise refused from None  # the library's text may quote a part of the URL
            raise
        self.vitals.answered(began)
        return connection


def _port(dsn: str) -> int | None:
    try:
        return urlsplit(dsn).port
    except ValueError:
        return None
