"""The near cache: encoded values inside the process, bounded by entries and bytes. No I/O."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from unstale.protocol.names import glob_regex, literal_beginning

UNSET: Final = object()
"""An entry's ``frozen`` while nobody has asked for the shared object."""

FROZEN_FACTOR: Final = 6
"""Bytes a frozen object is counted with per byte of its JSON (measured: 4 to 7 for small profiles)."""


class Entry:
    """One value.

    Attributes:
        data: Its JSON.
        expires: Moment on the near cache's clock after which it is not served.
        frozen: The shared object made of it, or `UNSET`.
        size: Bytes it is counted with.
        logged: Log id under which this process itself put it into Redis; 0 when it did not.
    """

    __slots__ = ("data", "expires", "frozen", "logged", "size")

    def __init__(self, data: bytes, expires: float, size: int, logged: int) -> None:
        self.data = data
        self.expires = expires
        self.size = size
        self.logged = logged
        self.frozen: Any = UNSET


class NearCache:
    """Values by key; the least recently used go first when a bound is reached.

    ``trusted_until`` is the moment up to which what it holds may be served. The subscriber moves it; a read
    compares it with the clock, so that a process that was paused does not trust itself when it wakes.

    Example:
        >>> near = NearCache(max_entries=2, max_bytes=1_000, clock=lambda: 0.0)
        >>> near.trusted_until = 10.0
        >>> near.put("a", b"1", expires=5.0)
        >>> near.read("a").data
        b'1'
    """

    __slots__ = (
        "_bytes",
        "_clock",
        "_entries",
        "evictions",
        "max_bytes",
        "max_entries",
        "peek",
        "touch",
        "trusted_until",
    )

    def __init__(self, *, max_entries: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.trusted_until = float("-inf")
        self.evictions = 0
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        # The two halves of `read` for the one caller that cannot afford a Python call between them.
        self.peek: Final = self._entries.get
        self.touch: Final = self._entries.move_to_end

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of keys, encoded values and frozen objects held, as counted."""
        return self._bytes

    def read(self, key: str) -> Entry | None:
        """The entry, if it may be served now; it becomes the most recently used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if now >= self.trusted_until:
            return None
        if now >= entry.expires:
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: str, data: bytes, *, expires: float, logged: int = 0) -> None:
        """Hold ``data`` until ``expires``; a value larger than the whole cache is not held.

        ``logged`` is the log id under which it is in Redis, if this process put it there.
        """
        if key in self._entries:
            self.drop(key)
        size = len(data) + len(key)
        if self.max_entries == 0 or size > self.max_bytes:
            return
        self._entries[key] = Entry(data, expires, size, logged)
        self._bytes += size
        if self._bytes > self.max_bytes or len(self._entries) > self.max_entries:
            self._evict()

    def share(self, key: str, entry: Entry, frozen: object) -> None:
        """Keep the frozen object of ``entry`` beside its JSON, and count it."""
        entry.frozen = frozen
        if self._entries.get(key) is entry:
            more = len(entry.data) * FROZEN_FACTOR
            entry.size += more
            self._bytes += more
            self._evict()

    def drop(self, key: str, *, before: float = math.inf) -> bool:
        """Forget one key, unless it was put under log id ``before`` or a later one; whether it went."""
        entry = self._entries.get(key)
        if entry is None or entry.logged >= before:
            return False
        del self._entries[key]
        self._bytes -= entry.size
        return True

    def drop_matching(self, patterns: Iterable[str], *, before: float = math.inf) -> int:
        """Forget every key that one of the Redis globs matches, as `drop` does; how many were held."""
        # The literal beginning first: it rules most keys out at a tenth of what the expression costs.
        tests = [(literal_beginning(pattern), glob_regex(pattern)) for pattern in patterns]
        doomed = [
            key
            for key in self._entries
            if any(key.startswith(start) and expression.match(key.encode()) for start, expression in tests)
        ]
        return sum(self.drop(key, before=before) for key in doomed)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _evict(self) -> None:
        while self._entries and (len(self._entries) > self.max_entries or self._bytes > self.max_bytes):
            _, entry = self._entries.popitem(last=False)
            self._bytes -= entry.size
            self.evictions += 1

    def __repr__(self) -> str:
        return f"<NearCache {len(self._entries)} entries, {self._bytes} bytes>"
