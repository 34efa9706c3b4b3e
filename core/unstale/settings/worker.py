"""Settings of the worker and of the command line."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from unstale.settings.base import AnyDuration
from unstale.settings.pools import PoolSettings
from unstale.settings.shared import OutboxSettings, SharedSettings


class WorkerSettings(SharedSettings, OutboxSettings, PoolSettings):
    """Settings of ``unstale worker`` and of the other commands."""

    reader: ClassVar[str] = "the worker"
    how: ClassVar[str] = "set {variable} for `unstale worker`"

    log: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the worker's log; the core logs through the standard library as ``unstale``."""
    former_rules: Annotated[AnyDuration, Field(ge=0, le=7 * 86_400)] = 86_400.0
    """Most seconds for which watches that the rules file lacks by now are still applied, for agents that use
    them; 0: they end at once."""
    script_keys: Annotated[int, Field(ge=1, le=5_000)] = 1_000
    """Most keys one applier script removes; a larger script blocks Redis for longer."""
    refresh_connections: Annotated[int, Field(ge=1, le=100)] = 2
    """Most Postgres sessions in which the leader runs ``row`` and ``sql`` loaders."""
    refresh_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Most Python loaders that run at once in one process; a refresh's ``concurrency`` holds over all."""
    refresh_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Failures in a row after which a key is a dead letter; until it changes again it stays invalidated."""
    refresh_backoff: Annotated[AnyDuration, Field(ge=0.01, le=3_600)] = 1.0
    """Seconds before a failed refresh is attempted again; doubles with each failure, up to a minute."""
    refresh_takeover: Annotated[AnyDuration, Field(ge=1, le=3_600)] = 5.0
    """Seconds after which a silent refresh worker counts as dead and another takes over its work."""
    refresh_grace: Annotated[AnyDuration, Field(ge=0, le=3_600)] = 10.0
    """Seconds that running loaders get to end when a refresh worker is stopped."""
    http_host: str = "127.0.0.1"
    """Address of ``/healthz``, ``/readyz``, ``/metrics`` and the page."""
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8787
    """Port of these; 0 takes a free one."""
    http_token: SecretStr | None = None
    """Bearer token that every HTTP request must carry; required when `http_host` is not loopback."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.http_host not in ("127.0.0.1", "::1", "localhost") and self.http_token is None:
            raise ValueError(
                f"http_host is {self.http_host!r}: beyond loopback UNSTALE_HTTP_TOKEN is required"
            )
        return self
