"""The cache for code that does not await."""

import atexit
import contextlib
import contextvars
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, overload

from pydantic import TypeAdapter

from unstale.cache import Cache as AsyncCache
from unstale.decorator import P, R
from unstale.errors import CacheClosed
from unstale.locks import LOCK_SECONDS
from unstale.near_cache.near_store import UNSET, Entry
from unstale.protocol import codec
from unstale.protocol.durations import Duration
from unstale.protocol.models import Model
from unstale.protocol.partitions import partition_of
from unstale.reading.batch_loader import ManyLoader
from unstale.reading.loader import Loader
from unstale.reading.options import (
    GetArguments,
    LoadArguments,
    ManyArguments,
    checked_options,
    distinct_keys,
)
from unstale.runtime.fork import forget_after_fork
from unstale.runtime.meant import suggesting
from unstale.settings import AgentSettings
from unstale.settings.variables import agent_settings
from unstale.stats import Counters, pictures
from unstale.sync.caller import WaitingCaller
from unstale.sync.decorator import Cached
from unstale.sync.lock import Lock
from unstale.sync.loop_thread import CLOSED, LoopThread
from unstale.sync.near_hits import NearHits
from unstale.sync.running_loop import refuse_in_event_loop, running_loop
from unstale.sync.subscription import Subscription
from unstale.wiring import Parts
from unstale.writing.read_leases import CALLER

T = TypeVar("T")

EXIT_SECONDS: Final = 2.0
"""Most seconds that the end of the process waits for the connections of an open cache to close."""

_MISS: Final[Any] = object()


class _Thread(threading.local):
    """The calling thread, as the owner of its missed reads."""

    def __init__(self) -> None:
        self.owner = _Owner()


class _Owner:
    """One thread; its missed reads end with it."""


_thread: Final = _Thread()


class _Life:
    """One opened cache: the asynchronous cache, its loop's thread, and the near hits of all threads."""

    def __init__(self, settings: AgentSettings) -> None:
        self.cache = AsyncCache(settings)
        self.loops = LoopThread("unstale-cache")
        try:
            # An empty context: what the cache starts must not keep the first caller's request alive.
            self.loops.run(lambda _: self.cache.start(), context=contextvars.Context())
        except BaseException:
            self.loops.stop(self.cache.close, wait=0)
            raise
        self.near = [NearHits(each.inspect()) for each in self.cache.partitions]

    def find(self, key: str) -> Entry | None:
        """Return the near entry of ``key`` if it may be served now."""
        near = self.near
        return near[0].find(key) if len(near) == 1 else near[partition_of(key, len(near))].find(key)

    def end(self, *, wait: float | None) -> None:
        """Close the cache and end the thread."""
        self.loops.stop(self.cache.close, wait=wait)


open_caches: "weakref.WeakSet[Cache]" = weakref.WeakSet()
"""The caches of this process that are open."""


class Cache:
    """A `unstale.Cache` for threads: the same calls, blocking, over one event loop in a daemon thread.

    Example:
        >>> cache = Cache.from_env()  # at module level; opened on first use
        >>> profile = cache.get_or_load("user:42:profile", lambda: load_profile(42))

    One object per process; any thread may use it. A near hit is answered in the calling thread
    (`unstale.sync.near_hits` says why that is safe). Plain loaders run in the thread of the caller, async
    ones on the event loop. A forked child opens a cache of its own on first use. Inside a running event loop,
    which it would block, each call raises RuntimeError.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._life: _Life | None = None
        self._closed = False
        self._opening = threading.Lock()
        self._finalizer: weakref.finalize[Any, Any] | None = None
        forget_after_fork(self)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Return a cache with the settings of the environment and ``.env``; arguments override them.

        Raises TypeError for an argument that is not a setting of the agent.
        """
        return cls(agent_settings(**overrides))

    # --- life -----------------------------------------------------------------------------------

    def open(self) -> Self:
        """Begin to follow the log. The first call of any other method does the same, unless it was closed.

        Waits as `unstale.Cache.start` does, and raises what that raises.
        """
        refuse_in_event_loop()
        with self._opening:
            if self._life is None:
                life = _Life(self.settings)
                self._finalizer = weakref.finalize(self, life.end, wait=0)
                self._finalizer.atexit = False  # `_close_all` waits for the connections
                self._life, self._closed = life, False
                open_caches.add(self)
        return self

    def close(self) -> None:
        """Stop following, cancel every load and close the connections; closing twice does no harm.

        Calls of other threads that wait, and all later calls, raise `CacheClosed` until it is opened again.
        """
        refuse_in_event_loop()
        self._end(closed=True)

    def reset(self) -> None:
        """Close, but let the next call open again. For tests; it blocks a running event loop."""
        self._end(closed=False)

    def _end(self, *, closed: bool) -> None:
        with self._opening:
            life, self._life, self._closed = self._life, None, closed
            open_caches.discard(self)
        if life is not None:
            if self._finalizer is not None:
                self._finalizer.detach()
            life.end(wait=None)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def after_fork(self) -> object:
        """Start in a forked child without the parent's thread and connections; see `Forgets`."""
        inherited = self._life, self._finalizer, self._opening
        if self._life is not None:
            self._life.loops.forget()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._life, self._finalizer, self._opening = None, None, threading.Lock()
        open_caches.discard(self)
        return inherited

    # --- reading --------------------------------------------------------------------------------

    @overload
    def get_or_load(
        self, key: str, loader: Loader, *, model: type[T] | TypeAdapter[T], **options: Unpack[LoadArguments]
    ) -> T | None: ...

    @overload
    def get_or_load(
        self, key: str, loader: Loader, *, model: None = None, **options: Unpack[LoadArguments]
    ) -> Any: ...

    def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        tags: Collection[str] | None = None,
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        max_staleness: Duration | None = None,
        fresh: bool = False,
        model: Model | None = None,
        shared: bool = False,
        refresh_ahead: float = 0.0,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
    ) -> Any:
        """Return the value of ``key``: see `unstale.Cache.get_or_load`, also for the arguments.

        ``loader`` is a plain function, which runs in this thread, or an async one, which runs on the cache's
        event loop. All threads that miss the same key wait for one load. A load in the background
        (``refresh_ahead``, an audit) runs a plain loader in a thread of its own, and so does a load with a
        ``soft_timeout``, as this thread may have to go on before it ends.
        """
        if max_staleness is None and not (fresh or refresh_ahead):
            value = self._near(key, model, shared, tags)
            if value is not _MISS:
                return value
        options: dict[str, Any] = {
            "tags": tags,
            "ttl": ttl,
            "negative_ttl": negative_ttl,
            "max_staleness": max_staleness,
            "fresh": fresh,
            "model": model,
            "shared": shared,
            "refresh_ahead": refresh_ahead,
            "soft_timeout": soft_timeout,
            "stale_if_error": stale_if_error,
        }

        def call(cache: AsyncCache, caller: WaitingCaller) -> Coroutine[Any, Any, Any]:
            caller.may_leave_early = soft_timeout is not None or cache.in_partition(
                key
            ).inspect().rules.may_be_slow(key)
            return cache.get_or_load(key, caller.loader(loader), **options)

        return self._run(call)

    @overload
    def get(
        self, key: str, *, model: type[T] | TypeAdapter[T], **options: Unpack[GetArguments]
    ) -> T | Any: ...

    @overload
    def get(self, key: str, *, model: None = None, **options: Unpack[GetArguments]) -> Any: ...

    def get(
        self,
        key: str,
        *,
        default: Any = None,
        tags: Collection[str] | None = None,
        model: Model | None = None,
        max_staleness: Duration | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> Any:
        """Return the cached value, which may be None, or ``default`` if there is none.

        After a miss, `set` in the same thread stores the value unless the key was invalidated in between. See
        `unstale.Cache.get` for the arguments.
        """
        if max_staleness is None and not fresh:
            value = self._near(key, model, shared, tags)
            if value is not _MISS:
                return value
        options: dict[str, Any] = {
            "tags": tags,
            "max_staleness": max_staleness,
            "fresh": fresh,
            "shared": shared,
        }
        return self._run(lambda cache, _: cache.get(key, default=default, model=model, **options))

    @overload
    def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        model: type[T] | TypeAdapter[T],
        **options: Unpack[ManyArguments],
    ) -> dict[str, T | None]: ...

    @overload
    def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        model: None = None,
        **options: Unpack[ManyArguments],
    ) -> dict[str, Any]: ...

    def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        tags: Collection[str] | Callable[[str], Collection[str]] | None = None,
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        max_staleness: Duration | None = None,
        model: Model | None = None,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
    ) -> Any:
        """Return the values of many keys, in their order, by one trip to Redis and one call of ``loader``.

        See `unstale.Cache.get_many`. A plain ``loader`` runs in this thread.
        """
        wanted = distinct_keys(keys)
        options: dict[str, Any] = {
            "tags": tags,
            "ttl": ttl,
            "negative_ttl": negative_ttl,
            "max_staleness": max_staleness,
            "model": model,
            "soft_timeout": soft_timeout,
            "stale_if_error": stale_if_error,
        }

        def call(cache: AsyncCache, caller: WaitingCaller) -> Coroutine[Any, Any, Any]:
            slow = (cache.in_partition(key).inspect().rules.may_be_slow(key) for key in wanted)
            caller.may_leave_early = soft_timeout is not None or any(slow)
            return cache.get_many(wanted, None if loader is None else caller.many_loader(loader), **options)

        return self._run(call)

    @suggesting
    def cached(
        self,
        template: str,
        *,
        tags: Collection[str] = (),
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        model: Model | None = None,
        refresh_ahead: float = 0.0,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
        ignore: Collection[str] = (),
    ) -> Callable[[Callable[P, R]], Cached[P, R]]:
        """Cache what a plain function returns, under a key made of its arguments.

        See `unstale.Cache.cached` for the arguments. Raises `ConfigurationError` for a template that does not
        fit, and for an async function.

        Example:
            >>> @cache.cached("user:{user_id}:profile", ttl=3600)
            ... def profile(user_id: int) -> Profile | None:
            ...     return load_profile(user_id)
        """
        options = checked_options(
            ttl=ttl, negative_ttl=negative_ttl, soft_timeout=soft_timeout, stale_if_error=stale_if_error
        )

        def decorate(function: Callable[P, R]) -> Cached[P, R]:
            return Cached(
                self,
                template,
                function,
                tags=tags,
                ttl=options.ttl,
                negative_ttl=options.negative_ttl,
                model=model,
                refresh_ahead=refresh_ahead,
                soft_timeout=options.soft_timeout,
                stale_if_error=options.stale_if_error,
                ignore=tuple(ignore),
            )

        return decorate

    # --- writing --------------------------------------------------------------------------------

    def set(
        self, key: str, value: object, ttl: Duration | None = None, *, tags: Collection[str] | None = None
    ) -> bool:
        """Store a value; return True if it was stored in Redis. See `unstale.Cache.set`.

        A key that a rule owns is stored only after a `get` of the same thread that missed.
        """
        return self._run(lambda cache, _: cache.set(key, value, ttl, tags=tags))

    def delete(self, key: str, *keys: str, lsn: str | None = None) -> None:
        """Invalidate keys in Redis and in every instance; call it after your transaction has committed.

        When it returns, no thread of this process reads an older value. See `unstale.Cache.delete`.
        """
        self._run(lambda cache, _: cache.delete(key, *keys, lsn=lsn))

    def invalidate_tag(self, tag: str, *, lsn: str | None = None) -> None:
        """Invalidate every value that was stored under ``tag``. See `unstale.Cache.invalidate_tag`."""
        self._run(lambda cache, _: cache.invalidate_tag(tag, lsn=lsn))

    def invalidate_tags(self, tags: Iterable[str], *, lsn: str | None = None) -> None:
        """Invalidate several tags: see `invalidate_tag`."""
        self._run(lambda cache, _: cache.invalidate_tags(tags, lsn=lsn))

    def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the Redis glob matches. See `unstale.Cache.invalidate_pattern`."""
        return self._run(lambda cache, _: cache.invalidate_pattern(pattern))

    def lock(self, name: str, *, ttl: Duration = LOCK_SECONDS, timeout: Duration | None = 10.0) -> Lock:
        """Return a lock between all instances and threads, for ``with``. See `unstale.Cache.lock`.

        Without Redis it holds between the threads of this process only, which is logged once.
        """
        life = self._opened()

        async def made(_caller: WaitingCaller) -> Lock:
            return Lock(life.loops, life.cache.lock(name, ttl=ttl, timeout=timeout))

        return life.loops.run(made)

    # --- freshness ------------------------------------------------------------------------------

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached, or not open."""
        life = self._life
        return float("inf") if life is None else life.cache.staleness

    @property
    def attached(self) -> bool:
        """True if the near cache may answer: the log is followed and watermarks arrive."""
        life = self._life
        return life is not None and life.cache.attached

    def wait_for(self, token: str, *, timeout: Duration = 5.0) -> None:
        """Wait until the transaction that ``select unstale.token()`` named is applied here.

        See `unstale.Cache.wait_for`.
        """
        self._run(lambda cache, _: cache.wait_for(token, timeout=timeout))

    @contextlib.contextmanager
    def subscribe(self, pattern: str = "*", *, reasons: bool = False) -> Iterator[Subscription]:
        """Iterate over `Invalidated` and `Reset` events of the keys that a Redis glob matches.

        The iterator blocks until the next event, and ends when the cache is closed. See
        `unstale.Cache.subscribe`.

        Example:
            >>> with cache.subscribe("user:42:*") as events:
            ...     for event in events:
            ...         rebuild(event)
        """
        life = self._opened()
        manager = life.cache.subscribe(pattern, reasons=reasons)
        events = life.loops.run(lambda _: manager.__aenter__())
        try:
            yield Subscription(life.loops, events)
        finally:
            with contextlib.suppress(CacheClosed):
                life.loops.run(lambda _: manager.__aexit__(None, None, None))

    # --- operating ------------------------------------------------------------------------------

    def audit(self, key: str, loader: Loader) -> bool | None:
        """Compare the cached value of ``key`` with what ``loader`` returns. See `unstale.Cache.audit`."""
        return self._run(lambda cache, caller: cache.audit(key, caller.loader(loader)))

    def counters(self) -> Counters:
        """Return what this cache has done since it was last opened; no I/O once it is open."""
        return _counters(self._opened())

    def get_stats(self) -> dict[str, object]:
        """Return counters and state, JSON-ready. See `unstale.Cache.get_stats`."""
        life = self._opened()
        return life.loops.run(
            lambda _: pictures([each.inspect() for each in life.cache.partitions], _counters(life))
        )

    def inspect(self) -> Parts:
        """Return the parts this cache is made of, for tests and tools. They may change in any release."""
        return self._opened().cache.inspect()

    # --- inside ---------------------------------------------------------------------------------

    def _near(self, key: str, model: Model | None, shared: bool, tags: Collection[str] | None = None) -> Any:
        """Return the near value of ``key`` if it has ``tags``, or `_MISS` if the read has to ask the loop."""
        if running_loop() is not None:
            refuse_in_event_loop()
        life = self._life
        if life is None:
            return _MISS
        entry = life.find(key)
        if entry is None or (tags is not None and not entry.tags.issuperset(tags)):
            return _MISS
        if not shared:
            try:
                value = codec.decode(entry.data, model)
            except ValueError:  # another model's value, which the loop replaces
                return _MISS
        elif model is None and entry.frozen is not UNSET:
            value = entry.frozen
        else:
            return _MISS
        entry.tally.thread_hits.add()
        return value

    def _opened(self) -> _Life:
        refuse_in_event_loop()
        life = self._life
        while life is None:
            if self._closed:
                raise CacheClosed(CLOSED)
            self.open()
            life = self._life
        return life

    def _run(self, work: Callable[[AsyncCache, WaitingCaller], Coroutine[Any, Any, T]]) -> T:
        """Run a call of the asynchronous cache in the caller's context, and wait for it."""
        life = self._opened()
        context = contextvars.copy_context()
        context.run(CALLER.set, _thread.owner)
        return life.loops.run(lambda caller: work(life.cache, caller), context=context)

    def __repr__(self) -> str:
        life = self._life
        state = repr(life.cache) if life is not None else "closed" if self._closed else "not open"
        return f"<sync.Cache {state}>"


def _counters(life: _Life) -> Counters:
    counters = life.cache.counters()
    return replace(counters, near_hits=counters.near_hits + sum(each.hits for each in life.near))


def _close_all() -> None:
    """Close the connections of every open cache at the end of the process."""
    for cache in tuple(open_caches):
        life = cache._life
        if life is not None:
            life.end(wait=EXIT_SECONDS)


atexit.register(_close_all)
