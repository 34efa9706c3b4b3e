"""In-flight marks: which reads began before an invalidation and so must not be kept. No I/O."""

import math
from collections.abc import Callable, Iterable, Iterator

from unstale.protocol.names import glob_regex


class Mark:
    """Stands for one read in flight; dirty once its key was invalidated (or everything was flushed).

    Attributes:
        key: What is being read.
        clean: Nothing concerning the key happened since the mark was opened.
        soiled_by: Log id of the newest message that concerned it; infinite for what has none, 0 while clean.
        on_dirty: Called once when that changes; wakes whoever waits for another's lease.
        older: The mark of the same key that was opened before this one.
    """

    __slots__ = ("clean", "key", "older", "on_dirty", "soiled_by")

    def __init__(self, key: str, older: "Mark | None" = None) -> None:
        self.key = key
        self.older = older
        self.clean = True
        self.soiled_by = 0.0
        self.on_dirty: Callable[[], object] | None = None

    def soil(self, by: float = math.inf) -> None:
        """The key was invalidated, by the message with this log id if there is one."""
        self.soiled_by = max(self.soiled_by, by)
        if self.clean:
            self.clean = False
            if self.on_dirty is not None:
                self.on_dirty()


class Marks:
    """Every mark of one process, by key."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        # The newest mark of each key; the others hang on it. Mostly there is one, and a list would cost more.
        self._by_key: dict[str, Mark] = {}

    def __len__(self) -> int:
        return sum(1 for key in self._by_key for _ in self._of(key))

    def open(self, key: str) -> Mark:
        """Register a read of ``key``; do it *before* the read is sent, and `close` it afterwards."""
        mark = self._by_key[key] = Mark(key, self._by_key.get(key))
        return mark

    def close(self, mark: Mark) -> None:
        """Forget a mark; closing it twice does no harm."""
        newest = self._by_key.get(mark.key)
        if newest is mark:
            if mark.older is None:
                del self._by_key[mark.key]
            else:
                self._by_key[mark.key] = mark.older
            return
        while newest is not None:
            if newest.older is mark:
                newest.older = mark.older
                return
            newest = newest.older

    def soil(self, key: str, by: float = math.inf) -> None:
        """``key`` was invalidated, by the message with this log id if there is one."""
        if key in self._by_key:
            for mark in tuple(self._of(key)):
                mark.soil(by)

    def _of(self, key: str) -> Iterator[Mark]:
        mark = self._by_key.get(key)
        while mark is not None:
            yield mark
            mark = mark.older

    def soil_matching(self, patterns: Iterable[str], by: float = math.inf) -> None:
        """Every key that one of the Redis globs matches was invalidated; ``by`` as in `soil`."""
        expressions = [glob_regex(pattern) for pattern in patterns]
        for key in tuple(self._by_key):
            if any(expression.match(key.encode()) for expression in expressions):
                self.soil(key, by)

    def soil_all(self) -> None:
        """Everything was flushed."""
        for key in tuple(self._by_key):
            self.soil(key)
