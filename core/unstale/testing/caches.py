"""Every cache of the process in memory: no server, no opening, and a record of loads and invalidations.

The caches are real ones without Redis: read path, single flight and near cache are those of production. Two
parts are replaced: the shared tier records invalidations, and changes of the database come from the test.
"""

import asyncio
import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Collection, Iterator, Sequence
from typing import Any, Final, TypeVar

from unstale.cache import Cache
from unstale.protocol.globs import matches
from unstale.protocol.messages import PublishedRules, Snapshot
from unstale.protocol.names import TAG
from unstale.protocol.tags import is_record, record
from unstale.redis_tier.shared_tier import NoSharedTier
from unstale.testing.answer import Answer
from unstale.testing.clock import FakeClock
from unstale.wiring import Parts

T = TypeVar("T")

FOR_EVER: Final = 1e9
"""Seconds for which a test's cache is attached."""

_GLOB: Final = frozenset("*?[\\")


class _Tier(NoSharedTier):
    """No shared tier; what would be announced to other instances is told to the test's other caches."""

    def __init__(self, caches: "InMemory", cache: Cache) -> None:
        self._caches, self._cache = caches, cache

    async def invalidate(
        self, keys: Sequence[str] = (), *, patterns: Sequence[str] = (), lsn: str | None = None
    ) -> int:
        """Record the invalidation, and drop the copies of the other caches."""
        self._caches.announced(keys, patterns, by=self._cache)
        return 0


class _Before:
    """The state of a cache before the test."""

    def __init__(self, cache: Cache) -> None:
        self.parts, self.loop, self.thread = cache._parts, cache._loop, cache._thread
        self.closed = cache._closed

    def restore(self, cache: Cache) -> None:
        cache._use(self.parts)
        cache._loop, cache._thread, cache._closed = self.loop, self.thread, self.closed


class InMemory:
    """All caches of the process, as long as the test lasts.

    Example:
        >>> async def test_the_profile_is_loaded_once(unstale_cache):
        ...     assert await profile(42) == await profile(42)
        ...     assert unstale_cache.loaded_once("user:42:profile")

    Attributes:
        clock: The time of all caches; ``clock.advance(61)`` lets values expire.
    """

    def __init__(self, *, stores: bool = True) -> None:
        self.clock = FakeClock()
        self._stores = stores
        self._rules = PublishedRules("in memory", (), (("*", 60.0),))
        self._known: dict[Cache, tuple[Parts, _Before]] = {}
        self._lock = threading.RLock()
        self._loads: Counter[str] = Counter()
        self._keys: list[str] = []
        self._patterns: list[str] = []
        self._runner: asyncio.Runner | None = None

    # --- questions ------------------------------------------------------------------------------

    def loads(self, key: str) -> int:
        """Return how often ``key`` was loaded in this test."""
        return self._loads[key]

    def loaded_once(self, key: str) -> Answer:
        """Answer if ``key`` was loaded exactly once: ``assert unstale_cache.loaded_once(key)``."""
        count = self._loads[key]
        others = ", ".join(sorted(self._loads)) or "nothing"
        reason = f"{key!r} was loaded {count} times" if count else f"{key!r} was not loaded, but {others}"
        return Answer(count == 1, reason)

    def invalidated(self, pattern: str) -> Answer:
        """Answer if a key that matches this glob, or a glob that covers it, was invalidated."""
        keys = [key for key in self._keys if matches(pattern, key) and not is_record(key)]
        globs = [glob for glob in self._patterns if glob == pattern or matches(glob, pattern)]
        all_of_them = ", ".join(sorted({*self._keys, *self._patterns})) or "nothing"
        found = ", ".join(sorted({*keys, *globs}))
        return Answer(bool(found), f"invalidated: {found or all_of_them}")

    def invalidated_tag(self, tag: str) -> Answer:
        """Answer if ``tag`` was invalidated."""
        tags = sorted({key.removeprefix(TAG) for key in self._keys if is_record(key)})
        return Answer(tag in tags, f"tags invalidated: {', '.join(tags) or 'none'}")

    # --- acting ---------------------------------------------------------------------------------

    def change(self, *keys_or_globs: str, tags: Collection[str] = ()) -> None:
        """Invalidate keys, globs and tags in every cache, as a change does through the rules."""
        globs = [each for each in keys_or_globs if not _GLOB.isdisjoint(each)]
        keys = [each for each in keys_or_globs if each not in globs]
        self.announced([*keys, *map(record, tags)], globs)

    def own(self, *globs: str, tags: Collection[str] = ()) -> None:
        """Let a rule own the keys that match, and the tags that the globs in ``tags`` match.

        `Cache.set` then stores only after a `get` that missed.
        """
        self._rules = PublishedRules("in memory", (*globs, *map(record, tags)), (("*", 60.0),))
        for parts, _ in self._known.values():
            self._attach(parts)

    def run(self, work: Awaitable[T]) -> T:
        """Run a call of an asynchronous cache in a test that is a plain function; return its result."""

        async def running() -> T:
            return await work

        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(running())

    def forget(self) -> None:
        """Drop every value, and forget what was loaded and invalidated."""
        for parts, _ in self._known.values():
            parts.local.flush()
        self._loads.clear()
        self._keys.clear()
        self._patterns.clear()

    # --- called by the caches -------------------------------------------------------------------

    def announced(self, keys: Sequence[str], globs: Sequence[str], *, by: Cache | None = None) -> None:
        """Record an invalidation, and carry it out in all caches but the one that announces it."""
        self._keys += keys
        self._patterns += globs
        for cache, (parts, _) in tuple(self._known.items()):
            if cache is not by:
                _drop(cache, parts, tuple(keys), tuple(globs))

    def adopt(self, cache: Cache) -> None:
        """Let a cache serve from memory, in the event loop that runs."""
        with self._lock:
            if cache not in self._known:
                self._known[cache] = self._made(cache), _Before(cache)
                cache._use(self._known[cache][0])
            cache._loop, cache._thread = asyncio.get_running_loop(), threading.get_ident()
            cache._closed = False

    def _made(self, cache: Cache) -> Parts:
        changes: dict[str, Any] = {
            "redis_enabled": False,
            "embedded_worker": False,
            "audit_share": 0.0,
            "ttl_jitter": 0.0,
            "max_silence": FOR_EVER,
        }
        if not self._stores:
            changes["near_max_entries"] = 0
        settings = cache.settings.model_copy(update=changes)
        parts = Parts(settings, now=self.clock, tier=_Tier(self, cache))
        parts.path.on_load = self._loading
        self._attach(parts)
        return parts

    def _attach(self, parts: Parts) -> None:
        parts.feed.restart(self._rules)
        parts.feed.reached(self.clock(), seen=Snapshot(1, 1), lsn="0/1", flushed="0/1", database="1:1")

    def _loading(self, key: str) -> None:
        with self._lock:
            self._loads[key] += 1

    def end(self) -> None:
        """Give every cache back what it was before."""
        if self._runner is not None:
            self._runner.close()
        for cache, (parts, before) in self._known.items():
            parts.subscriptions.close()
            parts.tokens.close()
            before.restore(cache)
        self._known.clear()

    def __repr__(self) -> str:
        return f"<InMemory {len(self._known)} caches, {self._loads.total()} loads>"


@contextlib.contextmanager
def in_memory(*, stores: bool = True) -> Iterator[InMemory]:
    """Let every cache of this process work in memory inside the block, without a server.

    Caches need not be opened; opening and closing them does nothing. Afterwards each is what it was before.
    With ``stores=False`` no value is kept, so each read loads.

    Example:
        >>> with in_memory() as caches:
        ...     caches.run(profile(42))
    """
    caches = InMemory(stores=stores)

    async def start(cache: Cache) -> Cache:
        caches.adopt(cache)
        return cache

    async def close(_cache: Cache) -> None:
        """Keep the values: the next test has others."""

    replaced = {"start": start, "close": close, "_check_open": caches.adopt}
    kept = {name: getattr(Cache, name) for name in replaced}
    _reset_blocking_caches()
    for name, function in replaced.items():
        setattr(Cache, name, _method(function))
    try:
        yield caches
    finally:
        _reset_blocking_caches()
        for name, function in kept.items():
            setattr(Cache, name, function)
        caches.end()


def _method(function: Any) -> Any:
    def call(cache: Cache, *arguments: Any) -> Any:
        return function(cache, *arguments)

    return call


def _drop(cache: Cache, parts: Parts, keys: tuple[str, ...], globs: tuple[str, ...]) -> None:
    for key in keys:
        parts.local.near.drop(key)
        if is_record(key):
            parts.local.near.drop_tag(key.removeprefix(TAG))
    parts.local.near.drop_matching(globs)
    loop = cache._loop
    if loop is not None and loop.is_running() and cache._thread != threading.get_ident():
        loop.call_soon_threadsafe(parts.feed.drop, keys, globs)  # wakes subscribers there
    else:
        parts.feed.drop(keys, globs)


def _reset_blocking_caches() -> None:
    """Let each open `unstale.sync.Cache` open itself again on its next call."""
    module = sys.modules.get("unstale.sync.cache")
    if module is not None:
        for cache in tuple(module.open_caches):
            cache.reset()
