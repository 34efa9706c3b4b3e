"""The cache an agent uses: two tiers that follow the database."""

import asyncio
import contextlib
import re
import threading
import warnings
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from pydantic import BaseModel

from unstale import clock, codec
from unstale.assembly import Assembly
from unstale.errors import CacheClosed, RedisUnavailable
from unstale.events import Subscription
from unstale.following import Trust
from unstale.lane import CLOSED
from unstale.loads import Loaded, Loader, Origin
from unstale.locks import LOCK_SECONDS, Lock, Locks
from unstale.memory import UNSET, Entry
from unstale.settings import Settings
from unstale.statistics import Counters, count, describe
from unstale.tokens import Token

M = TypeVar("M", bound=BaseModel)

MAX_TTL: Final = 10 * 365 * 86_400.0
"""Longest time to live in seconds: ten years."""


class Cache:
    """Values by key, kept true to the database by invalidations.

    Example:
        >>> async with Cache.from_env() as cache:
        ...     profile = await cache.get_or_load("user:42:profile", lambda: load_profile(42))

    One object per process and event loop. What callers get is theirs to change.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings = settings if settings is not None else Settings.load()
        self._near_hits = 0
        self._redis_hits = 0
        self._misses = 0
        self._parts = parts = Assembly(settings)
        self._near, self._follower, self._tier = parts.near, parts.follower, parts.tier
        self._reader, self._writer, self._flights = parts.reader, parts.writer, parts.flights
        self._followed = parts.near.followed
        self._peek, self._touch, self._now = self._followed.peek, self._followed.touch, clock.now
        self._locks = Locks(parts.tier, settings.names, clock=clock.now)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A cache with the settings of the environment and ``.env``; arguments beat them."""
        return cls(Settings.load(**overrides))

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Begin to follow the log, and wait a moment until this cache is attached.

        It waits for at most ``redis_timeout``, and not at all when Redis is away or no worker has ever run;
        the cache can be used in any case.
        """
        if self._closed:
            raise CacheClosed(CLOSED)
        if self._loop is not None:
            self._check_loop()
            return self
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            await self._parts.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop following, cancel every load and close the connections; more than once does no harm."""
        if not self._closed:
            self._closed = True
            await self._parts.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_loop", None) is not None and not self._closed:
            _warn(f"unclosed {self!r}; use `async with`", ResourceWarning, source=self)

    # --- reading --------------------------------------------------------------------------------

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        max_staleness: float | None = None,
        model: type[M],
        shared: bool = False,
    ) -> M | None: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        max_staleness: float | None = None,
        model: None = None,
        shared: bool = False,
    ) -> Any: ...

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        max_staleness: float | None = None,
        model: type[BaseModel] | None = None,
        shared: bool = False,
    ) -> Any:
        """The value of ``key``: from the near cache, from Redis, or from ``loader``, which then runs once.

        ``loader`` may be a coroutine function, a lambda that returns an awaitable, or a plain function; with
        a required positional parameter it receives a `Load`, which says whether a read replica will do. What
        it raises reaches everybody who waits for that load. None is a value ("not found") and is cached.

        Args:
            ttl: Seconds the value may live; beats ``[ttl]`` and ``default_ttl``.
            max_staleness: The caches may answer only if `staleness` is at most this many seconds.
            model: The pydantic model to validate into.
            shared: Return one frozen object to all who ask, instead of a copy; faster. Not with ``model``.
        """
        # A hit is served without another Python call: this is what an agent does all day.
        entry = self._peek(key)
        if entry is not None and max_staleness is None:
            now = self._now()
            if now < self._followed.trusted_until and now < entry.expires:
                self._touch(key)
                if model is None:
                    self._near_hits += 1
                    if not shared:
                        return codec.loads(entry.data)
                    frozen = entry.frozen
                    return frozen if frozen is not UNSET else self._freeze(key, entry)
        return await self._get_or_load(key, loader, ttl, max_staleness, model, shared)

    async def _get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: float | None,
        max_staleness: float | None,
        model: type[BaseModel] | None,
        shared: bool,
    ) -> Any:
        self._check(key, model, shared)
        _check_ttl(ttl)
        forced = max_staleness is not None and self._follower.staleness > max_staleness
        for last in (False, True):
            data, origin = None if forced else self._remembered(key), Origin.MEMORY
            if data is None and not forced and key not in self._flights:
                origin = Origin.REDIS
                try:
                    data = await self._reader.look(key, ttl=ttl)
                except RedisUnavailable:
                    data = None
            if data is None or not codec.is_value(data):
                data, origin = await self._flights.join(key, loader, ttl=ttl, forced=forced)
            self._count(origin)
            try:
                return self._decode(key, data, model, shared)
            except ValueError:
                if last or origin is Origin.LOADER:
                    raise
            # Cached by a release with another model, or not by unstale at all.
            await self._discard(key, data)
        raise AssertionError("unreachable")

    def _remembered(self, key: str) -> bytes | None:
        """What this process holds, as far as it is trusted."""
        entry = self._followed.read(key)
        if entry is None and self._follower.trust is Trust.DETACHED:
            entry = self._near.adrift.read(key)
        return None if entry is None else entry.data

    @overload
    async def get(
        self, key: str, *, model: type[M], max_staleness: float | None = None, shared: bool = False
    ) -> M | None: ...

    @overload
    async def get(
        self, key: str, *, model: None = None, max_staleness: float | None = None, shared: bool = False
    ) -> Any: ...

    async def get(
        self,
        key: str,
        *,
        model: type[BaseModel] | None = None,
        max_staleness: float | None = None,
        shared: bool = False,
    ) -> Any:
        """The cached value, or None: not cached, or cached as None.

        After a miss, `set` in the same task stores the value unless the key was invalidated in between.
        """
        loaded: Loaded | None = None
        if max_staleness is None or self._follower.staleness <= max_staleness:
            entry = self._followed.read(key)
            if entry is not None:
                loaded = Loaded(entry.data, Origin.MEMORY)
            else:
                self._check(key, model, shared)
                loaded = await self._writer.get(key)
        else:
            self._check(key, model, shared)
            self._writer.missed(key)
        self._count(Origin.LOADER if loaded is None else loaded.origin)
        if loaded is None:
            return None
        try:
            return self._decode(key, loaded.data, model, shared)
        except ValueError:
            await self._discard(key, loaded.data)
            return None

    # --- writing --------------------------------------------------------------------------------

    async def set(self, key: str, value: object, ttl: float | None = None) -> bool:
        """Store a value; whether it was stored in Redis.

        A key that a rule owns is stored only after a `get` of the same task that missed, and only if it was
        not invalidated in between: so get → load → set is safe. Any other key is stored at once, and other
        instances drop their copies.
        """
        self._check(key, None, False)
        _check_ttl(ttl)
        return await self._writer.set(key, codec.encode(key, value), ttl)

    async def delete(self, key: str, *keys: str, lsn: str | None = None) -> bool:
        """Invalidate keys in Redis and in every instance; call it after your transaction has committed.

        When it returns, this process serves no older value, and neither does Redis if it returns True. False:
        Redis did not confirm. The keys are gone here; the worker still removes keys that a rule owns.

        Args:
            lsn: WAL position of the commit, if known: loaders may then read replicas that have replayed it.
        """
        for each in (key, *keys):
            self._check(each, None, False)
        if lsn is not None and not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", lsn):
            raise ValueError(f"lsn is {lsn!r}: expected a WAL position such as '16/B374D848'")
        return await self._writer.delete((key, *keys), lsn=lsn)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the Redis glob matches; how many values and leases were in Redis.

        Escape what is not meant as a glob with `escape_glob`. Other string keys in this Redis database count
        too if they match; unstale's own never do.
        """
        if not pattern:
            raise ValueError("an empty pattern matches nothing; did you mean '*'?")
        self._check_open()
        return await self._writer.invalidate_pattern(pattern)

    def lock(self, name: str, *, ttl: float = LOCK_SECONDS, timeout: float | None = 10.0) -> Lock:
        """A lock between all instances, to be used with ``async with``.

        Entering raises `LockTimeout` after ``timeout`` seconds (None: waits for ever) and `RedisUnavailable`;
        leaving raises `LockLost` if ``ttl`` ran out before. Without Redis it holds between the tasks of this
        process.
        """
        self._check_open()
        return self._locks.lock(name, ttl=ttl, timeout=timeout)

    # --- freshness ------------------------------------------------------------------------------

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached."""
        return self._follower.staleness

    @property
    def attached(self) -> bool:
        """Whether the near cache is trusted: the log is followed and watermarks come."""
        return self._follower.trust is Trust.ATTACHED

    async def wait_for(self, token: str, *, timeout: float = 5.0) -> None:
        """Wait until the transaction that ``select unstale.token()`` named is applied here.

        Afterwards this process serves nothing older. Raises `WaitTimeout` after ``timeout`` seconds, and
        ValueError for a token that is none or comes from another database.
        """
        self._check_open()
        wanted = Token.parse(token)
        if self._tier is None:
            self._near.flush()  # nothing is shared, so nothing of another process can be stale
            return
        with contextlib.suppress(RedisUnavailable):
            wanted.expect(await self._tier.database())
        await self._parts.tokens.wait(wanted, timeout=timeout)

    @contextlib.asynccontextmanager
    async def subscribe(self, pattern: str = "*") -> AsyncIterator[Subscription]:
        """Iterate over `Invalidated` and `Reset` events of the keys that a Redis glob matches.

        An event comes after this process has dropped its own copies. At most 1,024 wait; a slower
        subscriber gets one `Reset` instead.
        """
        self._check_open()
        subscription = self._parts.events.open(pattern)
        try:
            yield subscription
        finally:
            self._parts.events.remove(subscription)

    def counters(self) -> Counters:
        """What this cache has done so far; no I/O."""
        return count(self)

    async def get_stats(self) -> dict[str, object]:
        """Counters and state, JSON-ready; the seed's fields and unstale's own."""
        return await describe(self)

    # --- inside ---------------------------------------------------------------------------------

    def _check(self, key: str, model: type[BaseModel] | None, shared: bool) -> None:
        self._check_open()
        codec.check_key(key, own=self.settings.names.tag)
        if shared and model is not None:
            raise TypeError("shared=True hands out plain frozen JSON: it cannot be combined with model=")

    def _check_open(self) -> None:
        if self._closed or self._loop is None:
            raise CacheClosed(CLOSED)
        self._check_loop()

    def _check_loop(self) -> None:
        # Not get_running_loop(): on Python 3.11 that is a system call, and this runs for every read of Redis.
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() != self._thread:
            raise RuntimeError("this cache belongs to another event loop; open one cache per loop")

    def _count(self, origin: Origin) -> None:
        if origin is Origin.REDIS:
            self._redis_hits += 1
        elif origin is Origin.MEMORY:
            self._near_hits += 1
        else:
            self._misses += 1

    def _freeze(self, key: str, entry: Entry) -> object:
        frozen = codec.freeze(codec.loads(entry.data))
        self._followed.share(key, entry, frozen)
        return frozen

    def _decode(self, key: str, data: bytes, model: type[BaseModel] | None, shared: bool) -> Any:
        if not shared:
            return codec.decode(data, model)
        entry = self._followed.read(key)
        if entry is not None and entry.data is data:
            return entry.frozen if entry.frozen is not UNSET else self._freeze(key, entry)
        return codec.freeze(codec.loads(data))

    async def _discard(self, key: str, data: bytes) -> None:
        """Remove a value that cannot be used here, if it is still the one that stands there."""
        self._near.drop([key])
        if self._tier is not None:
            with contextlib.suppress(RedisUnavailable):
                await self._tier.release(key, data)

    def __repr__(self) -> str:
        state = (
            "closed" if self._closed else "not started" if self._loop is None else self._follower.trust.value
        )
        return f"<Cache {self.settings.names.tag} {state}, {len(self._followed)} near entries>"


def _check_ttl(ttl: float | None) -> None:
    if ttl is not None and not 0.001 <= ttl <= MAX_TTL:
        raise ValueError(f"ttl is {ttl!r}: expected seconds from 0.001 to {MAX_TTL:g}, or None")
