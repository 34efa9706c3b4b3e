"""The shared tier in Redis: one typed method for each atomic step."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import orjson
from redis.exceptions import RedisError, ResponseError

from unstale.errors import MessageError, RedisUnavailable, UnstaleError
from unstale.protocol import codec
from unstale.protocol.lease import ReplicaLimits, ValueOrLease
from unstale.protocol.messages import PublishedRules, key_list
from unstale.protocol.names import SOFT_LEASE, Names
from unstale.protocol.reasons import Kind, simple_reason
from unstale.protocol.spares import Spare, decode_spare
from unstale.protocol.tags import header, is_record, record
from unstale.redis_tier.acquires import seconds_left
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.error_replies import refused, refuses_writes
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Script, milliseconds
from unstale.redis_tier.shared_tier import Put
from unstale.runtime.process_name import process_name

LIMITS: Final = ("epoch", "need_lsn", "primary_until", "database")
"""Fields of the state that decide whether a loader may read a replica."""
MOST_KEYS: Final = 500
"""Keys in one direct invalidation."""
MOST_KEY_BYTES: Final = 48 * 1024
"""Bytes of keys, as JSON, in one direct invalidation: its message stays below 64 KiB."""
SCAN_COUNT: Final = 1_000

_DIRECT, _EXTEND, _RELEASE, _REPLACE = (
    Script("unstale.redis_tier", name) for name in ("direct", "extend", "release", "replace")
)
"""These free memory, or nearly keep the size of a key: `replace` adds 100 bytes while a load runs."""
_FILL, _PUT, _TAKEOVER, _ACQUIRE_TAGGED = (
    Script("unstale.redis_tier", name, allow_oom=False)
    for name in ("fill", "put", "takeover", "acquire_tagged")
)
_READ_TAGGED = Script("unstale.redis_tier", "acquire_tagged", read_only=True)
_LEASE, _VALUE, _TAGGED_MORE = 1, 2, 3
"""Kinds of content in the reply of ``acquire_tagged.lua``; 0 is none for the reader."""


class RedisTier:
    """Values and leases in Redis, over one connection; see `SharedTier`.

    Keys, patterns and tags are given by their names in Redis: see `Names.stored`. On a single server these
    are their own; in a cluster `ClusterTier` translates.

    Every method raises `RedisUnavailable` if Redis does not answer or refuses the command.
    """

    shared = True

    def __init__(
        self,
        connections: Connections,
        names: Names,
        *,
        timeout: float,
        log_max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.names = names
        self.multiplexer = Multiplexer(
            connections,
            timeout=timeout,
            clock=clock,
            limits=("HMGET", names.state, *LIMITS),
            orphaned=self._release_later,
        )
        self._log_max_bytes = log_max_bytes
        self._background: set[asyncio.Task[bool]] = set()

    async def close(self) -> None:
        """Close the connection; waiting commands fail with `CacheClosed`."""
        await self.multiplexer.close()
        await asyncio.gather(*self._background, return_exceptions=True)

    @property
    def connected(self) -> bool:
        """True if the connection is open, as far as this process knows."""
        return self.multiplexer.connected

    # --- reading --------------------------------------------------------------------------------

    def read(self, key: str) -> "asyncio.Future[bytes | None]":
        """Return a future of the content of ``key``: a value or a lease (see `codec.is_value`)."""
        return self.multiplexer.get(key)

    async def read_or_stale(
        self, key: str, *, life: bool = False
    ) -> tuple[bytes | None, bytes | None, float | None]:
        """Return the content of ``key``, its stale value, and if asked, how long the first lives."""
        if life:
            left, (data, stale) = await self._several(("PTTL", key), ("MGET", key, self.names.stale(key)))
            return data, stale, seconds_left(left)
        data, stale = await asyncio.gather(
            self.multiplexer.get(key), self.multiplexer.get(self.names.stale(key))
        )
        return data, stale, None

    async def read_with_life(self, key: str) -> tuple[bytes | None, float]:
        """Return the content of ``key``, and the seconds until it expires (infinite: never)."""
        life, data = await self._several(("PTTL", key), ("GET", key))
        return data, seconds_left(life)

    async def read_spare(self, key: str) -> Spare | None:
        """Return the spare value of ``key``."""
        name = self.names.spare(key)
        left, content = await self._several(("PTTL", name), ("GET", name))
        return decode_spare(content, seconds_left(left))

    async def drop_spare(self, key: str) -> None:
        """Remove the spare value of ``key``."""
        await self._command("UNLINK", self.names.spare(key))

    # --- leases ---------------------------------------------------------------------------------

    def acquire(
        self, key: str, *, soft: bool, seconds: float, life: bool = False, limits: bool = False
    ) -> "asyncio.Future[ValueOrLease]":
        """Return the content of ``key``, or acquire its lease if it is missing: one atomic round trip.

        This is not a coroutine: it is called for every read of Redis.
        """
        return self.multiplexer.acquire(key, seconds, soft, limits, life)

    async def acquire_tagged(
        self, key: str, tags: Sequence[str], *, soft: bool, seconds: float, life: bool = False
    ) -> ValueOrLease:
        """Return the value of ``key`` if it has ``tags`` and none was invalidated, or acquire its lease.

        A hit needs no script, which takes the server twenty times as long: the value is read, then the
        records. If they hold the versions that the value carries, they held them when it was read, too, as
        no version comes again. When Redis takes no new value, the key is only read.
        """
        if tags:
            send = self.multiplexer.request
            left = send("PTTL", key) if life else None
            content, records = send("GET", key), send("MGET", *map(record, tags))
            try:
                versions = await records
            except BaseException as error:
                for earlier in (content, left):
                    if earlier is not None:
                        earlier.add_done_callback(_retrieved)
                if isinstance(error, RedisError):
                    raise refused(error) from error
                raise
            remaining = None if left is None else seconds_left(_result(left))
            data, begin = _result(content), header(tags, versions)
            if data is not None and begin is not None and data.startswith(begin):
                return ValueOrLease(data[len(begin) :], None, remaining)
        lease = self.multiplexer.new_lease(soft=soft)
        keys, args = [key, self.names.state, *map(record, tags)], [lease, milliseconds(seconds), int(soft)]
        async with self._given_up_if_cancelled(key, lease):
            try:
                reply = await self._script(_ACQUIRE_TAGGED, keys, args)
            except RedisUnavailable as error:
                if not refuses_writes(error.__cause__):
                    raise
                return await self.read_tagged(key, tags)
        found, kind, life, *known = reply
        if kind == _LEASE:
            return ValueOrLease(None, found, None, ReplicaLimits.decode(known))
        return ValueOrLease(found, None, seconds_left(life), exact=kind != _TAGGED_MORE)

    async def read_tagged(self, key: str, tags: Sequence[str]) -> ValueOrLease:
        """Return the value of ``key`` if it has all of ``tags`` and none was invalidated."""
        keys = [key, self.names.state, *map(record, tags)]
        found, kind, life = await self._script(_READ_TAGGED, keys, ["", 0, 0])
        return ValueOrLease(found, None, seconds_left(life), exact=kind != _TAGGED_MORE)

    def abandon(self, key: str, asked: "asyncio.Future[ValueOrLease]") -> None:
        """Give up the lease of a caller that was cancelled after the reply had arrived, but before it ran."""
        if asked.done() and not asked.cancelled() and asked.exception() is None:
            acquired = asked.result()
            if acquired.lease is not None and acquired.given_up():
                self._release_later(key, acquired.lease)

    async def take_over(self, key: str, *, seconds: float) -> ValueOrLease:
        """Acquire the lease of ``key`` if it is missing or holds the soft lease of a missed ``get``."""
        lease = self.multiplexer.new_lease()
        async with self._given_up_if_cancelled(key, lease):
            found, *known = await self._script(
                _TAKEOVER, [key, self.names.state], [SOFT_LEASE, lease, milliseconds(seconds)]
            )
        if found != lease:
            return ValueOrLease(found, None)
        return ValueOrLease(None, lease, None, ReplicaLimits.decode(known))

    async def replace(
        self, key: str, *, seconds: float, margin: float | None = None, tags: Sequence[str] = ()
    ) -> ValueOrLease:
        """Acquire a lease even if the key holds a value or another lease; a valid value stays readable."""
        lease = self.multiplexer.new_lease()  # a lease on a value needs no release: no reader waits for it
        suffix = codec.lease_suffix(secrets.randbits(64))
        async with self._given_up_if_cancelled(key, lease):
            found, taken, life, *known = await self._script(
                _REPLACE,
                [key, self.names.state, *map(record, tags)],
                [lease, milliseconds(seconds), suffix, "" if margin is None else milliseconds(margin)],
            )
        if not taken:
            return ValueOrLease(found, None, seconds_left(life))
        return ValueOrLease(None, found, seconds_left(life), ReplicaLimits.decode(known))

    async def extend(self, key: str, lease: bytes, *, seconds: float) -> bool:
        """Extend a lease; return False if it is lost."""
        return bool(await self._script(_EXTEND, [key], [lease, milliseconds(seconds)]))

    async def fill(
        self,
        key: str,
        lease: bytes,
        value: bytes,
        *,
        seconds: float,
        refreshed: bool = False,
        spare: float = 0.0,
    ) -> bool:
        """Store ``value`` under ``lease``; return False if the lease is lost or there is no epoch."""
        keys, args = [key, self.names.state], [lease, value, milliseconds(seconds)]
        if refreshed:
            keys += [self.names.stale(key), self.names.refresh, self.names.inputs(key)]
        if spare:
            keys.append(self.names.spare(key))
            args.append(milliseconds(spare))
        return bool(await self._script(_FILL, keys, args))

    async def release(self, key: str, found: bytes) -> bool:
        """Remove the content of ``key`` if it is ``found``: an unneeded lease, or an unusable value."""
        return bool(await self._script(_RELEASE, [key], [found]))

    async def discard_stale(self, key: str, found: bytes) -> None:
        """Remove the stale value kept for ``key`` if it is ``found``."""
        await self.release(self.names.stale(key), found)

    @contextlib.asynccontextmanager
    async def _given_up_if_cancelled(self, key: str, lease: bytes) -> AsyncIterator[None]:
        """Give ``lease`` up if the caller is cancelled: the command that takes it may have been sent."""
        try:
            yield
        except asyncio.CancelledError:
            self._release_later(key, lease)  # behind that command, on the same connection
            raise

    def _release_later(self, key: str, lease: bytes) -> None:
        """Release a lease that no reader needs any more, so that others do not wait for it to expire."""

        async def release() -> bool:
            with contextlib.suppress(UnstaleError):
                return await self.release(key, lease)
            return False

        task = asyncio.get_running_loop().create_task(release(), name="unstale-release")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- writing --------------------------------------------------------------------------------

    async def put(
        self, key: str, value: bytes, *, seconds: float, rules: str, tags: Sequence[str] = ()
    ) -> Put:
        """Store a value that no rule owns, and invalidate it in every instance through the log."""
        logged, _ = await self._script(
            _PUT,
            [
                *(self.names.state, self.names.log, key, self.names.claim, self.names.spare(key)),
                *map(record, tags),
            ],
            [
                *(
                    self.names.channel,
                    value,
                    milliseconds(seconds),
                    key_list([self.names.key_of(key)]),
                    self._log_max_bytes,
                    rules,
                ),
                self.names.namespace,
                simple_reason(Kind.SET, process_name()),
                secrets.token_hex(12),
            ],
        )
        if logged == -2:
            return Put.FOREIGN
        return Put.REFUSED if logged == -1 else Put.TOLD if logged else Put.UNTOLD

    async def invalidate(
        self,
        keys: Sequence[str] = (),
        *,
        patterns: Sequence[str] = (),
        lsn: str | None = None,
        kind: Kind | None = None,
    ) -> int:
        """Unlink, log, raise need_lsn and publish; return how many of the keys existed.

        Patterns are only announced, so they are given as users write them. Stale and spare values are
        unlinked too, whatever rules this process knows. The log names this process, and says ``kind``: by
        default, that it deleted keys or invalidated a pattern.
        """
        removed = 0
        reason = simple_reason(kind or (Kind.DELETE if keys else Kind.PATTERN), process_name())
        for chunk in _chunks(keys) if keys else iter([()]):
            unlinked, _ = await self._script(
                _DIRECT,
                [
                    *(self.names.state, self.names.log, *chunk),
                    *map(self.names.stale, chunk),
                    *map(self.names.spare, chunk),
                ],
                [
                    self.names.channel,
                    lsn or "",
                    key_list(list(map(self.names.key_of, chunk))),
                    key_list(list(patterns)),
                    self._log_max_bytes,
                    2 * len(chunk),
                    reason,
                ],
            )
            removed += unlinked
        return removed

    async def scan(self, pattern: str, *, beside: bool = False) -> AsyncIterator[list[str]]:
        """Yield the string keys that match ``pattern``, in chunks, without unstale's own keys.

        With ``beside``, yield the stale and the spare values of the matching keys instead.
        """
        cursor: bytes | int = 0
        pattern = self.names.beside(pattern) if beside else pattern
        while True:
            cursor, found = await self._command(
                "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT, "TYPE", "string"
            )
            # Cache keys are UTF-8; others are skipped.
            keys = [
                text
                for key in found
                if (text := _text(key))
                and text.startswith(self.names.own) is beside
                and is_record(text) is is_record(pattern)
            ]
            if keys:
                yield keys
            if int(cursor) == 0:
                return

    async def unlink(self, keys: Sequence[str]) -> int:
        """Remove keys without logging it; return how many existed."""
        count: int = await self._command("UNLINK", *keys)
        return count

    async def rules(self) -> PublishedRules | None:
        """Return the published rules, or None if there are none; raises `MessageError` if unreadable."""
        data = await self._command("GET", self.names.rules)
        return None if data is None else PublishedRules.decode(data)

    async def used_memory(self) -> int | None:
        """Return how many bytes of memory Redis uses; raises `MessageError` if Redis does not tell."""
        try:
            data = await self.multiplexer.execute_command("INFO", "memory")
        except ResponseError as error:
            raise MessageError(f"INFO is refused: {error}") from error
        for line in data.decode().splitlines():
            if line.startswith("used_memory:"):
                return int(line.partition(":")[2])
        raise MessageError("the INFO reply of Redis has no used_memory")

    # --- sending --------------------------------------------------------------------------------

    async def _command(self, *parts: str | bytes | int | float) -> Any:
        try:
            return await self.multiplexer.execute_command(*parts)
        except RedisError as error:
            raise refused(error) from error

    async def _several(self, *commands: tuple[str | bytes | int | float, ...]) -> list[Any]:
        replies = await self.multiplexer.pipeline(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise refused(reply) from reply
        return replies

    async def _script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return await script(self.multiplexer, keys=keys, args=args)
        except RedisError as error:
            raise refused(error) from error

    def __repr__(self) -> str:
        return f"<RedisTier {self.names.tag} over {self.multiplexer!r}>"


def _retrieved(answered: "asyncio.Future[Any]") -> None:
    """Take note of an error, which the reply behind it has reported."""
    if not answered.cancelled():
        answered.exception()


def _result(answered: "asyncio.Future[Any]") -> Any:
    """Return the reply, or None for an error, such as that of a key of another type."""
    return answered.result() if answered.done() and answered.exception() is None else None


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


def _text(data: bytes) -> str:
    return data.decode("utf-8", "ignore")
