"""``get_many`` and ``@cached``: reading made shorter, by what `Reads` can do already."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from pydantic import BaseModel, TypeAdapter

from unstale.decorator import Cached, P, R
from unstale.errors import RedisUnavailable
from unstale.protocol import codec
from unstale.protocol.codec import Model
from unstale.reading.batch_loader import Batch, ManyLoader
from unstale.reading.single_flight import Origin
from unstale.reads import Reads, check_ttl

if TYPE_CHECKING:
    from unstale.cache import Cache

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class ManyReads(Reads):
    """What reads several keys, or reads without saying so."""

    @overload
    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        model: type[M],
    ) -> dict[str, M | None]: ...

    @overload
    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        model: TypeAdapter[T],
    ) -> dict[str, T | None]: ...

    @overload
    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        model: None = None,
    ) -> dict[str, Any]: ...

    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        max_staleness: float | None = None,
        model: Model | None = None,
    ) -> Any:
        """The values of many keys, in their order, by one trip to Redis and one call of ``loader``.

        Each key is read as `get_or_load` reads it, under a lease of its own. ``loader`` receives the list of
        missing keys and returns a mapping; what it leaves out was not found, and is None. It should read the
        primary. What it raises is raised here. Without a loader only what is cached is returned, like `get`.

        Example:
            >>> await cache.get_many([f"user:{n}:profile" for n in (1, 2)], load_profiles)
            {'user:1:profile': {'name': 'Ada'}, 'user:2:profile': None}
        """
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            self._check(key, model if isinstance(model, type) else None, False)
        check_ttl(ttl)
        check_ttl(negative_ttl, name="negative_ttl")
        options: dict[str, Any] = {"max_staleness": max_staleness}
        if model is not None:
            options["model"] = model
        if loader is None:
            found = await asyncio.gather(*(self._cached_only(key, options) for key in wanted))
            return {key: value for key, (cached, value) in zip(wanted, found, strict=True) if cached}
        batch = Batch(wanted, loader)
        options |= {"ttl": ttl, "negative_ttl": negative_ttl}

        async def one(key: str) -> Any:
            try:
                return await self.get_or_load(key, lambda: batch.load(key), **options)
            finally:
                batch.settled(key)

        values = await asyncio.gather(*map(one, wanted), return_exceptions=True)
        for value in values:
            if isinstance(value, BaseException):
                raise value
        return dict(zip(wanted, values, strict=True))

    async def _cached_only(self, key: str, options: dict[str, Any]) -> tuple[bool, Any]:
        """Whether ``key`` is cached, and its value."""
        most, model = options["max_staleness"], options.get("model")
        if most is not None and self._follower.staleness > most:
            return False, None
        data, origin = self._remembered(key), Origin.MEMORY
        if data is None:
            origin = Origin.REDIS
            with contextlib.suppress(RedisUnavailable):
                if most is None and self._rulebook.serves_stale(key):
                    data, origin = await self._reader.look_or_stale(key) or (None, origin)
                else:
                    data = await self._reader.look(key)
        if data is None or not codec.is_value(data):
            self._count(Origin.LOADER)
            return False, None
        self._count(origin)
        try:
            return True, self._decode(key, data, model, False)
        except ValueError:
            await self._discard(key, data, origin)
            return False, None

    def cached(
        self,
        template: str,
        *,
        ttl: float | None = None,
        negative_ttl: float | None = None,
        model: Model | None = None,
        refresh_ahead: float = 0.0,
        ignore: Collection[str] = (),
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Cache what an async function returns, under a key made of its arguments.

        Every parameter (but ``self``) has to be named in ``template``, or in ``ignore`` if no answer depends
        on it, like a connection: answers would be mixed up otherwise. A pydantic return annotation is what
        values are validated into; ``model`` beats it. The other arguments are those of `get_or_load`. May be
        used before the cache is started. Raises `ConfigurationError` for a template that does not fit.

        Example:
            >>> @cache.cached("user:{user_id}:profile", ttl=3600)
            ... async def profile(user_id: int) -> Profile | None:
            ...     return await load_profile(user_id)
        """
        check_ttl(ttl)
        check_ttl(negative_ttl, name="negative_ttl")

        def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
            return Cached(
                cast("Cache", self),
                template,
                function,
                ttl=ttl,
                negative_ttl=negative_ttl,
                model=model,
                refresh_ahead=refresh_ahead,
                ignore=tuple(ignore),
            )

        return decorate
