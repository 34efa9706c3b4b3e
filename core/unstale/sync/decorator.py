"""``@cache.cached`` for plain functions."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar, cast

from unstale.decorator import CachedFunction, P, R
from unstale.protocol.models import Model


class Cached(CachedFunction[P, R]):
    """A plain function behind a cache; called like the function itself.

    Example:
        >>> @cache.cached("user:{user_id}:profile")
        ... def profile(user_id: int) -> Profile: ...
        >>> profile(42)            # from the cache, or from the function, once
        >>> profile.fresh(42)      # from the function, past every cache; stored
        >>> profile.invalidate(42)
        >>> profile.key(42)
        'user:42:profile'
    """

    is_async: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(
            self,
            cache: Any,
            template: str,
            function: Callable[P, R],
            *,
            ttl: float | None,
            negative_ttl: float | None,
            model: Model | None,
            refresh_ahead: float,
            soft_timeout: float | None = None,
            stale_if_error: float | None = None,
            ignore: Collection[str] = (),
            tags: Collection[str] = (),
        ) -> None: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self._get_or_load(args, kwargs, fresh=False))

    def fresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, past every cache, and store the answer: see ``fresh`` of `Cache.get_or_load`."""
        return cast(R, self._get_or_load(args, kwargs, fresh=True))

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Invalidate the answer for these arguments everywhere. See `Cache.delete`."""
        self._cache.delete(self.key(*args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> "Cached[..., R]":
        return self if instance is None else cast("Cached[..., R]", self._bound_to(instance))
