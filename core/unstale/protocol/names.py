"""Every Redis key, channel, Postgres identifier and marker that unstale uses.

Nothing else builds such a name, so a name can be found, documented and changed in one place.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NewType

Key = NewType("Key", str)
"""A cache key as the user writes it: ``user:42:profile``."""

Pattern = NewType("Pattern", str)
"""A Redis glob over cache keys: ``user:*:profile``."""

Epoch = NewType("Epoch", str)
"""Random id (32 hex digits) of one unbroken history of the log."""

LogId = NewType("LogId", int)
"""Number of a log entry; 1 is the first of a fresh Redis, each entry adds one."""

# --- Postgres -----------------------------------------------------------------------------------
SCHEMA: Final = "unstale"
WAKEUP_CHANNEL: Final = "unstale_wakeup"
SLEEP_LOCK: Final = (1970496884, 1)
"""Advisory lock (classid, objid): held exclusively it means "the worker sleeps, notify it"."""
WORKER_ROLE: Final = "unstale_worker"
APPLICATION_NAME: Final = "unstale-worker"
"""``application_name`` of the worker's sessions: ``unstale-worker:<consumer>:<fence>`` or ``…:standby``."""

# --- Redis --------------------------------------------------------------------------------------
LEASE: Final = b"\x00unstale:lease:"
"""First bytes of a lease that a loader holds. JSON text cannot begin with a NUL byte."""
SOFT_LEASE: Final = b"\x00unstale:soft:"
"""First bytes of a lease that a missed ``get`` holds: a loader takes it over instead of waiting."""


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one namespace and partition.

    The braces are a Redis Cluster hash tag: all of them live in one slot.

    Example:
        >>> Names().state
        '{unstale:0}:state'
    """

    namespace: str = "unstale"
    partition: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.namespace):
            raise ValueError(
                f"namespace {self.namespace!r}: expected 1 to 64 letters, digits, '_', '.' or '-'"
            )

    @property
    def tag(self) -> str:
        """The common prefix, ``{unstale:0}``."""
        return f"{{{self.namespace}:{self.partition}}}"

    @property
    def state(self) -> str:
        """Hash without TTL: epoch, run, position and what belongs to them."""
        return f"{self.tag}:state"

    @property
    def rules(self) -> str:
        """String without TTL: what agents must know of the rules, as JSON."""
        return f"{self.tag}:rules"

    @property
    def log(self) -> str:
        """Stream bounded by bytes: one entry per message."""
        return f"{self.tag}:log"

    @property
    def leader(self) -> str:
        """String with PX: the leader's lease."""
        return f"{self.tag}:leader"

    @property
    def channel(self) -> str:
        """Pub/sub channel of messages and watermarks."""
        return f"{self.tag}:invalidations"

    def lock(self, name: str) -> str:
        """String with PX: the lease of whoever holds the lock ``name``."""
        return f"{self.tag}:lock:{name}"

    @property
    def locks(self) -> str:
        """String with PX: the last fence number of any lock."""
        return f"{self.tag}:locks"

    def stale(self, key: str) -> str:
        """String with PX: the value of ``key`` that was true until its last change."""
        return f"{self.tag}:stale:{key}"

    @property
    def refresh(self) -> str:
        """Sorted set without TTL: keys to be made new, by the server's time in ms when that is due."""
        return f"{self.tag}:refresh"

    @property
    def dead_letters(self) -> str:
        """Hash without TTL: keys that could not be made new, and why."""
        return f"{self.tag}:dead"

    @property
    def refresh_counts(self) -> str:
        """Hash without TTL: totals of refreshes over all processes: filled, overtaken, failed, dead."""
        return f"{self.tag}:refreshed"

    @property
    def refresh_workers(self) -> str:
        """Sorted set with PX: refresh workers, by the server's time in ms when each was last heard of."""
        return f"{self.tag}:refresh-workers"

    def refresh_running(self, pattern: str) -> str:
        """Sorted set with PX: slots of running loads, by the server's time in ms when each is free again."""
        return f"{self.tag}:running:{pattern}"

    def refresh_rate(self, pattern: str) -> str:
        """Sorted set with PX: loads of the last rate window, by the server's time in ms when each began."""
        return f"{self.tag}:rate:{pattern}"

    def refresh_failures(self, key: str) -> str:
        """String with PX: how often in a row the refresh of ``key`` has failed."""
        return f"{self.tag}:failures:{key}"

    def refresh_pause(self, loader: str) -> str:
        """String with PX: stands while no process may call ``loader``."""
        return f"{self.tag}:pause:{loader}"

    @property
    def permanent(self) -> frozenset[str]:
        """The keys that may live without a TTL; everything else unstale writes expires."""
        return frozenset(
            {self.state, self.rules, self.log, self.refresh, self.dead_letters, self.refresh_counts}
        )


def escape_glob(text: str) -> str:
    r"""Quote what a Redis glob would interpret (``* ? [ ] \``) in ``text``.

    >>> print(escape_glob("a*b"))
    a\*b
    """
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


@lru_cache(maxsize=4096)
def literal_beginning(pattern: str) -> str:
    r"""The text that every key matching a Redis glob begins with.

    >>> literal_beginning("user:42:*")
    'user:42:'
    """
    literal = ""
    characters = iter(pattern)
    for character in characters:
        if character in "*?[":
            break
        literal += next(characters, character) if character == "\\" else character
    return literal


@lru_cache(maxsize=4096)
def glob_regex(pattern: str) -> re.Pattern[bytes]:
    r"""Compile a Redis glob into an equivalent expression over UTF-8 bytes.

    Redis matches byte by byte, so this does too: ``?`` is one *byte*. The expression never backtracks over
    more than one ``*`` (each earlier one is atomic), so a hostile pattern costs O(len(pattern) * len(key)).
    An unclosed ``[`` reaches to the end of the pattern, as in Redis.
    """
    data = pattern.encode("utf-8", "surrogatepass")
    segments: list[bytes] = [b""]
    i = 0
    while i < len(data):
        byte = data[i : i + 1]
        if byte == b"*":
            if segments[-1] or len(segments) == 1:
                segments.append(b"")
            i += 1
        elif byte == b"?":
            segments[-1] += b"."
            i += 1
        elif byte == b"\\" and i + 1 < len(data):
            segments[-1] += re.escape(data[i + 1 : i + 2])
            i += 2
        elif byte == b"[":
            expression, i = _byte_class(data, i + 1)
            segments[-1] += expression
        else:
            segments[-1] += re.escape(byte)
            i += 1
    if len(segments) == 1:
        return re.compile(segments[0] + rb"\Z", re.DOTALL)
    first, *middle, last = segments
    atomic = b"".join(b"(?>.*?" + segment + b")" for segment in middle)
    return re.compile(first + atomic + b".*" + last + rb"\Z", re.DOTALL)


def _byte_class(data: bytes, i: int) -> tuple[bytes, int]:
    negated = data[i : i + 1] == b"^"
    if negated:
        i += 1
    members: set[int] = set()
    while i < len(data) and data[i : i + 1] != b"]":
        if data[i : i + 1] == b"\\" and i + 1 < len(data):
            members.add(data[i + 1])
            i += 2
        elif data[i + 1 : i + 2] == b"-" and i + 2 < len(data):
            low, high = sorted((data[i], data[i + 2]))
            members.update(range(low, high + 1))
            i += 3
        else:
            members.add(data[i])
            i += 1
    allowed = set(range(256)) - members if negated else members
    if not allowed:
        return b"(?!)", i + 1
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(allowed)) + b"]", i + 1


def matches(pattern: str, key: str) -> bool:
    """Whether the Redis glob ``pattern`` matches the whole of ``key``."""
    return glob_regex(pattern).match(key.encode("utf-8", "surrogatepass")) is not None
