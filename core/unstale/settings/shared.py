"""Settings that several classes have in common, each defined once."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from unstale.errors import ConfigurationError
from unstale.protocol.names import Names
from unstale.protocol.partitions import MOST, Partitions
from unstale.protocol.value_keys import parse_keys, parse_scopes
from unstale.redis_tier.url import database_number, in_cluster
from unstale.runtime.postgres_url import PostgresUrl
from unstale.settings.base import AnyDuration, Seconds, Settings, Variables


class SharedSettings(Settings):
    """Settings that agents and worker share: the Redis between them, and the times of the protocol."""

    redis_url: Annotated[SecretStr, Variables("REDIS_URL")] = SecretStr("redis://localhost:6379/0")
    """Address of Redis or Valkey, of the Sentinels that know it, or of nodes of a cluster."""
    redis_enabled: Annotated[bool, Variables("REDIS_ENABLED")] = True
    """False: no Redis tier. Every process loads for itself and keeps values for `detached_ttl`; with
    `embedded_worker` it keeps them for as long as they are true."""
    embedded_worker: bool = False
    """Without Redis: follow the outbox inside each agent, from `source`. With Redis: no effect. If neither
    `redis_url` nor `redis_enabled` is given, it means: without Redis."""
    namespace: str = "unstale"
    """First part of unstale's own Redis keys. Worker and agents of one system need the same."""
    partitions: Annotated[int, Field(ge=1, le=MOST)] = 1
    """Partitions over which a cluster's nodes share the keys. Worker and agents need the same number."""
    redis_timeout: Seconds = 1.0
    """Seconds to wait for a Redis connection or reply before Redis counts as unavailable."""
    log_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 32 * 1024 * 1024
    """Bytes the log may hold; an agent away for longer than it reaches back drops its near cache."""
    default_ttl: Seconds = 60.0
    """Seconds a value lives that no ``[ttl]`` pattern and no ``ttl=`` names."""
    negative_ttl: Seconds | None = None
    """Most seconds a value that is None ("not found") lives; unset: as long as any other value."""
    ttl_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share by which a TTL is shortened at random, so that values do not expire together."""
    max_value_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024
    """A value with more bytes of JSON is returned to its reader, but stored nowhere; warned of once."""
    compress_above: Annotated[int, Field(ge=64)] | None = None
    """Values with more bytes of JSON are compressed with zstd in Redis (extra ``crypto``); unset: none."""
    value_keys: SecretStr | None = None
    """Keys that values in Redis are encrypted with, as ``ID:BASE64, …``: the first writes, all read."""
    value_key_function: str | None = None
    """Instead of `value_keys`: ``module:function`` that asks a KMS or a table for them."""
    value_key_users: str | None = None
    """Templates of keys that belong to one user, such as ``user:{user}:*``; each user has own keys."""
    lease_ttl: Seconds = 3.0
    """Seconds a lease lives; extended every third of it while the loader runs."""
    max_silence: Seconds = 5.0
    """Seconds without a PONG or a watermark after which an agent is detached."""
    watermark_interval: Annotated[AnyDuration, Field(ge=0.05, le=1.0)] = 0.5
    """Seconds between two watermarks when nothing changes."""
    otel: bool = False
    """Make spans and measure durations with OpenTelemetry: loads and first fresh reads, and refreshes."""
    leader_ttl: Annotated[AnyDuration, Field(ge=0.5, le=60)] = 2.0
    """Seconds the leader's lease lives; a standby takes over this long after a crash."""
    _partition: Names | None = PrivateAttr(None)

    @field_validator("value_keys")
    @classmethod
    def _readable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_keys(value.get_secret_value())
        return value

    @field_validator("value_key_users")
    @classmethod
    def _templates(cls, value: str | None) -> str | None:
        if value is not None:
            parse_scopes(value)
        return value

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> Self:
        if self.value_keys is not None and self.value_key_function is not None:
            raise ValueError(
                "UNSTALE_VALUE_KEYS and UNSTALE_VALUE_KEY_FUNCTION are both set: set one of them"
            )
        if self.value_key_users is not None and self.value_key_function is None:
            raise ValueError(
                "UNSTALE_VALUE_KEY_USERS needs UNSTALE_VALUE_KEY_FUNCTION, which knows the keys of each user"
            )
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        Names(self.namespace)
        if self.partitions > 1 and not in_cluster(self.redis_url.get_secret_value()):
            raise ValueError(
                f"UNSTALE_PARTITIONS is {self.partitions}, but REDIS_URL is not that of a cluster: one "
                "server has one partition. Add ?cluster=true to REDIS_URL if it names nodes of a cluster"
            )
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
        return self

    @property
    def uses_redis(self) -> bool:
        """True if there is a Redis tier: `redis_enabled`, unless only `embedded_worker` is given."""
        given = not self.model_fields_set.isdisjoint({"redis_url", "redis_enabled"})
        return self.redis_enabled and (given or not self.embedded_worker)

    @property
    def names(self) -> Names:
        """The Redis keys of this namespace in the database, or the cluster, that `redis_url` names.

        With several partitions, these are the leader's, which has no cached keys: see `in_partitions`.
        """
        if self._partition is not None:
            return self._partition
        url = self.redis_url.get_secret_value()
        if in_cluster(url):
            return Partitions(self.namespace, self.partitions).home
        return Names(self.namespace, database_number(url))

    @property
    def home(self) -> Names:
        """The names of the leader's lease in a cluster, which also holds the number of partitions."""
        return Partitions(self.namespace, self.partitions).home

    @property
    def in_partitions(self) -> tuple[Self, ...]:
        """These settings once for each partition, with its `names`; as they are if there is only one."""
        if self.partitions == 1 or self._partition is not None:
            return (self,)
        return tuple(self._in(names) for names in Partitions(self.namespace, self.partitions).names)

    def in_partition(self, key: str) -> Self:
        """Return these settings for the partition that has ``key``."""
        if self.partitions == 1 or self._partition is not None:
            return self
        return self._in(Partitions(self.namespace, self.partitions).of(key))

    def in_one_partition(self, what: str) -> Self:
        """Return these settings; raises `ConfigurationError` if ``what`` would miss other partitions."""
        if self.partitions > 1 and self._partition is None:
            raise ConfigurationError(
                f"{what} sees one partition only so far, and UNSTALE_PARTITIONS is {self.partitions}"
            )
        return self

    def _in(self, names: Names) -> Self:
        copy = self.model_copy()
        copy._partition = names
        return copy


class DatabaseSettings(Settings):
    """Settings of the way to the database, for a worker (also an embedded one) and connection pools."""

    database_url: Annotated[SecretStr | None, Variables("DATABASE_URL", "SUPABASE_DB_URL")] = None
    """The Postgres that holds the outbox; a cache needs it only with an embedded worker."""
    database_timeout: Seconds = 10.0
    """Seconds to wait for a Postgres connection or statement."""
    supabase_url: Annotated[str | None, Variables("SUPABASE_URL"), Field(repr=False)] = None
    """The project's URL."""
    supabase_key: Annotated[
        SecretStr | None, Variables("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
    ] = None
    """A secret (``sb_secret_…``) or ``service_role`` key; never decoded, never logged."""

    @property
    def postgres(self) -> PostgresUrl | None:
        """The parsed `database_url`, or None if it is not set; raises `SettingError`."""
        return None if self.database_url is None else PostgresUrl.parse(self.database_url.get_secret_value())


class OutboxSettings(DatabaseSettings):
    """Settings for following the outbox: for the worker and for an embedded worker."""

    source: Literal["auto", "outbox", "supabase"] = "auto"
    """Source of the changes: ``outbox`` over asyncpg, ``supabase`` over HTTPS, ``auto``: the best."""
    config: Path | None = None
    """The rules file; unset: ``unstale.toml`` or ``[tool.unstale]`` of ``pyproject.toml`` here or above."""
    read_entries: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """Most outbox entries in one read."""
    poll_min: Annotated[AnyDuration, Field(ge=0.0005, le=1)] = 0.0005
    """Seconds between two reads while changes come in without a wake-up; below 0.001 there is no pause."""
    poll_max: Annotated[AnyDuration, Field(ge=0.01, le=10)] = 0.25
    """Longest pause in seconds between two reads; the pause doubles up to it while nothing is found."""
    retention: Annotated[AnyDuration, Field(ge=60, le=30 * 86_400)] = 3_600.0
    """Seconds an outbox entry is kept, read or not."""
    outbox_max_rows: Annotated[int, Field(ge=1_000)] = 10_000_000
    """Most rows in the outbox, which protects the disk when no worker runs."""

    @model_validator(mode="after")
    def _polls(self) -> Self:
        if self.poll_min > self.poll_max:
            raise ValueError(f"poll_min ({self.poll_min} s) is above poll_max ({self.poll_max} s)")
        return self
