"""The multiplexer's requests for a value or a lease: one command per batch, and its replies."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError, ResponseError

from unstale.redis_tier.scripts import Argument, Script

ACQUIRE: Final = Script("unstale.redis_tier", "acquire", allow_oom=False)


class AcquireReply(NamedTuple):
    """Content of a key after an attempt to acquire its lease.

    Attributes:
        found: A value or a lease; empty for a key of another type, None for a missing key.
        acquired: True if ``found`` is the requested lease.
        limits: Fields of the state, read after the lease was acquired, if a caller in the batch asked for
            them.
        holders: An element for each caller that got the lease; see `given_up`.
    """

    found: bytes | None
    acquired: bool
    limits: Sequence[bytes | None] | None = None
    holders: list[None] | None = None

    def given_up(self) -> bool:
        """Remove a cancelled caller from the holders; return True if no holder is left."""
        if not self.holders:
            return False
        self.holders.pop()
        return not self.holders


class Acquire:
    """Callers in one batch that ask for the same kind of lease on a key; they share the first one's lease."""

    __slots__ = ("futures", "key", "lease", "limits", "ms", "soft")

    def __init__(self, key: str, lease: bytes, ms: int, *, soft: bool) -> None:
        self.key, self.lease, self.ms, self.soft = key, lease, ms, soft
        self.limits = False
        self.futures: list[asyncio.Future[AcquireReply]] = []

    def fail(self, error: Exception) -> None:
        """Raise ``error`` in every caller."""
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class Acquires:
    """The keys that wait for the next batch.

    ``limits`` is the command that reads what a loader must know before it reads a replica. It is sent after
    the leases of its batch: if it were read before, a change could slip in between unnoticed. ``orphaned`` is
    called with key and lease if a lease was acquired but all its callers have been cancelled.
    """

    def __init__(self, limits: tuple[Argument, ...], orphaned: Callable[[str, bytes], object]) -> None:
        self._limits = limits
        self._orphaned = orphaned
        self._waiting: dict[tuple[str, bool], Acquire] = {}
        self._script_known = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(
        self,
        key: str,
        lease: bytes,
        ms: int,
        *,
        soft: bool,
        limits: bool,
        future: asyncio.Future[AcquireReply],
    ) -> None:
        """Queue a request for ``key``; the reply resolves ``future``."""
        acquire = self._waiting.get((key, soft))
        if acquire is None:
            acquire = self._waiting[key, soft] = Acquire(key, lease, ms, soft=soft)
        acquire.limits = acquire.limits or limits
        acquire.futures.append(future)

    def take(self, most: int) -> list[Acquire]:
        """Remove and return the requests of one batch, at most ``most``."""
        batch = list(self._waiting.values())
        self._waiting = {}
        self._put_back(batch[most:])
        return batch[:most]

    def connected(self) -> None:
        """Note a new connection: its server may not have the script loaded."""
        self._script_known = False

    def pack(self, batch: Sequence[Acquire], pack: Callable[..., list[bytes]]) -> list[bytes]:
        """Encode the commands: a SET for one key, which is as cheap as a GET, or a script for several."""
        if len(batch) == 1:
            (one,) = batch
            packed = pack("SET", one.key, one.lease, "NX", "PX", one.ms, "GET")
        else:
            arguments: list[Argument] = [part for acquire in batch for part in (acquire.lease, acquire.ms)]
            name, script = ("EVALSHA", ACQUIRE.sha) if self._script_known else ("EVAL", ACQUIRE.text)
            packed = pack(name, script, len(batch), *(acquire.key for acquire in batch), *arguments)
        return packed + pack(*self._limits) if self.asks_limits(batch) else packed

    def asks_limits(self, batch: Sequence[Acquire]) -> bool:
        """Return True if the batch also reads the limits, which are a second reply."""
        return any(acquire.limits for acquire in batch)

    def replied(self, batch: Sequence[Acquire], reply: Any, limits: Sequence[bytes | None] | None) -> None:
        """Deliver the replies to the callers."""
        if len(batch) == 1:
            (one,) = batch
            self._hand_out(one, one.lease if reply is None else reply, limits)
            return
        self._script_known = True
        for acquire, found in zip(batch, reply, strict=True):
            self._hand_out(acquire, found, limits)

    def refused(self, batch: Sequence[Acquire], error: ResponseError, translated: Exception) -> None:
        """Raise an error in the callers, or queue them again if the server did not have the script."""
        if isinstance(error, NoScriptError):
            self._script_known = False
            self._put_back(batch)
        elif len(batch) == 1 and str(error).startswith("WRONGTYPE"):
            for future in batch[0].futures:
                if not future.done():
                    future.set_result(AcquireReply(b"", False))
        else:
            for acquire in batch:
                acquire.fail(translated)

    def drain(self) -> "list[asyncio.Future[Any]]":
        """Remove and return all waiting futures."""
        futures = [future for acquire in self._waiting.values() for future in acquire.futures]
        self._waiting = {}
        return list(futures)

    def _put_back(self, batch: Sequence[Acquire]) -> None:
        for acquire in batch:
            later = self._waiting.setdefault((acquire.key, acquire.soft), acquire)
            if later is not acquire:
                later.futures += acquire.futures
                later.limits = later.limits or acquire.limits

    def _hand_out(self, acquire: Acquire, found: bytes, limits: Sequence[bytes | None] | None) -> None:
        waiting = [future for future in acquire.futures if not future.done()]
        acquired = found == acquire.lease
        standing = AcquireReply(found, acquired, limits, [None] * len(waiting) if acquired else None)
        for future in waiting:
            future.set_result(standing)
        if acquired and not waiting:
            self._orphaned(acquire.key, acquire.lease)


def pass_on(acquire: Acquire, read: "asyncio.Future[bytes | None]") -> None:
    """Deliver the result of a plain read to the callers of ``acquire``."""
    if read.cancelled():
        for future in acquire.futures:
            future.cancel()
    elif (error := read.exception()) is not None:
        acquire.fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
    else:
        for future in acquire.futures:
            if not future.done():
                future.set_result(AcquireReply(read.result(), False))
