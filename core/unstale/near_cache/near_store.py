"""The near cache: encoded values inside the process, bounded by entries and bytes. Pure: no I/O."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from unstale.near_cache.tallies import UNCOUNTED, Tally
from unstale.protocol.globs import glob_regex, literal_beginning
from unstale.protocol.tags import NO_TAGS, record

UNSET: Final = object()
"""Value of an entry's ``frozen`` until a reader requests the shared object."""

ENTRY_BYTES: Final = 272
"""Bytes counted for an entry beside its key and its JSON (measured: 208 to 269): the entry, its numbers, the
header of its JSON, its place in the dict, and what the allocator adds."""

TAG_BYTES: Final = 300
"""Bytes counted for each tag of an entry, and for their set (measured: 216 for a set, and about as much for a
tag's place in the index if no other entry has the tag)."""

FROZEN_FACTOR: Final = 6
"""Bytes counted for a frozen object per byte of its JSON (measured: 4 to 7 for small profiles)."""


class Entry:
    """One value.

    Attributes:
        data: The value's JSON.
        expires: Moment on the near cache's clock after which the value is not served.
        frozen: The shared object decoded from the JSON, or `UNSET`.
        size: Bytes counted for the entry.
        tags: The tags of the value.
        used: True if it was read since an eviction last passed over it.
        tally: Where its hits are counted.
    """

    __slots__ = ("data", "expires", "frozen", "size", "tally", "used")

    tags: frozenset[str] = NO_TAGS

    def __init__(self, data: bytes, expires: float, size: int, tally: Tally) -> None:
        self.data = data
        self.expires = expires
        self.size = size
        self.tally = tally
        self.frozen: Any = UNSET
        self.used = False


class TaggedEntry(Entry):
    """A value that has tags; a class of its own, so that other entries need no room for them."""

    __slots__ = ("tags",)

    def __init__(self, data: bytes, expires: float, size: int, tally: Tally, tags: frozenset[str]) -> None:
        super().__init__(data, expires, size, tally)
        self.tags = tags


class NearStore:
    """Values by key. At a bound, the oldest entries that were not read recently are evicted.

    Eviction uses the clock algorithm: an entry that was read since the last pass gets a second chance.
    Keeping the exact order of use would make each hit a tenth slower.

    The store does not know about trust: `Freshness` decides if its values may be served.

    Example:
        >>> near = NearStore(max_entries=2, max_bytes=100_000, clock=lambda: 0.0)
        >>> near.put("a", b"1", expires=5.0)
        >>> near.read("a").data
        b'1'
    """

    __slots__ = (
        "_by_tag",
        "_bytes",
        "_clock",
        "_entries",
        "evictions",
        "max_bytes",
        "max_entries",
        "peek",
    )  # fmt: skip

    def __init__(self, *, max_entries: int, max_bytes: int, clock: Callable[[], float]) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.evictions = 0
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._by_tag: dict[str, set[str]] = {}
        self._bytes = 0
        # The first half of `read`, for `Cache.get_or_load`, which cannot afford a Python call.
        self.peek: Final = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of memory that keys, encoded values and frozen objects take, with what surrounds them."""
        return self._bytes

    def read(self, key: str) -> Entry | None:
        """Return the entry unless it has expired, and mark it as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.expires:
            self.drop(key)
            return None
        entry.used = True
        return entry

    def put(
        self,
        key: str,
        data: bytes,
        expires: float,
        tags: frozenset[str] = NO_TAGS,
        tally: Tally = UNCOUNTED,
    ) -> None:
        """Store ``data`` under ``tags`` until ``expires``, unless it is larger than the whole cache."""
        if key in self._entries:
            self.drop(key)
        size = ENTRY_BYTES + key.__sizeof__() + len(data)
        if tags:
            size += TAG_BYTES * (1 + len(tags))
        if self.max_entries == 0 or size > self.max_bytes:
            return
        if tags:
            self._entries[key] = TaggedEntry(data, expires, size, tally, tags)
            for tag in tags:
                self._by_tag.setdefault(tag, set()).add(key)
        else:
            self._entries[key] = Entry(data, expires, size, tally)
        self._bytes += size
        if self._bytes > self.max_bytes or len(self._entries) > self.max_entries:
            self._evict()

    def share(self, key: str, entry: Entry, frozen: object) -> None:
        """Store the frozen object of ``entry`` beside its JSON, and count its size."""
        entry.frozen = frozen
        if self._entries.get(key) is entry:
            more = len(entry.data) * FROZEN_FACTOR
            entry.size += more
            self._bytes += more
            self._evict()

    def drop(self, key: str) -> bool:
        """Remove one key; return True if it was held."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._bytes -= entry.size
        if entry.tags:
            self._forget(key, entry)
        return True

    def drop_tag(self, tag: str) -> int:
        """Remove all keys whose values have ``tag``; return how many were held."""
        return sum(self.drop(key) for key in tuple(self._by_tag.get(tag, ())))

    def drop_matching(self, patterns: Iterable[str]) -> int:
        """Remove all keys that match one of the Redis globs; return how many were held.

        A glob of tags' records removes the values that have one of the tags.
        """
        # Compare the literal beginnings first, all in one call: that excludes most keys at a fraction of an
        # expression's cost.
        patterns = tuple(patterns)
        beginnings = tuple(map(literal_beginning, patterns))
        likely = [key for key in self._entries if key.startswith(beginnings)]
        tests = [glob_regex(pattern).match for pattern in patterns]
        doomed = [key for key in likely if any(test(key.encode()) for test in tests)]
        tags = [tag for tag in self._by_tag if any(test(record(tag).encode()) for test in tests)]
        return sum(self.drop(key) for key in doomed) + sum(map(self.drop_tag, tags))

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self._by_tag.clear()
        self._bytes = 0

    def _evict(self) -> None:
        while self._entries and (len(self._entries) > self.max_entries or self._bytes > self.max_bytes):
            key, entry = self._entries.popitem(last=False)
            if entry.used:
                entry.used = False
                self._entries[key] = entry  # a second chance, at the end of the order
            else:
                self._bytes -= entry.size
                self.evictions += 1
                if entry.tags:
                    self._forget(key, entry)

    def _forget(self, key: str, entry: Entry) -> None:
        """Remove an entry from the index of tags."""
        for tag in entry.tags:
            keys = self._by_tag[tag]
            keys.discard(key)
            if not keys:
                del self._by_tag[tag]

    def __repr__(self) -> str:
        return f"<NearStore {len(self._entries)} entries, {self._bytes} bytes>"
