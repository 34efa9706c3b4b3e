"""Settings of a connection pool."""

from typing import Annotated, ClassVar

from pydantic import Field, SecretStr

from unstale.settings.base import AnyDuration, Count, Seconds, Variables
from unstale.settings.shared import DatabaseSettings


class PoolSettings(DatabaseSettings):
    """Settings of `unstale.ConnectionPool`; the worker has them, too, for the loaders that it calls."""

    reader: ClassVar[str] = "connection pools"
    how: ClassVar[str] = "give it to ConnectionPool.from_env({field}=...), or set {variable}"

    openai_api_key: Annotated[SecretStr | None, Variables("OPENAI_API_KEY")] = None
    """Key of the OpenAI API."""
    openai_base_url: Annotated[str | None, Variables("OPENAI_BASE_URL"), Field(repr=False)] = None
    """Address of the OpenAI API; unset: OpenAI's own address."""
    pool_connections: Count = 100
    """Most connections of one HTTP client (OpenAI, Supabase, the HTTP session); each has its own."""
    pool_connections_per_host: Count = 30
    """Most connections of the HTTP session to one host."""
    pool_dns_ttl: Seconds = 300.0
    """Seconds the HTTP session remembers an address."""
    pool_keepalive: Seconds = 50.0
    """Seconds an idle HTTP connection is kept; below the 60 s after which many servers close theirs."""
    pool_database_connections: Count = 10
    """Most connections of the Postgres pool; the first is opened by the first query."""
    pool_health_interval: Annotated[AnyDuration, Field(ge=0.05, le=3_600)] = 30.0
    """Seconds between two health checks of the clients in use, give or take a fifth."""
    pool_shutdown: Seconds = 10.0
    """Seconds that closing the pool waits for requests in flight before it cuts them off."""
    learn: str | None = None
    """Folder in which the statements of loaders are recorded; set by `unstale learn`, never in production."""
