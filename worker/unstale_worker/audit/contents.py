"""Contents of Redis at one moment: keys, and the state that says what they contain."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.protocol.key_watches import file_hash
from unstale.protocol.names import Names
from unstale_worker.redis.applier import unavailable
from unstale_worker.redis.state import Standing, StoredState, standing


@dataclass(frozen=True, slots=True)
class Contents:
    """One atomic reading of Redis.

    Attributes:
        state: The worker's state. Its position holds every transaction whose keys were removed before.
        now_ms: Clock of Redis, in milliseconds since 1970.
        read_at_ms: By the same clock: the worker claims that everything committed before is applied.
        values: Content of each key that exists and is a string.
    """

    state: StoredState
    now_ms: float
    read_at_ms: float | None
    values: dict[str, bytes]

    def refusal(self, rules: str) -> str | None:
        """Return why nothing can be said about values now, or None."""
        stored = self.state.rules
        match standing(self.state, rules=stored if file_hash(stored) == rules else rules):
            case Standing.READY:
                return None
            case Standing.OTHER_RULES:
                return "the worker has other rules than this file, or is putting them in force"
            case _:
                return "no position in Redis: no worker has run, or it is dropping every key"

    @property
    def uncaptured(self) -> frozenset[str]:
        """Tables whose keys the worker invalidates again and again, because their captures are missing."""
        try:
            return frozenset(json.loads(self.state.broken or "[]"))
        except (ValueError, TypeError):
            return frozenset()

    @property
    def promised(self) -> float | None:
        """Staleness in seconds that the worker's last watermark promises now; None if there is none."""
        return None if self.read_at_ms is None else max(0.0, self.now_ms - self.read_at_ms) / 1000


async def read_contents(redis: Redis, names: Names, keys: Sequence[str] = ()) -> Contents:
    """Read the state and ``keys`` in one transaction; raises `RedisUnavailable`."""
    try:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(names.state)
            pipe.time()
            if keys:
                pipe.mget(list(map(names.stored, keys)))
            replies: list[Any] = await pipe.execute()
    except RedisError as error:
        raise unavailable(error) from error
    fields: dict[bytes, bytes] = replies[0]
    seconds, micros = replies[1]
    found = replies[2] if keys else ()
    flat = [part for pair in fields.items() for part in pair]
    return Contents(
        # The run of the server does not matter: a promoted replica has the position of the values it has.
        StoredState.read(fields.get(b"run", b""), flat),
        seconds * 1000 + micros / 1000,
        _number(fields.get(b"read_at")),
        {key: value for key, value in zip(keys, found, strict=True) if value is not None},
    )


def _number(text: bytes | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
