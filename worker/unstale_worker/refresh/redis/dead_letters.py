"""Shows, retries and drops the keys whose refresh failed for good."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.protocol.names import Names
from unstale.redis_tier.scripts import Script
from unstale_worker.redis.applier import unavailable

RETRY: Final = Script("unstale_worker.refresh.redis", "refresh_retry")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A key whose refresh failed for good; it stays invalidated until it is read or changes.

    Attributes:
        key: The key.
        pattern: Its refresh, as the rules name it.
        error: What the last attempt failed with.
        attempts: Failures in a row.
        at: Time of the last failure, in seconds since 1970 by Redis' clock.
    """

    key: str
    pattern: str
    error: str
    attempts: int
    at: float

    def as_dict(self) -> dict[str, object]:
        """Return what `json.dumps` accepts."""
        return asdict(self)

    def line(self) -> str:
        """Return one line of text."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.at))
        return f"{self.key}  {when} UTC, after {self.attempts} attempts: {self.error}"


async def list_dead(redis: Redis, names: Names) -> list[DeadLetter]:
    """Return all dead letters, the newest first; raises `RedisUnavailable`."""
    try:
        found: dict[Any, Any] = await redis.hgetall(names.dead_letters)
    except RedisError as error:
        raise unavailable(error) from error
    letters = [_read(names.key_of(key.decode("utf-8", "replace")), data) for key, data in found.items()]
    return sorted(letters, key=lambda letter: (-letter.at, letter.key))


async def retry_dead(redis: Redis, names: Names, key: str) -> bool:
    """Retry the refresh of ``key``, with all its attempts; returns False if it is not a dead letter."""
    key = names.stored(key)
    keys = [names.refresh, names.dead_letters, names.refresh_failures(key)]
    try:
        reply: Any = await RETRY(redis, keys=keys, args=[key])
    except RedisError as error:
        raise unavailable(error) from error
    return bool(reply)


async def drop_dead(redis: Redis, names: Names, key: str) -> bool:
    """Remove a dead letter; its next change queues it again. Returns False if there is none."""
    try:
        return bool(await redis.hdel(names.dead_letters, names.stored(key)))
    except RedisError as error:
        raise unavailable(error) from error


def _read(key: str, data: bytes) -> DeadLetter:
    """Decode a dead letter; what something else wrote there is shown as far as it can be read."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = None
    letter: dict[str, Any] = found if isinstance(found, dict) else {}
    attempts, at = letter.get("attempts"), letter.get("at")
    return DeadLetter(
        key=key,
        pattern=str(letter.get("pattern", "")),
        error=str(letter.get("error", "cannot be read")),
        attempts=attempts if isinstance(attempts, int) else 0,
        at=at / 1000 if isinstance(at, int | float) else 0.0,
    )
