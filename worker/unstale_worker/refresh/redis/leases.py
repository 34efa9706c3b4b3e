"""Leases of refreshes: acquire one for a key, then fill the key, count a failure or give the lease up."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

import orjson

from unstale.protocol import codec
from unstale.protocol.key_watches import file_hash
from unstale.protocol.names import SOFT_LEASE, Names
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Argument, Script
from unstale_worker.refresh.redis.calls import RedisCalls, milliseconds
from unstale_worker.refresh.redis.refresh_set import VISIBILITY

ACQUIRE: Final = Script("unstale_worker.refresh.redis", "refresh_acquire", allow_oom=False)
EXTEND: Final = Script("unstale_worker.refresh.redis", "refresh_extend")
FILL: Final = Script("unstale_worker.refresh.redis", "refresh_fill", allow_oom=False)
RELEASE: Final = Script("unstale_worker.refresh.redis", "refresh_release")
FAILED: Final = Script("unstale_worker.refresh.redis", "refresh_failed")
LEAVE: Final = Script("unstale_worker.refresh.redis", "refresh_leave")
NOTE: Final = Script("unstale_worker.refresh.redis", "refresh_note")
REARM: Final = Script("unstale_worker.refresh.redis", "refresh_rearm", allow_oom=False)

LEASES_MOST: Final = 1_000
"""Keys whose lease one script acquires, extends or gives up: about a millisecond of the server's time."""
FILL_BYTES: Final = 512 * 1024
"""Bytes of values in one fill script."""
FILL_KEYS: Final = 500
"""Keys in one fill script: each needs three names, and Redis runs nothing else meanwhile."""
WITHOUT_EPOCH: Final = 0.5
"""Seconds until a key is due again while there is no live epoch: nothing may be stored then."""
HELD_MOST: Final = 1.0
"""Seconds, at most, until a key whose lease another loader holds is due again."""
FAILURES_KEPT: Final = 3_600.0
"""Seconds for which failures in a row are counted together."""
MOST_DEAD_LETTERS: Final = 10_000
"""Dead letters kept; one more removes another."""


class Acquired(Enum):
    """Result of trying to acquire a key's lease."""

    YES = auto()
    UNWANTED = auto()
    """A value stands there, or the key left the refresh set: nothing is to be done."""
    LATER = auto()
    """Another loader holds the lease, or nothing may be stored now: the key is due again."""


class Value(NamedTuple):
    """A value to store.

    Attributes:
        key: Its key.
        data: Its JSON.
        seconds: Seconds to live.
        spare: Seconds that its spare value lives longer; 0: it has none.
        fingerprint: Fingerprint of its inputs; '' if there is none.
        noted: Seconds for which that is needed.
        tokens: Tokens of prompts and of answers that it cost.
    """

    key: str
    data: bytes
    seconds: float
    spare: float = 0.0
    fingerprint: str = ""
    noted: float = 0.0
    tokens: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Failure:
    """Result of a failed refresh.

    Attributes:
        attempts: Failures in a row, this one included.
        dead: True after the last attempt: the key is a dead letter now, and stays invalidated.
        pause: Seconds until the next attempt; None if there is none.
    """

    attempts: int
    dead: bool
    pause: float | None


def new_lease() -> bytes:
    """Return a fresh lease; the same one may stand at every key of a batch."""
    return codec.lease(secrets.token_hex(12))


class Leases(RedisCalls):
    """Leases of refreshes, and what ends them.

    Leases are acquired and values stored only while the rules with the hash ``rules`` are in force. Every
    method raises `RedisUnavailable`; each script is one atomic step and may be repeated after a lost reply.

    Example:
        >>> lease = new_lease()
        >>> if await leases.acquire(["user:42:name"], lease) == [Acquired.YES]:
        ...     await leases.fill([("user:42:name", b'"Ada"', 3600.0)], lease)
    """

    def __init__(self, multiplexer: Multiplexer, names: Names, *, lease_ttl: float, rules: str) -> None:
        super().__init__(multiplexer, names)
        self._lease_ttl, self._rules = lease_ttl, rules

    @property
    def extend_every(self) -> float:
        """Seconds between two extensions of a lease: two may be lost."""
        return self._lease_ttl / 3

    async def in_force(self) -> bool:
        """Return True if these rules are the leader's, or if there was no leader yet."""
        found = await self._command("HGET", self._names.state, "rules")
        return found is None or file_hash(found.decode("utf-8", "replace")) == self._rules

    async def acquire(self, keys: Sequence[str], lease: bytes) -> list[Acquired]:
        """Acquire the leases of claimed keys; read the database only after this.

        A lease can be acquired at a key that is absent, and at one that holds a soft lease.
        """
        results: list[Acquired] = []
        keys = list(map(self._names.stored, keys))
        for start in range(0, len(keys), LEASES_MOST):
            chunk = keys[start : start + LEASES_MOST]
            reply = await self._run(
                ACQUIRE,
                [self._names.refresh, self._names.state, *chunk],
                [
                    lease, milliseconds(self._lease_ttl), SOFT_LEASE, SOFT_LEASE[:1],
                    milliseconds(WITHOUT_EPOCH), milliseconds(HELD_MOST), self._rules,
                ],
            )  # fmt: skip
            # An agent filled it that knew of no stale value, which would be served once the fill expires.
            filled = [key for key, code in zip(chunk, reply, strict=True) if code == 2]
            if filled:
                await self._command("UNLINK", *map(self._names.stale, filled))
            results += (
                Acquired.YES if code == 1 else Acquired.LATER if code < 0 else Acquired.UNWANTED
                for code in reply
            )
        return results

    async def extend(self, keys: Sequence[str], lease: bytes, *, visibility: float = VISIBILITY) -> int:
        """Extend leases, and make their keys due in ``visibility`` seconds; returns how many still stand."""
        standing = 0
        keys = list(map(self._names.stored, keys))
        for start in range(0, len(keys), LEASES_MOST):
            standing += await self._run(
                EXTEND,
                [self._names.refresh, *keys[start : start + LEASES_MOST]],
                [lease, milliseconds(self._lease_ttl), milliseconds(visibility)],
            )
        return standing

    async def postpone(self, keys: Sequence[str], *, seconds: float, lease: bytes = b"") -> None:
        """Make keys due again in ``seconds``, and give up ``lease`` where it stands."""
        keys = list(map(self._names.stored, keys))
        for start in range(0, len(keys), LEASES_MOST):
            chunk = keys[start : start + LEASES_MOST]
            await self._run(RELEASE, [self._names.refresh, *chunk], [lease or b"\x00", milliseconds(seconds)])

    async def fill(self, values: Sequence[Value], lease: bytes, *, again: float = 0.0) -> int:
        """Store values where ``lease`` stands; returns how many were stored.

        Where it does not stand, the key was invalidated meanwhile: it is due again in ``again`` seconds.
        """
        names, stored = self._names, 0
        for chunk in _chunks(values):
            keys = [names.refresh, names.dead_letters, names.refresh_counts, names.state]
            arguments: list[Argument] = [lease, milliseconds(again), self._rules]
            for each in chunk:
                key = names.stored(each.key)
                keys += (key, names.stale(key), names.refresh_failures(key), names.spare(key))
                keys.append(names.inputs(key))
                arguments += (each.data, max(1, milliseconds(each.seconds)), milliseconds(each.spare))
                arguments += (each.fingerprint, max(1, milliseconds(each.noted)), *each.tokens)
            stored += sum(await self._run(FILL, keys, arguments))
        return stored

    async def fingerprint(self, key: str) -> str | None:
        """Return the fingerprint of the inputs of the newest refreshed value, if there is one."""
        found = await self._command("GET", self._names.inputs(self._names.stored(key)))
        return None if found is None else bytes(found).partition(b"\n")[0].decode("ascii", "replace")

    async def store_again(
        self,
        given: str,
        lease: bytes,
        *,
        fingerprint: str,
        seconds: float,
        serve_stale: float,
        spare: float,
        pattern: str,
    ) -> tuple[int, int] | None:
        """Store the kept value of a key again where ``lease`` stands, if it has this fingerprint.

        It lives as long as it was stored for, and at most for ``seconds``. Returns the tokens of prompt and
        answer that the call for it cost; None if the loader has to be called.
        """
        names = self._names
        key = names.stored(given)
        stored, tokens_in, tokens_out = await self._run(
            REARM,
            [
                *(names.refresh, names.dead_letters, names.refresh_counts, names.state, key),
                *(names.stale(key), names.refresh_failures(key), names.spare(key), names.inputs(key)),
            ],
            [
                *(lease, self._rules, fingerprint),
                *(max(1, milliseconds(seconds)), milliseconds(serve_stale), milliseconds(spare), pattern),
            ],
        )
        return (int(tokens_in), int(tokens_out)) if stored else None

    async def leave(self, given: str, lease: bytes) -> None:
        """End a refresh without a value: the next reader of the key loads it."""
        names, key = self._names, self._names.stored(given)
        keys = [names.refresh, key, names.stale(key), names.refresh_failures(key)]
        await self._run(LEAVE, keys, [lease])

    async def note(self, pattern: str, **numbers: int) -> None:
        """Add to totals of one refresh, over all processes."""
        arguments: list[Argument] = []
        for name, number in numbers.items():
            arguments += (f"{name}:{pattern}", number)
        await self._run(NOTE, [self._names.refresh_counts], arguments)

    async def failed(
        self, key: str, lease: bytes, *, pattern: str, error: str, attempts: int, first: float, most: float
    ) -> Failure | None:
        """Count a failure: the key is due again after a pause, or a dead letter. None: it is not wanted now.

        Args:
            key: The key.
            lease: The lease that the failed refresh held; given up if it stands.
            pattern: The refresh as the rules name it, for the dead letter.
            error: What went wrong, without values.
            attempts: Failures in a row after which the key is a dead letter.
            first: Seconds before the second attempt; doubles with each one.
            most: Longest pause in seconds.
        """
        names = self._names
        letter = orjson.dumps({"key": key, "pattern": pattern, "error": error[:500]})[:-1]
        key = names.stored(key)
        reply = await self._run(
            FAILED,
            [
                names.refresh, names.dead_letters, names.refresh_counts,
                key, names.stale(key), names.refresh_failures(key),
            ],
            [
                lease, attempts, milliseconds(first), milliseconds(most), milliseconds(FAILURES_KEPT),
                letter, MOST_DEAD_LETTERS,
            ],
        )  # fmt: skip
        count, pause = int(reply[0]), int(reply[1])
        if pause == -2:
            return None
        return Failure(count, pause == -1, pause / 1000 if pause >= 0 else None)


def _chunks(values: Sequence[Value]) -> list[list[Value]]:
    chunks: list[list[Value]] = []
    size = FILL_BYTES
    for value in values:
        size += len(value.data)
        if size > FILL_BYTES or len(chunks[-1]) == FILL_KEYS:
            chunks.append([])
            size = len(value.data)
        chunks[-1].append(value)
    return chunks
