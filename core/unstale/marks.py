"""In-flight marks: which reads began before an invalidation and so must not be kept. No I/O."""

from collections.abc import Callable, Iterable

from unstale.names import glob_regex


class Mark:
    """Stands for one read in flight; dirty once its key was invalidated (or everything was flushed).

    Attributes:
        key: What is being read.
        clean: Nothing concerning the key happened since the mark was opened.
        on_dirty: Called once when that changes; wakes whoever waits for another's lease.
    """

    __slots__ = ("clean", "key", "on_dirty")

    def __init__(self, key: str) -> None:
        self.key = key
        self.clean = True
        self.on_dirty: Callable[[], object] | None = None

    def soil(self) -> None:
        """The key was invalidated."""
        if self.clean:
            self.clean = False
            if self.on_dirty is not None:
                self.on_dirty()


class Marks:
    """Every mark of one process, by key."""

    __slots__ = ("_by_key",)

    def __init__(self) -> None:
        self._by_key: dict[str, list[Mark]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def open(self, key: str) -> Mark:
        """Register a read of ``key``; do it *before* the read is sent, and `close` it afterwards."""
        mark = Mark(key)
        self._by_key.setdefault(key, []).append(mark)
        return mark

    def close(self, mark: Mark) -> None:
        """Forget a mark; closing it twice does no harm."""
        marks = self._by_key.get(mark.key)
        if marks is None or mark not in marks:
            return
        marks.remove(mark)
        if not marks:
            del self._by_key[mark.key]

    def soil(self, key: str) -> None:
        """``key`` was invalidated."""
        for mark in tuple(self._by_key.get(key, ())):
            mark.soil()

    def soil_matching(self, patterns: Iterable[str]) -> None:
        """Every key that one of the Redis globs matches was invalidated."""
        expressions = [glob_regex(pattern) for pattern in patterns]
        for key in tuple(self._by_key):
            if any(expression.match(key.encode()) for expression in expressions):
                self.soil(key)

    def soil_all(self) -> None:
        """Everything was flushed."""
        for key in tuple(self._by_key):
            self.soil(key)
