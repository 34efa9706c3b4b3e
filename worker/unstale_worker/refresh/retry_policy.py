"""How often and how fast a failing refresh is attempted again."""

from dataclasses import dataclass
from typing import Final

import structlog

from unstale.settings import WorkerSettings
from unstale_worker.refresh.redis.refresh_set import Failure, RefreshQueue
from unstale_worker.rules.refresh import RefreshSpec

LONGEST: Final = 60.0
"""Seconds between two attempts at most, unless the first pause is longer."""

log = structlog.get_logger("unstale.refresh")


@dataclass(frozen=True, slots=True)
class Attempts:
    """The policy of every loader.

    Attributes:
        most: Failures in a row after which a key is a dead letter.
        first: Seconds before the second attempt; doubles with each one.
        longest: Most seconds between two attempts.
    """

    most: int
    first: float
    longest: float

    @classmethod
    def of(cls, settings: WorkerSettings) -> "Attempts":
        """What the settings say."""
        first = settings.refresh_backoff
        return cls(settings.refresh_attempts, first, max(LONGEST, first))

    async def failed(
        self, queue: RefreshQueue, spec: RefreshSpec, key: str, lease: bytes, error: str, *, alike: int = 0
    ) -> Failure | None:
        """Count a failure and say so in the log; raises `RedisUnavailable`.

        ``alike`` failures for the same reason were told of a moment before: this one is only counted.
        """
        pattern = spec.template.text
        failure = await queue.failed(
            key, lease, pattern=pattern, error=error, attempts=self.most, first=self.first, most=self.longest
        )
        if failure is None or alike:
            return failure
        if failure.dead:
            log.error(
                "a refresh failed for good; its key stays invalidated (unstale dead-letters)",
                key=key, refresh=pattern, error=error, attempts=failure.attempts,
            )  # fmt: skip
        else:
            log.warning(
                "a refresh failed and is attempted again",
                key=key, refresh=pattern, error=error, attempts=failure.attempts, seconds=failure.pause,
            )  # fmt: skip
        return failure
