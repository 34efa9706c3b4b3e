"""The Redis tier as an agent uses it: one typed method per atomic step."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.exceptions import RedisError

from unstale.errors import MessageError
from unstale.protocol import codec
from unstale.protocol.lease import Claim, claimed
from unstale.protocol.messages import Invalidation, PublishedRules, decode_log_entry, key_list
from unstale.protocol.names import SOFT_LEASE, Epoch, LogId, Names
from unstale.redis_tier.multiplexer import Lane, refused
from unstale.redis_tier.scripts import Script

__all__ = ["MOST_ENTRIES", "Claim", "RedisTier", "Replay"]

MOST_KEYS: Final = 500
"""Keys in one direct invalidation."""
MOST_KEY_BYTES: Final = 48 * 1024
"""Bytes of keys, as JSON, in one direct invalidation: its message stays below 64 KiB."""
MOST_ENTRIES: Final = 1_000
"""Log entries in one replay; an agent further behind drops its near cache, which is cheaper."""
SCAN_COUNT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Replay:
    """One atomic read of the log.

    Attributes:
        epoch: The current epoch, or None: there is no position, trust nothing.
        last: Id of the newest entry.
        complete: ``entries`` are all those after the id that was asked for.
        entries: Oldest first.
        stands: The epoch is of the server that answered, which was neither restarted nor promoted since.
    """

    epoch: Epoch | None
    last: LogId
    complete: bool
    entries: tuple[Invalidation, ...]
    stands: bool = False


class RedisTier:
    """Values, leases and the log in Redis.

    Every method raises `RedisUnavailable` when Redis does not answer or refuses the command.
    """

    def __init__(self, lane: Lane, names: Names, *, log_max_bytes: int) -> None:
        self.lane = lane
        self.names = names
        self._log_max_bytes = log_max_bytes
        self._fill, self._extend, self._release, self._takeover, self._replay, self._direct, self._put = (
            Script("unstale.redis_tier", name)
            for name in ("fill", "extend", "release", "takeover", "replay", "direct", "put")
        )
        self._ahead = Script("unstale.redis_tier", "ahead")

    def read(self, key: str) -> "asyncio.Future[bytes | None]":
        """What stands at ``key``: a value or a lease (`codec.is_value`)."""
        return self.lane.get(key)

    async def read_or_stale(self, key: str) -> tuple[bytes | None, bytes | None]:
        """`read`, and the stale value that may stand beside it; in one command, so at one moment."""
        data, stale = await asyncio.gather(self.lane.get(key), self.lane.get(self.names.stale(key)))
        return data, stale

    async def read_with_life(self, key: str) -> tuple[bytes | None, float | None]:
        """`read`, and the seconds until it expires (None: never)."""
        data, life = await self._several(("GET", key), ("PTTL", key))
        return data, _seconds(life)

    async def take(self, key: str, *, soft: bool, seconds: float) -> Claim:
        """Take the lease of a missing key; `need_lsn` is read after it was taken."""
        lease = codec.lease(secrets.token_hex(12), soft=soft)
        taken, found, life, known = await self._several(
            ("SET", key, lease, "NX", "PX", _ms(seconds)),
            ("GET", key),
            ("PTTL", key),
            ("HMGET", self.names.state, "epoch", "need_lsn", "primary_until", "database"),
        )
        return claimed(lease if taken is not None else None, found, known, life=_seconds(life))

    async def take_over(self, key: str, *, seconds: float) -> Claim:
        """Take the lease that a missed ``get`` left at ``key``, or a missing key's."""
        lease = codec.lease(secrets.token_hex(12))
        found, *known = await self._script(
            self._takeover, [key, self.names.state], [SOFT_LEASE, lease, _ms(seconds)]
        )
        return claimed(lease if found == lease else None, found, known)

    async def take_ahead(self, key: str, found: bytes, wanted: bytes) -> Claim | None:
        """Put ``wanted`` in the place of ``found``, with the life it has; None when something else is there.

        `fill` then takes ``wanted`` for the lease.
        """
        taken, *known = await self._script(self._ahead, [key, self.names.state], [found, wanted])
        return claimed(wanted, None, known) if taken else None

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Prolong a lease; False when it is gone."""
        return bool(await self._script(self._extend, [key], [lease, _ms(seconds)]))

    async def fill(
        self, key: str, lease: bytes, value: bytes, *, seconds: float, refreshed: bool = False
    ) -> bool:
        """Store ``value`` where ``lease`` stands; False when it does not stand any more.

        Of a ``refreshed`` key the stale value goes, and nobody need make it new any more.
        """
        keys = [key, self.names.stale(key), self.names.refresh] if refreshed else [key]
        return bool(await self._script(self._fill, keys, [lease, value, _ms(seconds)]))

    async def release(self, key: str, found: bytes) -> bool:
        """Remove what stands at ``key`` if it is ``found``: a lease given up, or an unusable value."""
        return bool(await self._script(self._release, [key], [found]))

    async def put(
        self, key: str, value: bytes, *, seconds: float, rules: str
    ) -> tuple[LogId, Epoch | None] | None:
        """Store a value that no rule owns, log it and tell every instance.

        Returns log id and epoch; 0 and None when no epoch is live, so that nobody was told. None, and
        nothing is stored, when other rules than those of the hash ``rules`` are in force: they may own the
        key.
        """
        reply = await self._script(
            self._put,
            [self.names.state, self.names.log, key],
            [self.names.channel, value, _ms(seconds), key_list([key]), self._log_max_bytes, rules],
        )
        logged, epoch = reply
        return (LogId(int(logged)), Epoch(epoch.decode()) if epoch else None) if logged != -1 else None

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Direct invalidation: unlink, log, raise need_lsn, publish; how many keys were there.

        Stale values go too, whatever rules this process knows.
        """
        removed = 0
        for chunk in _chunks(keys) if keys else iter([()]):
            unlinked, _ = await self._script(
                self._direct,
                [self.names.state, self.names.log, *chunk, *map(self.names.stale, chunk)],
                [
                    self.names.channel,
                    lsn or "",
                    key_list(list(chunk)),
                    key_list(list(patterns)),
                    self._log_max_bytes,
                    len(chunk),
                ],
            )
            removed += unlinked
        return removed

    async def scan(self, pattern: str, *, stale: bool = False) -> AsyncIterator[list[str]]:
        """The string keys that ``pattern`` matches, in pieces; unstale's own are left out.

        With ``stale``, the stale values of the keys it matches instead.
        """
        cursor: bytes | int = 0
        pattern = self.names.stale(pattern) if stale else pattern
        while True:
            cursor, found = await self._command(
                "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, "TYPE", "string"
            )
            # A key that is not UTF-8 is nobody's cache key.
            keys = [
                text for key in found if (text := _text(key)) and text.startswith(self.names.tag) is stale
            ]
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys without a word to anybody; how many were there."""
        count: int = await self._command("UNLINK", *keys)
        return count

    async def replay(self, after: LogId) -> Replay:
        """Epoch, newest id and the entries after ``after``; raises also `MessageError`."""
        epoch, last, complete, entries, stands = await self._script(
            self._replay, [self.names.state, self.names.log], [after, MOST_ENTRIES]
        )
        if epoch is None:
            return Replay(None, LogId(last), False, ())
        known = Epoch(epoch.decode("utf-8", "replace"))
        decoded = tuple(
            decode_log_entry(known, int(entry_id.partition(b"-")[0]), fields[1])
            for entry_id, fields in entries
        )
        return Replay(known, LogId(last), bool(complete), decoded, bool(stands))

    async def rules(self) -> PublishedRules | None:
        """The published rules; None when no worker has published any. Raises also `MessageError`."""
        data = await self._command("GET", self.names.rules)
        return None if data is None else PublishedRules.decode(data)

    async def database(self) -> str | None:
        """``system_identifier:timeline`` of the database the position belongs to, or None."""
        data = await self._command("HGET", self.names.state, "database")
        return None if data is None else _text(data)

    async def memory(self) -> str:
        """Redis' own ``used_memory_human``."""
        data = await self._command("INFO", "memory")
        for line in data.decode().splitlines():
            if line.startswith("used_memory_human:"):
                return str(line.partition(":")[2])
        raise MessageError("Redis' INFO has no used_memory_human")

    # --- sending --------------------------------------------------------------------------------

    async def _command(self, *parts: str | bytes | int | float) -> Any:
        try:
            return await self.lane.execute_command(*parts)
        except RedisError as error:
            raise refused(error) from error

    async def _several(self, *commands: tuple[str | bytes | int | float, ...]) -> list[Any]:
        replies = await self.lane.pipeline(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise refused(reply) from reply
        return replies

    async def _script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return await script(self.lane, keys=keys, args=args)
        except RedisError as error:
            raise refused(error) from error

    def __repr__(self) -> str:
        return f"<RedisTier {self.names.tag} over {self.lane!r}>"


def _chunks(keys: Sequence[str]) -> Iterator[tuple[str, ...]]:
    chunk: list[str] = []
    size = 0
    for key in keys:
        more = len(orjson.dumps(key)) + 1
        if chunk and (len(chunk) == MOST_KEYS or size + more > MOST_KEY_BYTES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(key)
        size += more
    yield tuple(chunk)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _seconds(pttl: int) -> float | None:
    return pttl / 1000 if pttl >= 0 else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "ignore")
