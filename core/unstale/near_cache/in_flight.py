"""Reads in flight: an invalidation during a read marks its result as not cacheable. Pure: no I/O."""

from collections.abc import Callable, Iterable, Iterator

from unstale.protocol.globs import glob_regex
from unstale.protocol.tags import NO_TAGS, record


class InFlightRead:
    """One read in progress.

    Attributes:
        key: The key that is being read.
        tags: The tags that the reader names.
        valid: True until the key or one of the tags is invalidated, or everything is flushed.
        on_invalidated: Called once when `valid` becomes False.
        older: The previous read of the same key that is still open.
        newer: The next one.
    """

    __slots__ = ("key", "newer", "older", "on_invalidated", "tags", "valid")

    def __init__(self, key: str, older: "InFlightRead | None" = None, tags: frozenset[str] = NO_TAGS) -> None:
        self.key = key
        self.tags = tags
        self.older = older
        self.newer: InFlightRead | None = None
        self.valid = True
        self.on_invalidated: Callable[[], object] | None = None

    def invalidate(self) -> None:
        """Mark the result of this read as not cacheable."""
        if self.valid:
            self.valid = False
            if self.on_invalidated is not None:
                self.on_invalidated()


class InFlightReads:
    """All reads in flight of one process, by key."""

    __slots__ = ("_by_key", "_tagged")

    def __init__(self) -> None:
        # The newest read of each key, linked to the older ones. There is usually one, and a list costs more.
        self._by_key: dict[str, InFlightRead] = {}
        self._tagged: set[InFlightRead] = set()

    def __len__(self) -> int:
        return sum(1 for key in self._by_key for _ in self._of(key))

    def open(self, key: str, tags: frozenset[str] = NO_TAGS) -> InFlightRead:
        """Register a read of ``key``. Call it *before* the read is sent, and `close` afterwards."""
        older = self._by_key.get(key)
        read = self._by_key[key] = InFlightRead(key, older, tags)
        if tags:
            self._tagged.add(read)
        if older is not None:
            older.newer = read
        return read

    def close(self, read: InFlightRead) -> None:
        """Remove a read; closing it twice is harmless."""
        if read.tags:
            self._tagged.discard(read)
        older, newer = read.older, read.newer
        if newer is not None:
            newer.older = older
        elif self._by_key.get(read.key) is not read:
            return  # closed before
        elif older is not None:
            self._by_key[read.key] = older
        else:
            del self._by_key[read.key]
        if older is not None:
            older.newer = newer
        read.older = read.newer = None

    def invalidate(self, key: str) -> None:
        """Invalidate all reads of ``key``."""
        if key in self._by_key:
            for read in tuple(self._of(key)):
                read.invalidate()

    def invalidate_tag(self, tag: str) -> None:
        """Invalidate all reads whose reader names ``tag``."""
        for read in tuple(self._tagged):
            if tag in read.tags:
                read.invalidate()

    def invalidate_matching(self, patterns: Iterable[str]) -> None:
        """Invalidate all reads of keys that match one of the Redis globs."""
        expressions = [glob_regex(pattern) for pattern in patterns]
        for key in tuple(self._by_key):
            if any(expression.match(key.encode()) for expression in expressions):
                self.invalidate(key)
        for read in tuple(self._tagged):
            if any(expression.match(record(tag).encode()) for expression in expressions for tag in read.tags):
                read.invalidate()

    def invalidate_all(self) -> None:
        """Invalidate all reads."""
        for key in tuple(self._by_key):
            self.invalidate(key)

    def _of(self, key: str) -> Iterator[InFlightRead]:
        read = self._by_key.get(key)
        while read is not None:
            yield read
            read = read.older
