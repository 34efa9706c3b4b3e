"""``get_or_load`` and ``get``: what a cache answers, from the tier that may."""

import asyncio
import contextlib
import threading
from typing import Any, Final, TypeVar, overload

from pydantic import BaseModel, TypeAdapter

from unstale.errors import CacheClosed, RedisUnavailable
from unstale.freshness.tracker import Trust
from unstale.near_cache.store import UNSET, Entry
from unstale.protocol import codec
from unstale.protocol.codec import Model
from unstale.reading.single_flight import Loaded, Loader, Origin
from unstale.redis_tier.multiplexer import CLOSED
from unstale.runtime import clock
from unstale.settings import AgentSettings
from unstale.wiring import Assembly

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

MAX_TTL: Final = 10 * 365 * 86_400.0
"""Longest time to live in seconds: ten years."""


class Reads:
    """The reading half of `Cache`, which adds its life, writing and freshness."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._near_hits = 0
        self._redis_hits = 0
        self._misses = 0
        self._stale_hits = 0
        self._parts = parts = Assembly(settings)
        self._near, self._follower, self._tier = parts.near, parts.follower, parts.tier
        self._reader, self._writer, self._flights = parts.reader, parts.writer, parts.flights
        self._followed, self._rulebook = parts.near.followed, parts.rulebook
        self._auditor = parts.auditor
        self._peek = parts.auditor.sampling(self._followed.peek)
        self._touch, self._now = self._followed.touch, clock.now
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        model: type[M],
        shared: bool = False,
        refresh_ahead: float = 0.0,
    ) -> M | None: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        model: TypeAdapter[T],
        shared: bool = False,
        refresh_ahead: float = 0.0,
    ) -> T | None: ...

    @overload
    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        model: None = None,
        shared: bool = False,
        refresh_ahead: float = 0.0,
    ) -> Any: ...

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        model: Model | None = None,
        shared: bool = False,
        refresh_ahead: float = 0.0,
    ) -> Any:
        """The value of ``key``: from the near cache, from Redis, or from ``loader``, which then runs once.

        ``loader`` may be a coroutine function, a lambda that returns an awaitable, or a plain function; with
        a required positional parameter it receives a `Load`, which says whether a read replica will do. What
        it raises reaches everybody who waits for that load. None is a value ("not found") and is cached.

        Args:
            ttl: Seconds the value may live; beats ``[ttl]`` and ``default_ttl``.
            negative_ttl: Seconds the value may live if it is None; beats ``UNSTALE_NEGATIVE_TTL``.
            max_staleness: The caches may answer only if `staleness` is at most this many seconds, and never
                with a value that a rule's ``serve_stale`` keeps.
            fresh: Only a value that was loaded after this call will do: no cache answers.
            model: The pydantic model, or the TypeAdapter, to validate into.
            shared: Return one frozen object to all who ask, instead of a copy; faster. Not with ``model``.
            refresh_ahead: Share of the value's life, 0 to 0.9: a hit in its last part is answered at once and
                has the value loaded anew in the background, so that nobody waits when it expires.
        """
        # A hit is served without another Python call: this is what an agent does all day.
        entry = self._peek(key)
        if entry is not None and max_staleness is None and not fresh and not refresh_ahead:
            now = self._now()
            if now < self._followed.trusted_until and now < entry.expires:
                self._touch(key)
                if model is None:
                    self._near_hits += 1
                    if not shared:
                        return codec.loads(entry.data)
                    frozen = entry.frozen
                    return frozen if frozen is not UNSET else self._freeze(key, entry)
        value = await self._get_or_load(key, loader, ttl, negative_ttl, max_staleness, fresh, model, shared)
        if refresh_ahead:
            self._parts.ahead.consider(key, loader, share=refresh_ahead, ttl=ttl, negative_ttl=negative_ttl)
        return value

    async def _get_or_load(
        self,
        key: str,
        loader: Loader,
        ttl: float | None,
        negative_ttl: float | None,
        max_staleness: float | None,
        fresh: bool,
        model: Model | None,
        shared: bool,
    ) -> Any:
        audited = self._auditor.drawn  # as drawn by the look into the near cache just now
        self._check(key, model, shared)
        check_ttl(ttl)
        check_ttl(negative_ttl, name="negative_ttl")
        forced = fresh or (max_staleness is not None and self._follower.staleness > max_staleness)
        stale = max_staleness is None and not fresh and self._rulebook.serves_stale(key)
        for last in (False, True):
            data, origin = None if forced else self._remembered(key), Origin.MEMORY
            if data is None and not forced and (stale or key not in self._flights):
                origin = Origin.REDIS
                with contextlib.suppress(RedisUnavailable):
                    if stale:  # also while somebody loads it: that is what it is kept for
                        data, origin = await self._reader.look_or_stale(key, ttl=ttl) or (None, origin)
                    else:
                        data = await self._reader.look(key, ttl=ttl)
            if data is None or not codec.is_value(data):
                data, origin = await self._flights.join(
                    key, loader, ttl=ttl, negative_ttl=negative_ttl, forced=forced
                )
            self._count(origin)
            if audited and origin is not Origin.LOADER:
                self._auditor.begin(key, loader, data)
            try:
                return self._decode(key, data, model, shared)
            except ValueError:
                if last or origin is Origin.LOADER:
                    raise
            # Cached by a release with another model, or not by unstale at all.
            await self._discard(key, data, origin)
        raise AssertionError("unreachable")

    def _remembered(self, key: str) -> bytes | None:
        """What this process holds, as far as it is trusted."""
        entry = self._followed.read(key)
        if entry is None and self._follower.trust is Trust.DETACHED:
            entry = self._near.adrift.read(key)
        return None if entry is None else entry.data

    @overload
    async def get(
        self,
        key: str,
        *,
        model: type[M],
        max_staleness: float | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> M | None: ...

    @overload
    async def get(
        self,
        key: str,
        *,
        model: TypeAdapter[T],
        max_staleness: float | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> T | None: ...

    @overload
    async def get(
        self,
        key: str,
        *,
        model: None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> Any: ...

    async def get(
        self,
        key: str,
        *,
        model: Model | None = None,
        max_staleness: float | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> Any:
        """The cached value, or None: not cached, or cached as None; with ``fresh`` always None.

        After a miss, `set` in the same task stores the value unless the key was invalidated in between. With
        ``max_staleness`` the caches answer only if `staleness` is at most this many seconds, and never with
        a value that a rule's ``serve_stale`` keeps.
        """
        loaded: Loaded | None = None
        if not fresh and (max_staleness is None or self._follower.staleness <= max_staleness):
            entry = self._followed.read(key)
            if entry is not None:
                loaded = Loaded(entry.data, Origin.MEMORY)
            else:
                self._check(key, model, shared)
                loaded = await self._writer.get(key, stale=max_staleness is None)
        else:
            self._check(key, model, shared)
            self._writer.missed(key)
        self._count(Origin.LOADER if loaded is None else loaded.origin)
        if loaded is None:
            return None
        try:
            return self._decode(key, loaded.data, model, shared)
        except ValueError:
            await self._discard(key, loaded.data, loaded.origin)
            return None

    # --- inside ---------------------------------------------------------------------------------

    def _check(self, key: str, model: Model | None, shared: bool) -> None:
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
        elif origin is Origin.STALE:
            self._stale_hits += 1
        else:
            self._misses += 1

    def _freeze(self, key: str, entry: Entry) -> object:
        frozen = codec.freeze(codec.loads(entry.data))
        self._followed.share(key, entry, frozen)
        return frozen

    def _decode(self, key: str, data: bytes, model: Model | None, shared: bool) -> Any:
        if not shared:
            return codec.decode(data, model)
        entry = self._followed.read(key)
        if entry is not None and entry.data is data:
            return entry.frozen if entry.frozen is not UNSET else self._freeze(key, entry)
        return codec.freeze(codec.loads(data))

    async def _discard(self, key: str, data: bytes, origin: Origin) -> None:
        """Remove a value that cannot be used here, if it is still the one that stands there."""
        self._near.drop([key])
        if self._tier is not None:
            with contextlib.suppress(RedisUnavailable):
                stale = origin is Origin.STALE
                await self._tier.release(self.settings.names.stale(key) if stale else key, data)


def check_ttl(ttl: float | None, *, name: str = "ttl") -> None:
    """Raise ValueError, or TypeError for no number at all, for a time to live that is none."""
    if ttl is None:
        return
    number = isinstance(ttl, int | float) and not isinstance(ttl, bool)
    if not number or not 0.001 <= ttl <= MAX_TTL:
        error = ValueError if number else TypeError
        raise error(f"{name} is {ttl!r}: expected seconds from 0.001 to {MAX_TTL:g}, or None")
