"""Settings of a cache in an agent."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from unstale.settings.base import AnyDuration, LongSeconds, Seconds
from unstale.settings.environment import DOTENV
from unstale.settings.shared import OutboxSettings, SharedSettings


class AgentSettings(SharedSettings, OutboxSettings):
    """Settings of `unstale.Cache`.

    Those of `OutboxSettings` concern only a cache that follows the outbox itself (`embedded_worker`).

    Example:
        >>> Cache(AgentSettings(redis_url="redis://127.0.0.1:6380/0", max_silence=2.5))
    """

    reader: ClassVar[str] = "agents"
    how: ClassVar[str] = "give it to Cache.from_env({field}=...), or set {variable}"

    near_max_entries: Annotated[int, Field(ge=0)] = 10_000
    """Most values in the near cache; 0 switches it off."""
    near_max_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    """Most bytes of memory that the near cache takes: keys, values, and about 300 bytes for each entry."""
    large_value: Annotated[int, Field(ge=0)] = 1024 * 1024
    """A value with more bytes is warned of, once for each kind of key; 0: never."""
    detached_ttl: Seconds = 30.0
    """After this many seconds detached, Redis is no longer read; local loads are then kept this long."""
    soft_timeout: LongSeconds | None = None
    """Seconds of a load after which an older value is answered, as ``"300ms"`` too; unset: never."""
    stale_if_error: LongSeconds | None = None
    """Most seconds for which a failed load is answered with the last value, as ``"1h"`` too; unset: never."""
    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the cache hits of `get_or_load` whose loader runs all the same, to compare; 0: none."""
    agent_name: Annotated[str, Field(max_length=64)] | None = None
    """Name of this agent in its reports, such as ``web``; host and process are reported beside it."""
    report_interval: Annotated[AnyDuration, Field(ge=0, le=60)] = 10.0
    """Seconds between two reports of this agent to Redis, which `unstale agents` shows; 0: none."""

    @classmethod
    def from_env(cls, *, env_file: str | Path | None = DOTENV, **arguments: Any) -> Self:
        """As `Settings.from_env`. A setting of the embedded worker without one is a TypeError."""
        settings = super().from_env(env_file=env_file, **arguments)
        if not settings.embedded_worker:
            for name in arguments:
                if name in OutboxSettings.model_fields:
                    raise TypeError(
                        f"{name!r} is read by the worker and by an embedded worker only: set "
                        f"{cls.variables(name)[0]} for `unstale worker`, or add embedded_worker=True"
                    )
        return settings

    @model_validator(mode="after")
    def _trusted(self) -> Self:
        if self.embedded_worker and not self.uses_redis and self.poll_max * 2 > self.max_silence:
            raise ValueError(
                f"max_silence is {self.max_silence} s: an embedded worker needs at least twice poll_max "
                f"({self.poll_max} s), or the near cache is not trusted while all is well"
            )
        return self
