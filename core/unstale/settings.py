"""Every knob, once, with one default; read from the environment and ``.env`` only here.

The seed's names (``REDIS_URL``, ``SUPABASE_URL`` …) are kept; everything else begins with ``UNSTALE_``.
An argument beats the environment, which beats ``.env``. Secrets print as ``**********``.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from unstale.errors import SettingError
from unstale.protocol.names import Names
from unstale.runtime.failpoints import ENVIRONMENT as FAILPOINTS

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """What agents and worker can be told.

    Example:
        >>> Settings.load(redis_url="redis://127.0.0.1:6380/0").max_silence
        5.0
    """

    model_config = SettingsConfigDict(
        env_prefix="UNSTALE_", env_file=".env", extra="ignore", frozen=True, populate_by_name=True,
        hide_input_in_errors=True,
    )  # fmt: skip

    # --- the seed's names -----------------------------------------------------------------------
    redis_url: SecretStr = Field(SecretStr("redis://localhost:6379/0"), validation_alias="REDIS_URL")
    """Where Redis or Valkey listens, or the sentinels that know."""
    redis_enabled: bool = Field(True, validation_alias="REDIS_ENABLED")
    """False: no Redis tier at all; every process loads for itself and keeps values for `detached_ttl`; with
    `embedded_worker` for as long as they are true."""
    database_url: SecretStr | None = Field(
        None, validation_alias=AliasChoices("DATABASE_URL", "SUPABASE_DB_URL")
    )
    """The Postgres that holds the outbox; only a worker needs it, also an embedded one."""
    supabase_url: str | None = Field(None, validation_alias="SUPABASE_URL")
    """The project's URL."""
    supabase_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
    )
    """A secret (``sb_secret_…``) or ``service_role`` key; never decoded, never logged."""
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    """Key of the OpenAI API."""
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    """Where the OpenAI API is; unset: OpenAI's own address."""

    # --- both sides -----------------------------------------------------------------------------
    namespace: str = "unstale"
    """First part of unstale's own Redis keys; two systems on one Redis need two."""
    redis_timeout: Seconds = 1.0
    """Seconds to wait for a Redis connection or reply before it counts as unavailable."""
    log: Literal["debug", "info", "warning", "error"] = "info"
    """What the worker's log says at least; the core logs through the standard library as ``unstale``."""
    log_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 32 * 1024 * 1024
    """Bytes the log may hold; an agent away for longer than it reaches back drops its near cache."""

    # --- agents ---------------------------------------------------------------------------------
    near_max_entries: Annotated[int, Field(ge=0)] = 10_000
    """Most values in the near cache; 0 switches it off."""
    near_max_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    """Most bytes of encoded values in the near cache."""
    default_ttl: Seconds = 60.0
    """Seconds a value lives that no ``[ttl]`` pattern and no ``ttl=`` names."""
    negative_ttl: Seconds | None = None
    """Most seconds a value that is None ("not found") lives; unset: as long as any other value."""
    ttl_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share by which a TTL is shortened at random, so that values do not expire together."""
    lease_ttl: Seconds = 3.0
    """Seconds a lease lives; extended every third of it while the loader runs."""
    max_silence: Seconds = 5.0
    """Seconds without a PONG or a watermark after which an agent is detached."""
    detached_ttl: Seconds = 30.0
    """Seconds detached after which Redis is not trusted either, and how long own loads are kept then."""

    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the cache hits of `get_or_load` whose loader runs all the same, to compare; 0: none."""
    embedded_worker: bool = False
    """Without Redis: follow the outbox inside this process, from `source`. With Redis: no effect. Where
    neither `redis_url` nor `redis_enabled` is given, it means: without Redis."""

    # --- the connection pool --------------------------------------------------------------------
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
    pool_health_interval: Annotated[float, Field(ge=0.05, le=3_600)] = 30.0
    """Seconds between two health checks of what is in use, give or take a fifth."""
    pool_shutdown: Seconds = 10.0
    """Seconds that closing the pool waits for requests in flight before it cuts them off."""

    # --- worker ---------------------------------------------------------------------------------
    source: Literal["auto", "outbox", "supabase"] = "auto"
    """Where changes come from: ``outbox`` over asyncpg, ``supabase`` over HTTPS, ``auto``: the best."""
    config: Path | None = None
    """The rules file; unset: ``unstale.toml`` or ``[tool.unstale]`` of ``pyproject.toml`` here or above."""
    read_entries: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """Most outbox entries in one read."""
    script_keys: Annotated[int, Field(ge=1, le=5_000)] = 1_000
    """Most keys one applier script removes; larger ones hold Redis up for longer."""
    poll_min: Annotated[float, Field(ge=0.0005, le=1)] = 0.0005
    """Seconds between two reads while changes come in without a wake-up; below 0.001 there is no pause."""
    poll_max: Annotated[float, Field(ge=0.01, le=10)] = 0.25
    """Seconds that the pause between two reads doubles up to while nothing is found."""
    watermark_interval: Annotated[float, Field(ge=0.05, le=1.0)] = 0.5
    """Seconds between two watermarks when nothing changes."""
    leader_ttl: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """Seconds the leader's lease lives; a standby takes over this long after a crash."""
    database_timeout: Seconds = 10.0
    """Seconds to wait for a Postgres connection or statement."""
    retention: Annotated[float, Field(ge=60, le=30 * 86_400)] = 3_600.0
    """Seconds an outbox entry is kept, read or not."""
    outbox_max_rows: Annotated[int, Field(ge=1_000)] = 10_000_000
    """Most rows in the outbox, which protects the disk when no worker runs."""
    refresh_connections: Annotated[int, Field(ge=1, le=100)] = 2
    """Most Postgres sessions in which the leader runs ``row`` and ``sql`` loaders."""
    refresh_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Most Python loaders that run at once in one process; a refresh's ``concurrency`` holds over all."""
    refresh_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Failures in a row after which a key is a dead letter; until it changes again it stays invalidated."""
    refresh_backoff: Annotated[float, Field(ge=0.01, le=3_600)] = 1.0
    """Seconds before a failed refresh is attempted again; doubles with each failure, up to a minute."""
    refresh_takeover: Annotated[float, Field(ge=1, le=3_600)] = 5.0
    """Seconds after which a refresh worker that is silent counts as dead and its work is another's."""
    refresh_grace: Annotated[float, Field(ge=0, le=3_600)] = 10.0
    """Seconds that running loaders get to end when a refresh worker is stopped."""
    http_host: str = "127.0.0.1"
    """Address of ``/healthz``, ``/readyz`` and ``/metrics``."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8787
    """Port of them; 0 takes a free one."""
    http_token: SecretStr | None = None
    """Bearer token that every HTTP request must carry; required when `http_host` is not loopback."""

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        Names(self.namespace)
        if self.watermark_interval * 2 > self.max_silence:
            raise ValueError(
                f"max_silence is {self.max_silence} s: it must be at least twice watermark_interval "
                f"({self.watermark_interval} s), or agents detach while all is well"
            )
        if self.leader_ttl >= self.max_silence:
            raise ValueError(
                f"leader_ttl is {self.leader_ttl} s: it must be below max_silence ({self.max_silence} s), "
                "or agents detach at every takeover"
            )
        if self.http_host not in ("127.0.0.1", "::1", "localhost") and self.http_token is None:
            raise ValueError(
                f"http_host is {self.http_host!r}: beyond loopback UNSTALE_HTTP_TOKEN is required"
            )
        if self.embedded_worker and not self.uses_redis and self.poll_max * 2 > self.max_silence:
            raise ValueError(
                f"max_silence is {self.max_silence} s: an embedded worker needs at least twice poll_max "
                f"({self.poll_max} s), or the near cache is not trusted while all is well"
            )
        if self.poll_min > self.poll_max:
            raise ValueError(f"poll_min ({self.poll_min} s) is above poll_max ({self.poll_max} s)")
        return self

    @classmethod
    def load(cls, **arguments: Any) -> "Settings":
        """Read arguments, environment and ``.env``; raises `SettingError` naming variable and bound."""
        try:
            return cls(**arguments)
        except ValidationError as error:
            raise SettingError("\n".join(_sentence(item) for item in error.errors())) from None

    @property
    def uses_redis(self) -> bool:
        """Whether there is a Redis tier: `redis_enabled`, unless all that is said is `embedded_worker`."""
        said = not self.model_fields_set.isdisjoint({"redis_url", "redis_enabled"})
        return self.redis_enabled and (said or not self.embedded_worker)

    @property
    def names(self) -> Names:
        """The Redis keys of this namespace."""
        return Names(self.namespace)


def environment_name(field: str) -> str:
    """The variable that sets ``field``: ``REDIS_URL`` for ``redis_url``, else ``UNSTALE_…``."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return str(alias) if alias else f"UNSTALE_{field.upper()}"


def unknown_variables() -> list[str]:
    """What begins with ``UNSTALE_`` in the environment or ``.env`` and is no setting: a slip of the pen."""
    from dotenv import dotenv_values

    known = {*map(environment_name, Settings.model_fields), FAILPOINTS}
    given = {*os.environ, *dotenv_values(".env")}
    return sorted(name for name in given if name.upper().startswith("UNSTALE_") and name.upper() not in known)


def _sentence(item: Any) -> str:
    where = ".".join(map(str, item["loc"]))
    if where in Settings.model_fields:
        where = environment_name(where)
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
