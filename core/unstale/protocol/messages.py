"""What crosses a process: invalidations, watermarks and the published rules, versioned.

Messages only ever *remove* and never carry values, so a forged or repeated one can cost a miss, never a
wrong answer. Unknown fields are ignored; another version decodes to `UnknownVersion`.
"""

from dataclasses import dataclass
from typing import Final

import orjson

from unstale.errors import MessageError
from unstale.protocol.globs import glob_regex
from unstale.protocol.names import Epoch, LogId

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""A message's JSON is at most this long; what is larger is split into several messages."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``: which transactions are visible.

    Attributes:
        xmin: Every transaction below this is visible.
        xmax: No transaction at or above this is visible.
        xip: Those in between that are *not* visible.
    """

    xmin: int
    xmax: int
    xip: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read Postgres' text form ``xmin:xmax:xip,xip``; raises `MessageError`."""
        try:
            low, high, middle = text.split(":")
            xmin, xmax = int(low), int(high)
            xip = frozenset(int(part) for part in middle.split(",")) if middle else frozenset[int]()
        except ValueError:
            raise MessageError("a snapshot was not of the form xmin:xmax:xip") from None
        if not 0 < xmin <= xmax or any(not xmin <= x < xmax for x in xip):
            raise MessageError("a snapshot's numbers are out of order")
        return cls(xmin, xmax, xip)

    def includes(self, xid: int) -> bool:
        """Whether transaction ``xid`` (a full 64-bit id) is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.xip)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """These keys, and every key that matches these patterns, must not be served from memory any more.

    Attributes:
        epoch: The history of the log that this belongs to.
        id: Number of the log entry that says the same.
        prev: The id before it; what the receiver saw last, unless it missed something.
        keys: Exact keys.
        patterns: Redis globs.
    """

    epoch: Epoch
    id: LogId
    prev: LogId
    keys: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watermark:
    """Everything committed before ``seen`` has been applied.

    Attributes:
        epoch: The current history of the log.
        last: Id of the newest log entry.
        seen: The snapshot the worker read under.
        lsn: WAL position that covers it, as Postgres writes it (``16/B374D848``).
        rules: Hash of the rules in force.
        age_ms: Milliseconds since the worker *began* the read of ``seen``, by its own clock.
        flushed: WAL position that was on disk then: what lies before it, no crash takes back.
        database: System identifier and timeline of the database that was read.
    """

    epoch: Epoch
    last: LogId
    seen: Snapshot
    lsn: str
    rules: str
    age_ms: float
    flushed: str = ""
    database: str = ""


@dataclass(frozen=True, slots=True)
class UnknownVersion:
    """A message of a version this release does not speak: drop the near cache and stay detached."""

    version: object


Message = Invalidation | Watermark | UnknownVersion


def decode(payload: bytes) -> Message:
    """Read one message from the channel; raises `MessageError` for anything that is not one."""
    data = _object(payload)
    if data.get("v") != VERSION or isinstance(data.get("v"), bool):
        return UnknownVersion(data.get("v"))
    epoch = Epoch(_text(data, "epoch", limit=64))
    if "id" in data:
        return Invalidation(
            epoch,
            LogId(_whole(data, "id")),
            LogId(_whole(data, "prev")),
            _strings(data, "keys"),
            _strings(data, "patterns"),
        )
    age = data.get("age_ms")
    if isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age < 1e15:
        raise MessageError("a watermark's age_ms is not a number of milliseconds")
    return Watermark(
        epoch,
        LogId(_whole(data, "last")),
        Snapshot.parse(_text(data, "seen", limit=MAX_MESSAGE_BYTES)),
        _text(data, "lsn", limit=32),
        _text(data, "rules", limit=128),
        float(age),
        _optional(data, "flushed", limit=32),
        _optional(data, "database", limit=64),
    )


def decode_log_entry(epoch: Epoch, entry_id: int, body: bytes) -> Invalidation:
    """Read a log entry, whose body is the inside of the message's JSON object; raises `MessageError`."""
    data = _object(b"{" + body + b"}")
    return Invalidation(
        epoch, LogId(entry_id), LogId(entry_id - 1), _strings(data, "keys"), _strings(data, "patterns")
    )


@dataclass(frozen=True, slots=True)
class PublishedRules:
    """What agents must know of the rules.

    Attributes:
        hash: Hash of the rules.
        patterns: A glob for every key template: the keys that the rules own.
        ttl: Pattern and seconds, in file order; the first match counts.
        refresh: Pattern, and seconds that an old value may be served after a change (0: not at all), of the
            keys that are made new when they change. A glob may match keys of another refresh, too.
    """

    hash: str = ""
    patterns: tuple[str, ...] = ()
    ttl: tuple[tuple[str, float], ...] = ()
    refresh: tuple[tuple[str, float], ...] = ()

    def encode(self) -> bytes:
        """The JSON stored under ``{unstale:0}:rules``."""
        data: dict[str, object] = {
            "v": VERSION,
            "hash": self.hash,
            "patterns": list(self.patterns),
            "ttl": [list(pair) for pair in self.ttl],
        }
        if self.refresh:
            data["refresh"] = [list(pair) for pair in self.refresh]
        return orjson.dumps(data)

    @classmethod
    def decode(cls, payload: bytes) -> "PublishedRules":
        """Read that JSON; raises `MessageError`."""
        data = _object(payload)
        if data.get("v") != VERSION:
            raise MessageError("the published rules are of a version this release does not speak")
        return cls(
            _text(data, "hash", limit=128),
            _strings(data, "patterns"),
            _pairs(data, "ttl", zero=False),
            _pairs(data, "refresh", zero=True) if "refresh" in data else (),
        )

    def owns(self, key: str) -> bool:
        """Whether a rule owns ``key``, so that changes of the database invalidate it."""
        data = key.encode("utf-8", "surrogatepass")
        return any(glob_regex(pattern).match(data) for pattern in self.patterns)

    def ttl_of(self, key: str) -> float | None:
        """Seconds that the first matching ``[ttl]`` pattern gives, or None."""
        data = key.encode("utf-8", "surrogatepass")
        return next((seconds for pattern, seconds in self.ttl if glob_regex(pattern).match(data)), None)

    def refresh_of(self, key: str) -> float | None:
        """Most seconds ``key`` may be served after a change while it is made new; None: it is not made new.

        The worker tells refreshes apart by segments of the key, and globs do not. To look for a stale value
        that the worker did not keep costs nothing; not to look for one that it did would cost a wait.
        """
        if not self.refresh:
            return None
        data = key.encode("utf-8", "surrogatepass")
        return max((most for pattern, most in self.refresh if glob_regex(pattern).match(data)), default=None)


def key_list(items: list[str]) -> bytes:
    """A JSON array of keys or patterns, as the Lua scripts splice it into a message."""
    return orjson.dumps(items)


def _object(payload: bytes) -> dict[str, object]:
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise MessageError("a message was not JSON") from None
    if not isinstance(data, dict):
        raise MessageError("a message was not a JSON object")
    return data


def _text(data: dict[str, object], name: str, *, limit: int) -> str:
    value = data.get(name)
    if not isinstance(value, str) or len(value) > limit:
        raise MessageError(f"a message's {name} is not a string of at most {limit} characters")
    return value


def _pairs(data: dict[str, object], name: str, *, zero: bool) -> tuple[tuple[str, float], ...]:
    pairs = data.get(name)
    if not isinstance(pairs, list):
        raise MessageError(f"the published rules' {name} is not a list")
    found: list[tuple[str, float]] = []
    for pair in pairs:
        match pair:
            case [str() as pattern, (int() | float()) as seconds] if 0 < seconds < 1e10 or (
                zero and seconds == 0
            ):
                found.append((pattern, float(seconds)))
            case _:
                raise MessageError(f"the published rules' {name} is not made of [pattern, seconds]")
    return tuple(found)


def _optional(data: dict[str, object], name: str, *, limit: int) -> str:
    return _text(data, name, limit=limit) if name in data else ""


def lsn(text: str) -> int:
    """A WAL position as Postgres writes it (``16/B374D848``) as a number; 0 for anything else."""
    high, _, low = text.partition("/")
    try:
        return (int(high, 16) << 32) | int(low, 16)
    except ValueError:
        return 0


def _whole(data: dict[str, object], name: str) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise MessageError(f"a message's {name} is not a whole number from 0 to 2**53")
    return value


def _strings(data: dict[str, object], name: str) -> tuple[str, ...]:
    value = data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MessageError(f"a message's {name} is not a list of strings")
    return tuple(value)
