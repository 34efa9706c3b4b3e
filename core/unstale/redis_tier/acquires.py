"""The multiplexer's requests for a value or a lease: one command per batch, and its replies."""

import asyncio
import itertools
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from redis.exceptions import NoScriptError, ResponseError

from unstale.protocol import codec
from unstale.protocol.lease import PRIMARY, ReplicaLimits, ValueOrLease
from unstale.redis_tier.scripts import Argument, Script, milliseconds, pack_command

MOST_BYTES: Final = 4 * 1024 * 1024
"""Bytes of values in one reply, or in one request, after which the rest is left for the next batch. A reply
of 1 GB keeps Redis from its other clients, the worker among them, and takes longer than the time limit."""
ACQUIRE: Final = Script("unstale.redis_tier", "acquire", allow_oom=False)

Waiting: TypeAlias = "dict[str, list[asyncio.Future[ValueOrLease]]]"
"""The callers that wait for each key."""


class AcquireBatch:
    """Keys whose value or lease is requested with one command.

    All keys of a batch get the same lease. That is safe: no other batch has it, and it is compared per key.

    Attributes:
        soft: True if the lease is that of a missed ``get``.
        seconds: Life of the lease.
        limits: True if a caller also asks for the `ReplicaLimits`.
        lives: Keys of which a caller also asks how long their value lives; an ordered set.
        waiting: The callers for each key.
        lease: The lease, once the batch is packed.
    """

    __slots__ = ("lease", "limits", "lives", "seconds", "soft", "waiting")

    def __init__(self, *, soft: bool, seconds: float, waiting: Waiting) -> None:
        self.soft = soft
        self.seconds = seconds
        self.limits = False
        self.lives: dict[str, None] = {}
        self.waiting = waiting
        self.lease = b""

    def fail(self, error: Exception) -> None:
        """Raise ``error`` in every caller."""
        for future in self.futures():
            if not future.done():
                future.set_exception(error)

    def futures(self) -> "list[asyncio.Future[ValueOrLease]]":
        """Return the future of every caller."""
        return [future for futures in self.waiting.values() for future in futures]


class Acquires:
    """The keys that wait for the next batch.

    ``limits`` is the command that reads what a loader must know before it reads a replica. It is sent after
    the leases of its batch: if it were read before, a change could slip in between unnoticed. ``orphaned`` is
    called with key and lease if a lease was acquired but all its callers have been cancelled.
    """

    def __init__(self, limits: tuple[Argument, ...], orphaned: Callable[[str, bytes], object]) -> None:
        self._limits = limits
        self._orphaned = orphaned
        self._batches: dict[tuple[bool, float], AcquireBatch] = {}
        self._script_known = False
        self._process = secrets.token_hex(12)
        self._leases = itertools.count(1)

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(
        self,
        key: str,
        seconds: float,
        soft: bool,
        limits: bool,
        life: bool,
        future: asyncio.Future[ValueOrLease],
    ) -> None:
        """Queue a request for ``key``; the reply resolves ``future``."""
        batch = self._batches.get((soft, seconds))
        if batch is None:
            batch = self._batches[soft, seconds] = AcquireBatch(soft=soft, seconds=seconds, waiting={})
        if limits:
            batch.limits = True
        if life:
            batch.lives[key] = None
        waiting = batch.waiting.get(key)
        if waiting is None:
            batch.waiting[key] = [future]
        else:
            waiting.append(future)

    def take(self, most: int) -> list[AcquireBatch]:
        """Remove and return the next batches, with at most ``most`` keys each."""
        batches = list(self._batches.values())
        self._batches = {}
        for batch in batches:
            if len(batch.waiting) > most:
                self._leave(batch, most)
        return batches

    def _leave(self, batch: AcquireBatch, most: int) -> None:
        """Keep ``most`` keys in ``batch``, and put the others back for the next one."""
        keys = list(batch.waiting)
        later = AcquireBatch(
            soft=batch.soft,
            seconds=batch.seconds,
            waiting={key: batch.waiting.pop(key) for key in keys[most:]},
        )
        later.limits = batch.limits
        later.lives = {key: None for key in batch.lives if key in later.waiting}
        batch.lives = {key: None for key in batch.lives if key in batch.waiting}
        self._put_back(later)

    def connected(self) -> None:
        """Note a new connection: its server may not have the script loaded."""
        self._script_known = False

    def new_lease(self, *, soft: bool) -> bytes:
        """Return a lease that no other process and no other batch has."""
        return codec.lease(f"{self._process}{next(self._leases):x}", soft=soft)

    def pack(self, batch: AcquireBatch) -> bytes:
        """Encode the commands: a SET for one key, which is as cheap as a GET, or a script for several.

        How long values live is asked before, so that it is never that of a value which came later.
        """
        lease, ms = self.new_lease(soft=batch.soft), milliseconds(batch.seconds)
        batch.lease = lease
        if len(batch.waiting) == 1:
            packed = pack_command(("SET", *batch.waiting, lease, "NX", "PX", ms, "GET"))
        else:
            name, script = ("EVALSHA", ACQUIRE.sha) if self._script_known else ("EVAL", ACQUIRE.text)
            packed = pack_command((name, script, len(batch.waiting), *batch.waiting, lease, ms, MOST_BYTES))
        if batch.lives:
            packed = b"".join(pack_command(("PTTL", key)) for key in batch.lives) + packed
        return packed + pack_command(self._limits) if batch.limits else packed

    def replied(
        self,
        batch: AcquireBatch,
        reply: Any,
        limits: Sequence[bytes | None] | None,
        lives: Mapping[str, float] | None,
    ) -> None:
        """Deliver the replies to the callers."""
        lease, decoded = batch.lease, None
        if len(batch.waiting) == 1:
            reply = [lease if reply is None else reply]
        else:
            self._script_known = True
            if len(reply) < len(batch.waiting):
                self._leave(batch, len(reply))
        for (key, futures), found in zip(batch.waiting.items(), reply, strict=True):
            if found != lease:
                result = ValueOrLease(found, None, None if lives is None else lives.get(key))
                for future in futures:
                    if not future.done():
                        future.set_result(result)
            else:
                waiting = [future for future in futures if not future.done()]
                if decoded is None:
                    decoded = PRIMARY if limits is None else ReplicaLimits.decode(limits)
                result = ValueOrLease(None, lease, None, decoded, [None] * len(waiting))
                if not waiting:
                    self._orphaned(key, lease)
                for future in waiting:
                    future.set_result(result)

    def refused(self, batch: AcquireBatch, error: ResponseError, translated: Exception) -> None:
        """Raise an error in the callers, or queue them again if the server did not have the script."""
        if isinstance(error, NoScriptError):
            self._script_known = False
            self._put_back(batch)
        elif len(batch.waiting) == 1 and str(error).startswith("WRONGTYPE"):
            for future in batch.futures():
                if not future.done():
                    future.set_result(ValueOrLease(b"", None))
        else:
            batch.fail(translated)

    def drain(self) -> "list[asyncio.Future[Any]]":
        """Remove and return all waiting futures."""
        futures = [future for batch in self._batches.values() for future in batch.futures()]
        self._batches = {}
        return list(futures)

    def _put_back(self, batch: AcquireBatch) -> None:
        later = self._batches.setdefault((batch.soft, batch.seconds), batch)
        if later is not batch:
            later.limits = later.limits or batch.limits
            later.lives |= batch.lives
            for key, futures in batch.waiting.items():
                later.waiting.setdefault(key, []).extend(futures)


def seconds_left(pttl: Any) -> float:
    """Return the reply to a PTTL in seconds: 0 for a missing key or an error, infinite for "never"."""
    return math.inf if pttl == -1 else max(pttl, 0) / 1000 if isinstance(pttl, int) else 0.0


def pass_on(
    futures: "list[asyncio.Future[ValueOrLease]]", life: float | None, read: "asyncio.Future[bytes | None]"
) -> None:
    """Deliver the result of a plain read to callers that also asked for a lease."""
    error = None if read.cancelled() else read.exception()
    for future in futures:
        if future.done():
            continue
        if read.cancelled():
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(ValueOrLease(read.result(), None, life))
