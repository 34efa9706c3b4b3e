"""Messages between processes: invalidations and watermarks. They are versioned.

A message can only *remove* values and never carries one, so a forged or repeated message can cost a miss but
never a wrong answer. Unknown fields are ignored. A message of another version decodes to `UnknownVersion`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import orjson

from unstale.errors import MessageError
from unstale.protocol.globs import glob_regex, segments_regex
from unstale.protocol.key_forms import KINDS, KeyForm, right_key, usable
from unstale.protocol.key_watches import (
    Kept,
    KeyWatch,
    decoded,
    decoded_kept,
    encoded,
    encoded_kept,
)
from unstale.protocol.names import Epoch, LogId
from unstale.protocol.reasons import table_number
from unstale.protocol.tags import is_record

VERSION: Final = 1
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""Longest JSON of one message; a larger invalidation is split into several messages."""
FORMER_SECONDS: Final = 7 * 86400.0
"""Seconds for which a pattern counts as former: no deploy takes longer than a week."""
MOST_FORMER: Final = 200
"""Most former patterns; the newest are kept."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``: the set of visible transactions.

    Attributes:
        xmin: Every transaction below this is visible.
        xmax: No transaction at or above this is visible.
        xip: Transactions in between that are *not* visible.
    """

    xmin: int
    xmax: int
    xip: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Parse Postgres' text form ``xmin:xmax:xip,xip``; raises `MessageError`."""
        try:
            low, high, middle = text.split(":")
            xmin, xmax = int(low), int(high)
            xip = frozenset(int(part) for part in middle.split(",")) if middle else frozenset[int]()
        except ValueError:
            raise MessageError("a snapshot was not of the form xmin:xmax:xip") from None
        if not 0 < xmin <= xmax or any(not xmin <= x < xmax for x in xip):
            raise MessageError("a snapshot's numbers are out of order")
        return cls(xmin, xmax, xip)

    @staticmethod
    def xmax_of(text: str) -> int:
        """Return ``xmax`` of a text that `parse` has accepted, without parsing the rest."""
        return int(text.split(":", 2)[1])

    def includes(self, xid: int) -> bool:
        """Return True if transaction ``xid`` (a full 64-bit id) is visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.xip)

    def meet(self, other: "Snapshot") -> "Snapshot":
        """Return the snapshot of the transactions that both include.

        >>> str(Snapshot.parse("5:9:5,7").meet(Snapshot.parse("6:8:6")))
        '5:8:5,6,7'
        """
        xmax = min(self.xmax, other.xmax)
        xip = frozenset(xid for xid in self.xip | other.xip if xid < xmax)
        return Snapshot(min([xmax, *xip]), xmax, xip)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"


@dataclass(frozen=True, slots=True)
class Invalidation:
    """An invalidation: the values of these keys, and of keys that match these patterns, are out of date.

    Attributes:
        epoch: Epoch of the log.
        id: Id of the log entry with the same content.
        prev: Id of the entry before it. A receiver that saw another id last has missed something.
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
    """A watermark: every change that ``seen`` includes has been applied.

    Attributes:
        epoch: The current epoch of the log.
        last: Id of the newest log entry.
        seen: The snapshot in which the worker read the outbox.
        lsn: WAL position that covers the snapshot, as Postgres writes it (``16/B374D848``).
        rules: Hash of the rules in force.
        age_ms: Milliseconds since the worker *began* the read of ``seen``, by the worker's clock.
        flushed: WAL position that was on disk at that time; no crash can undo what lies before it.
        database: Identity of the database that was read, as ``unstale.database()`` returns it.
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
    """A message of a version this release cannot read: drop the near cache and stay detached."""

    version: object


Message = Invalidation | Watermark | UnknownVersion


def decode(payload: bytes) -> Message:
    """Decode a message from the channel; raises `MessageError` if it is invalid."""
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
    """Decode a log entry; raises `MessageError`. ``body`` is the message's JSON without the braces."""
    data = _object(b"{" + body + b"}")
    return Invalidation(
        epoch, LogId(entry_id), LogId(entry_id - 1), _strings(data, "keys"), _strings(data, "patterns")
    )


@dataclass(frozen=True, slots=True)
class PublishedRules:
    """The rules as far as agents need them.

    Attributes:
        hash: Hash of the rules.
        patterns: A glob for each key template; together they match the keys that the rules own.
        ttl: Pattern and seconds, in file order; the first match counts.
        refresh: For keys that are refreshed when they change: pattern, and seconds for which the old value
            may be served after a change (0: not at all). A glob may also match keys of another refresh.
        forms: The spelling of the keys of each template whose columns' types tell. A pattern without a form
            matches keys in any spelling.
        former: Pattern, and the Unix time at which a change of the rules left its keys without an owner.
        reads: Pattern, and the ``soft_timeout`` and ``stale_if_error`` of its keys in seconds (0: none); the
            first match counts. The worker bounds the spare values of exactly these keys.
        meanings: Pattern, and a text that changes with what decides when its keys are invalidated. Agents do
            not read it; the worker compares it when the rules change.
        tables: The watched tables, as in ``public.profiles``; reasons in the log give their numbers only.
        watches: The watches of the rules file, which a worker with other rules keeps for a while.
        kept: The former watches that are applied beside them. Their patterns are among ``patterns``, as
            changes invalidate their keys like any other.
    """

    hash: str = ""
    patterns: tuple[str, ...] = ()
    ttl: tuple[tuple[str, float], ...] = ()
    refresh: tuple[tuple[str, float], ...] = ()
    forms: tuple[KeyForm, ...] = ()
    former: tuple[tuple[str, float], ...] = ()
    meanings: tuple[tuple[str, str], ...] = ()
    tables: tuple[str, ...] = ()
    reads: tuple[tuple[str, float, float], ...] = ()
    watches: tuple[KeyWatch, ...] = ()
    kept: tuple[Kept, ...] = ()

    def encode(self) -> bytes:
        """Return the JSON that is stored under ``{unstale:0}:rules``."""
        data: dict[str, object] = {
            "v": VERSION,
            "hash": self.hash,
            "patterns": list(self.patterns),
            "ttl": [list(pair) for pair in self.ttl],
        }
        if self.refresh:
            data["refresh"] = [list(pair) for pair in self.refresh]
        if self.forms:
            data["forms"] = [list(form) for form in self.forms]
        if self.former:
            data["former"] = [list(pair) for pair in self.former]
        if self.reads:
            data["reads"] = [list(each) for each in self.reads]
        if self.meanings:
            data["meanings"] = [list(pair) for pair in self.meanings]
        if self.tables:
            data["tables"] = list(self.tables)
        if self.watches:
            data["watches"] = encoded(self.watches)
        if self.kept:
            data["kept"] = encoded_kept(self.kept)
        return orjson.dumps(data)

    @classmethod
    def decode(cls, payload: bytes) -> "PublishedRules":
        """Decode that JSON; raises `MessageError`."""
        data = _object(payload)
        if data.get("v") != VERSION:
            raise MessageError("the published rules are of a version that this release cannot read")
        return cls(
            _text(data, "hash", limit=128),
            _strings(data, "patterns"),
            _pairs(data, "ttl", zero=False),
            _pairs(data, "refresh", zero=True) if "refresh" in data else (),
            _forms(data),
            _pairs(data, "former", zero=False) if "former" in data else (),
            _meanings(data),
            _strings(data, "tables"),
            _reads(data),
            decoded(data.get("watches")),
            decoded_kept(data.get("kept")),
        )

    @property
    def applied(self) -> tuple[KeyWatch, ...]:
        """The watches of the rules file, and the former ones beside them."""
        return (*self.watches, *(each.watch for each in self.kept))

    @property
    def former_patterns(self) -> frozenset[str]:
        """The patterns that only former watches have: no template of the rules file makes such keys."""
        return frozenset(each.alone for each in self.kept if each.alone)

    def former_owners(self, key: str) -> frozenset[str]:
        """Return the patterns by which only former watches own ``key``, or the record of a tag.

        There is none if the rules file owns the key and no placeholder has to hold a colon for that.
        """
        owners, data = frozenset(self.owners(key)), key.encode("utf-8", "surrogatepass")
        former = owners & self.former_patterns
        if any(segments_regex(other).match(data) for other in owners - former):
            return frozenset()
        return former

    @property
    def table_names(self) -> dict[int, str]:
        """The tables by their number in the log; see `unstale.protocol.reasons`."""
        return {table_number(*table.split(".", 1)): table for table in self.tables if "." in table}

    @property
    def keeps_older(self) -> bool:
        """True if an older value of any key may be kept after a change."""
        return any(seconds for _, seconds in self.refresh) or any(bound for _, _, bound in self.reads)

    def reads_of(self, key: str) -> tuple[float, float]:
        """Return ``soft_timeout`` and ``stale_if_error`` of ``key`` in seconds; 0: none."""
        data = key.encode("utf-8", "surrogatepass") if self.reads else b""
        for pattern, soft, bound in self.reads:
            if glob_regex(pattern).match(data):
                return soft, bound
        return 0.0, 0.0

    def after(self, before: "PublishedRules", *, now: float) -> "PublishedRules":
        """Return these rules with the patterns that ``before`` owned, or lost lately, and that these lack."""
        lost = dict.fromkeys(before.patterns, now) | {
            pattern: since for pattern, since in before.former if now - since < FORMER_SECONDS
        }
        gone = [(pattern, since) for pattern, since in lost.items() if pattern not in self.patterns]
        gone.sort(key=lambda pair: -pair[1])
        return replace(self, former=tuple(gone[:MOST_FORMER]))

    def owns(self, key: str) -> bool:
        """Return True if a rule owns ``key``, so that changes in the database invalidate it."""
        return self.owner(key) is not None

    def owner(self, key: str) -> str | None:
        """Return the first pattern that matches ``key``, or None if no rule owns it."""
        return next(self.owners(key), None)

    def owners(self, key: str) -> Iterator[str]:
        """Yield the patterns that match ``key``; those of tags match the records of tags only."""
        data, is_tag = key.encode("utf-8", "surrogatepass"), is_record(key)
        for pattern in self.patterns:
            if is_record(pattern) is is_tag and glob_regex(pattern).match(data):
                yield pattern

    def right_key(self, key: str) -> str | None:
        """Return the spelling in which changes remove ``key``, which a pattern matches.

        None means that no row can have such a key, so that no change ever removes it.
        """
        forms = list[KeyForm]()
        for pattern in self.owners(key):
            own = [form for form in self.forms if form.pattern == pattern]
            if not own:
                return key
            forms += own
        return right_key(forms, key)

    def lost_owner(self, key: str, *, now: float) -> str | None:
        """Return the pattern by which a rule owned ``key`` until lately, or None. ``now`` is Unix time.

        Another pattern may still match the key: ``user:*`` matches what ``user:*:profile`` owned. It owns the
        key only if a row can have it, and if no placeholder has to hold a colon.
        """
        if not self.former:
            return None
        data = key.encode("utf-8", "surrogatepass")
        for pattern, since in self.former:
            if now - since < FORMER_SECONDS and glob_regex(pattern).match(data):
                owned = any(segments_regex(other).match(data) for other in self.owners(key))
                return None if owned and self.right_key(key) is not None else pattern
        return None

    def ttl_of(self, key: str) -> float | None:
        """Return the seconds of the first matching ``[ttl]`` pattern, or None."""
        found = self.ttl_pattern(key)
        return None if found is None else found[1]

    def ttl_pattern(self, key: str) -> tuple[str, float] | None:
        """Return the first matching ``[ttl]`` pattern with its seconds, or None."""
        data = key.encode("utf-8", "surrogatepass")
        return next((pair for pair in self.ttl if glob_regex(pair[0]).match(data)), None)

    def refresh_of(self, key: str) -> float | None:
        """Return the seconds for which ``key``'s old value may be served while it is refreshed.

        None means that ``key`` is not refreshed. The worker matches refreshes by the segments of a key, which
        globs cannot do, so several patterns may match; the longest time counts. Looking for a stale value
        that the worker did not keep costs nothing, but failing to look for one that it kept costs a wait.
        """
        if not self.refresh:
            return None
        data = key.encode("utf-8", "surrogatepass")
        return max((most for pattern, most in self.refresh if glob_regex(pattern).match(data)), default=None)


def key_list(items: list[str]) -> bytes:
    """Return keys or patterns as a JSON array, which the Lua scripts insert into a message."""
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


def _reads(data: dict[str, object]) -> tuple[tuple[str, float, float], ...]:
    reads = data.get("reads", [])
    if not isinstance(reads, list):
        raise MessageError("the published rules' reads is not a list")
    found: list[tuple[str, float, float]] = []
    for read in reads:
        match read:
            case [str() as pattern, (int() | float()) as soft, (int() | float()) as bound] if (
                0 <= soft < 1e10 and 0 <= bound < 1e10
            ):
                found.append((pattern, float(soft), float(bound)))
            case _:
                raise MessageError("the published rules' reads is not made of [pattern, seconds, seconds]")
    return tuple(found)


def _forms(data: dict[str, object]) -> tuple[KeyForm, ...]:
    forms = data.get("forms", [])
    if not isinstance(forms, list):
        raise MessageError("the published rules' forms is not a list")
    found: list[KeyForm] = []
    for form in forms:
        match form:
            case [str() as pattern, [*literals], [*kinds]] if len(literals) == len(kinds) + 1 and all(
                isinstance(text, str) for text in (*literals, *kinds)
            ):
                known = tuple(kind if kind in KINDS.values() else "" for kind in kinds)
                found.append(KeyForm(pattern, tuple(literals), known))
            case _:
                raise MessageError("the published rules' forms is not made of [pattern, literals, kinds]")
    return tuple(usable(found))


def _meanings(data: dict[str, object]) -> tuple[tuple[str, str], ...]:
    """Return the meanings; without a legible one every pattern counts as changed, which is safe."""
    pairs = data.get("meanings")
    if not isinstance(pairs, list):
        return ()
    return tuple(
        (pair[0], pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
    )


def _optional(data: dict[str, object], name: str, *, limit: int) -> str:
    return _text(data, name, limit=limit) if name in data else ""


def lsn(text: str) -> int:
    """Return a WAL position that Postgres wrote (``16/B374D848``) as a number; 0 for any other text."""
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
