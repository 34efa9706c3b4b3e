"""The refresh set in Redis: what is due, who works on it, what came of it."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import orjson
from redis.exceptions import RedisError

from unstale.protocol import codec
from unstale.protocol.names import SOFT_LEASE, Names
from unstale.redis_tier.multiplexer import Lane
from unstale.redis_tier.scripts import Argument, Script
from unstale_worker.redis.applier import unavailable

CLAIM: Final = Script("unstale_worker.refresh.redis", "refresh_claim")
TAKE: Final = Script("unstale_worker.refresh.redis", "refresh_take")
EXTEND: Final = Script("unstale_worker.refresh.redis", "refresh_extend")
FILL: Final = Script("unstale_worker.refresh.redis", "refresh_fill")
RELEASE: Final = Script("unstale_worker.refresh.redis", "refresh_release")
FAILED: Final = Script("unstale_worker.refresh.redis", "refresh_failed")
ADOPT: Final = Script("unstale_worker.refresh.redis", "refresh_adopt")

VISIBILITY: Final = 20.0
"""Seconds after which a claimed key that nobody finished is due again; a running refresh prolongs it."""
CLAIM_MOST: Final = 1_000
"""Keys in one claim, lease or release: about a millisecond of the server's time."""
FILL_BYTES: Final = 512 * 1024
"""Bytes of values in one fill script."""
FILL_KEYS: Final = 500
"""Keys in one fill script: each needs three names, and Redis serves nobody else meanwhile."""
WITHOUT_EPOCH: Final = 0.5
"""Seconds until a key is looked at again while there is no position: nothing may be stored then."""
HELD_MOST: Final = 1.0
"""Seconds until a key is looked at again whose lease another loader holds, at most."""
FAILURES_KEPT: Final = 3_600.0
"""Seconds that failures in a row are counted together."""
MOST_DEAD_LETTERS: Final = 10_000
"""Dead letters kept; one more drops another."""


class Verdict(Enum):
    """What came of the attempt to take a key's lease."""

    TAKEN = auto()
    UNWANTED = auto()
    LATER = auto()


@dataclass(frozen=True, slots=True)
class Claimed:
    """Keys claimed together.

    Attributes:
        keys: In the order in which they became due.
        next_due: Seconds until the next key of the set is due; None: the set is empty.
    """

    keys: tuple[str, ...]
    next_due: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed refresh leads to.

    Attributes:
        attempts: Failures in a row, this one included.
        dead: It was the last attempt: the key is a dead letter now, and stays invalidated.
        pause: Seconds until the next attempt; None when there is none.
    """

    attempts: int
    dead: bool
    pause: float | None


def new_lease() -> bytes:
    """A fresh lease; the same may stand at every key of one batch."""
    return codec.lease(secrets.token_hex(12))


class RefreshQueue:
    """The refresh set, the leases of refreshes and the dead letters.

    Every method is one atomic step and raises `RedisUnavailable`; each may be repeated after a lost reply.
    Leases are taken and values stored only while the rules of the hash ``rules`` are in force.

    Example:
        >>> claimed = await queue.claim()
        >>> lease = new_lease()
        >>> verdicts = await queue.take(claimed.keys, lease)
    """

    def __init__(self, lane: Lane, names: Names, *, lease_ttl: float, rules: str) -> None:
        self._lane, self._names, self._lease_ttl, self._rules = lane, names, lease_ttl, rules

    @property
    def extend_every(self) -> float:
        """Seconds between two prolongations of a lease: two may be lost."""
        return self._lease_ttl / 3

    async def claim(self, *, most: int = CLAIM_MOST, visibility: float = VISIBILITY) -> Claimed:
        """Claim keys that are due; after ``visibility`` seconds they are due again.

        What is no UTF-8 was put there by somebody else, can be nobody's key, and is taken out.
        """
        found, following = await self._run(CLAIM, [self._names.refresh], [most, _ms(visibility)])
        keys, strange = _decoded(found)
        if strange:
            await self._command("ZREM", self._names.refresh, *strange)
        return Claimed(tuple(keys), None if int(following) < 0 else int(following) / 1000)

    async def adopt(self, *, after: float) -> int:
        """Make due at once what an earlier leader claimed: keys due in more than ``after`` seconds."""
        moved = total = int(await self._run(ADOPT, [self._names.refresh], [_ms(after), CLAIM_MOST]))
        while moved == CLAIM_MOST:
            moved = int(await self._run(ADOPT, [self._names.refresh], [_ms(after), CLAIM_MOST]))
            total += moved
        return total

    async def forget(self, keys: Sequence[str]) -> None:
        """Take keys out of the set that no refresh is for any more."""
        if keys:
            await self._command("ZREM", self._names.refresh, *keys)

    async def postpone(self, keys: Sequence[str], *, seconds: float, lease: bytes = b"") -> None:
        """Make keys due again in ``seconds``, and give up ``lease`` where it stands."""
        for start in range(0, len(keys), CLAIM_MOST):
            chunk = keys[start : start + CLAIM_MOST]
            await self._run(RELEASE, [self._names.refresh, *chunk], [lease or b"\x00", _ms(seconds)])

    async def take(self, keys: Sequence[str], lease: bytes) -> list[Verdict]:
        """Put ``lease`` where a loader would: at absent keys and soft ones. Read the database after this."""
        verdicts: list[Verdict] = []
        for start in range(0, len(keys), CLAIM_MOST):
            reply = await self._run(
                TAKE,
                [self._names.refresh, self._names.state, *keys[start : start + CLAIM_MOST]],
                [
                    lease,
                    _ms(self._lease_ttl),
                    SOFT_LEASE,
                    SOFT_LEASE[:1],
                    _ms(WITHOUT_EPOCH),
                    _ms(HELD_MOST),
                    self._rules,
                ],
            )
            # Filled by somebody who knew of no stale value: once the fill expires, that would be served.
            filled = [key for key, code in zip(keys[start:], reply, strict=False) if code == 2]
            if filled:
                await self._command("UNLINK", *map(self._names.stale, filled))
            verdicts += (
                Verdict.TAKEN if code == 1 else Verdict.LATER if code < 0 else Verdict.UNWANTED
                for code in reply
            )
        return verdicts

    async def extend(self, keys: Sequence[str], lease: bytes) -> int:
        """Prolong leases and claims; how many leases still stand."""
        standing = 0
        for start in range(0, len(keys), CLAIM_MOST):
            standing += await self._run(
                EXTEND,
                [self._names.refresh, *keys[start : start + CLAIM_MOST]],
                [lease, _ms(self._lease_ttl), _ms(VISIBILITY)],
            )
        return standing

    async def fill(
        self, values: Sequence[tuple[str, bytes, float]], lease: bytes, *, again: float = 0.0
    ) -> int:
        """Store (key, value's JSON, seconds to live) where ``lease`` stands; how many were stored.

        Where it does not stand, the key was invalidated meanwhile: it is due again in ``again`` seconds.
        """
        names, stored = self._names, 0
        for chunk in _chunks(values):
            keys = [names.refresh, names.dead_letters, names.refresh_counts, names.state]
            arguments: list[Argument] = [lease, _ms(again), self._rules]
            for key, value, seconds in chunk:
                keys += (key, names.stale(key), names.refresh_failures(key))
                arguments += (value, max(1, _ms(seconds)))
            stored += sum(await self._run(FILL, keys, arguments))
        return stored

    async def failed(
        self, key: str, lease: bytes, *, pattern: str, error: str, attempts: int, first: float, most: float
    ) -> Failure | None:
        """Count a failure: another attempt after a pause, or a dead letter. None: nobody wants it any more.

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
        reply = await self._run(
            FAILED,
            [
                names.refresh, names.dead_letters, names.refresh_counts,
                key, names.stale(key), names.refresh_failures(key),
            ],
            [lease, attempts, _ms(first), _ms(most), _ms(FAILURES_KEPT), letter, MOST_DEAD_LETTERS],
        )  # fmt: skip
        count, pause = int(reply[0]), int(reply[1])
        if pause == -2:
            return None
        return Failure(count, pause == -1, pause / 1000 if pause >= 0 else None)

    async def pause(self, loader: str, *, seconds: float) -> None:
        """Keep every process from calling ``loader`` for a while; a longer pause that stands remains."""
        name = self._names.refresh_pause(loader)
        await self._command("SET", name, "1", "PX", _ms(seconds), "NX")
        await self._command("PEXPIRE", name, _ms(seconds), "GT")

    async def paused(self, loader: str) -> float:
        """Seconds that ``loader`` must not be called for; 0 when it may be."""
        left = int(await self._command("PTTL", self._names.refresh_pause(loader)))
        return max(0, left) / 1000

    async def in_force(self) -> bool:
        """Whether the rules are those that the leader has; also before there was one."""
        found = await self._command("HGET", self._names.state, "rules")
        return found is None or found == self._rules.encode()

    async def ask(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Send several commands that only read, in one batch."""
        replies = await self._lane.pipeline(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise unavailable(reply) from reply
        return replies

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        try:
            return await script(self._lane, keys=keys, args=arguments)
        except RedisError as error:
            raise unavailable(error) from error

    async def _command(self, *parts: Argument) -> Any:
        try:
            return await self._lane.execute_command(*parts)
        except RedisError as error:
            raise unavailable(error) from error

    def __repr__(self) -> str:
        return f"<RefreshQueue {self._names.refresh}>"


def _chunks(values: Sequence[tuple[str, bytes, float]]) -> list[list[tuple[str, bytes, float]]]:
    chunks: list[list[tuple[str, bytes, float]]] = []
    size = FILL_BYTES
    for value in values:
        size += len(value[1])
        if size > FILL_BYTES or len(chunks[-1]) == FILL_KEYS:
            chunks.append([])
            size = len(value[1])
        chunks[-1].append(value)
    return chunks


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _decoded(members: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
    """The keys among them, and what is none."""
    keys: list[str] = []
    strange: list[bytes] = []
    for member in members:
        try:
            keys.append(member.decode())
        except UnicodeDecodeError:
            strange.append(member)
    return keys, strange
