"""``@cache.cached``: caches what a function returns, under keys made of its arguments."""

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Collection
from functools import update_wrapper
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar, cast

from pydantic import BaseModel, TypeAdapter

from unstale.errors import ConfigurationError
from unstale.protocol.durations import Duration
from unstale.protocol.models import Model

P = ParamSpec("P")
R = TypeVar("R")

PLAIN = (Any, object, str, int, float, bool, dict, list, None, type(None), inspect.Signature.empty)
"""Annotations whose values need no validation: JSON returns them as they are."""


class Reads(Protocol):
    """The calls of a cache that a cached function makes."""

    async def get_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        tags: Collection[str] | None = None,
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        fresh: bool = False,
        model: Any = None,
        refresh_ahead: float = 0.0,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
    ) -> Any:
        """See `Cache.get_or_load`."""

    async def delete(self, key: str) -> None:
        """See `Cache.delete`."""


class CachedFunction(Generic[P, R]):
    """The key, the model and the options of a function behind a cache."""

    is_async: ClassVar[bool] = True
    """True if the function must be an async one."""

    def __init__(
        self,
        cache: Any,
        template: str,
        function: Callable[P, Any],
        *,
        ttl: float | None,
        negative_ttl: float | None,
        model: Model | None,
        refresh_ahead: float,
        soft_timeout: float | None = None,
        stale_if_error: float | None = None,
        ignore: Collection[str] = (),
        tags: Collection[str] = (),
    ) -> None:
        update_wrapper(cast(Any, self), function)
        self._cache, self._template, self._function = cache, template, function
        self._ttl, self._negative_ttl, self._ahead = ttl, negative_ttl, refresh_ahead
        self._soft_timeout, self._stale_if_error = soft_timeout, stale_if_error
        self._model = model
        self._inferred = model is not None
        self._signature = inspect.signature(function)
        self._ignore = ignore
        self._names = _placeholders(template, function, self._signature, ignore, is_async=self.is_async)
        self._between = _between(template)
        self._tags, self._tag_names = _tags(tags, template, function, self._signature)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key for these arguments.

        Raises TypeError for arguments that the function does not take, and ValueError for a None in the key
        or a value that would make it the key of other arguments, too.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {name: bound.arguments[name] for name in self._names}
        for name, value in values.items():
            if value is None:
                raise ValueError(f"{name} is None: there is no key {self._template!r} for it")
        # As a rule writes a column's value, so that both sides meet: with str().
        texts = {name: str(value) for name, value in values.items()}
        for name, literal in self._between:  # read from the left, the key then has one meaning
            if (texts[name] + literal).find(literal) != len(texts[name]):
                raise ValueError(
                    f"{name} is {texts[name][:60]!r} and holds {literal!r}, so other arguments have the same "
                    f"key {self._template!r}; put {{{name}}} last, or give it without that"
                )
        return self._template.format_map(texts)

    def tags(self, *args: P.args, **kwargs: P.kwargs) -> tuple[str, ...]:
        """Return the tags for these arguments; raises ValueError for a None in a tag."""
        if not self._tags:
            return ()
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        texts: dict[str, str] = {}
        for name in self._tag_names:
            if bound.arguments[name] is None:
                raise ValueError(f"{name} is None: there is no tag with {{{name}}} for it")
            texts[name] = str(bound.arguments[name])
        return tuple(tag.format_map(texts) for tag in self._tags)

    def _get_or_load(self, args: Any, kwargs: Any, *, fresh: bool) -> Any:
        """Return what ``get_or_load`` of the cache returns for these arguments."""
        if not self._inferred:
            self._model, self._inferred = model_of(self._function), True
        options: dict[str, Any] = {"model": self._model} if self._model is not None else {}
        return self._cache.get_or_load(
            self.key(*args, **kwargs),
            lambda: self._function(*args, **kwargs),
            tags=self.tags(*args, **kwargs) if self._tags else None,
            ttl=self._ttl,
            negative_ttl=self._negative_ttl,
            fresh=fresh,
            refresh_ahead=self._ahead,
            soft_timeout=self._soft_timeout,
            stale_if_error=self._stale_if_error,
            **options,
        )

    def _bound_to(self, instance: object) -> Any:
        """Return the same for the method of ``instance``."""
        return type(self)(
            self._cache,
            self._template,
            types.MethodType(self._function, instance),
            ttl=self._ttl,
            negative_ttl=self._negative_ttl,
            model=self._model,
            refresh_ahead=self._ahead,
            soft_timeout=self._soft_timeout,
            stale_if_error=self._stale_if_error,
            ignore=self._ignore,
            tags=self._tags,
        )

    def __repr__(self) -> str:
        return f"<Cached {self._template!r} of {getattr(self._function, '__qualname__', self._function)}>"


class Cached(CachedFunction[P, R]):
    """An async function behind a cache; called like the function itself.

    Example:
        >>> @cache.cached("user:{user_id}:profile")
        ... async def profile(user_id: int) -> Profile: ...
        >>> await profile(42)            # from the cache, or from the function, once
        >>> await profile.fresh(42)      # from the function, past every cache; stored
        >>> await profile.invalidate(42)
        >>> profile.key(42)
        'user:42:profile'
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            cache: Reads,
            template: str,
            function: Callable[P, Awaitable[R]],
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

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, await self._get_or_load(args, kwargs, fresh=False))

    async def fresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, past every cache, and store the answer: see ``fresh`` of `Cache.get_or_load`."""
        return cast(R, await self._get_or_load(args, kwargs, fresh=True))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Invalidate the answer for these arguments everywhere. See `Cache.delete`."""
        await self._cache.delete(self.key(*args, **kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> "Cached[..., R]":
        return self if instance is None else cast("Cached[..., R]", self._bound_to(instance))


def model_of(function: Callable[..., object]) -> Model | None:
    """Return the model of the function's return annotation; None for plain JSON.

    Raises `ConfigurationError` for an annotation that pydantic cannot read.
    """
    try:
        annotation = typing.get_type_hints(function).get("return", inspect.Signature.empty)
        some = annotation
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
            some = kinds[0] if len(kinds) == 1 else annotation
        if some in PLAIN:
            return None
        if isinstance(some, type) and issubclass(some, BaseModel):
            return some
        return TypeAdapter(annotation)
    except (NameError, TypeError) as error:
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)}: its return annotation cannot be used ({error}); "
            "give model=, or annotate what pydantic can validate"
        ) from error


_OTHER = {True: "sync.", False: ""}


def _placeholders(
    template: str,
    function: Callable[..., object],
    signature: inspect.Signature,
    ignore: Collection[str],
    *,
    is_async: bool,
) -> tuple[str, ...]:
    """Return the parameters the template names; raises `ConfigurationError` if it does not fit."""
    where = f"@cached({template!r}) on {getattr(function, '__qualname__', function)}"
    if inspect.iscoroutinefunction(inspect.unwrap(function)) != is_async:
        kind = "an async function; write `async def`" if is_async else "a plain function; write `def`"
        raise ConfigurationError(f"{where}: must be {kind}, or use unstale.{_OTHER[is_async]}Cache")
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    names: list[str] = []
    for literal, name, form, conversion in parts:
        if name is None:
            continue
        if names and not literal:
            raise ConfigurationError(f"{where}: nothing stands between {{{names[-1]}}} and {{{name}}}")
        if not name.isidentifier() or form or conversion:
            raise ConfigurationError(f"{where}: {{{name}}} must be a plain parameter name, like {{user_id}}")
        if name not in signature.parameters:
            takes = ", ".join(signature.parameters) or "none"
            raise ConfigurationError(f"{where}: it has no parameter {name!r}; it has: {takes}")
        names.append(name)
    for name in ignore:
        if name not in signature.parameters or name in names:
            raise ConfigurationError(
                f"{where}: ignore names {name!r}, which must be a parameter that the template does not name"
            )
    known = {*names, *ignore, "self", "cls"}
    unused = [name for name in signature.parameters if name not in known]
    if unused:
        raise ConfigurationError(
            f"{where}: {', '.join(unused)} is not part of the key, so its answers would be mixed up; "
            "name it in the template, or in ignore="
        )
    return tuple(dict.fromkeys(names))


def _tags(
    tags: Collection[str], template: str, function: Callable[..., object], signature: inspect.Signature
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the templates of tags and the parameters they name; raises `ConfigurationError`."""
    where = f"@cached({template!r}, tags=...) on {getattr(function, '__qualname__', function)}"
    if isinstance(tags, str):
        raise ConfigurationError(f"{where}: tags must be a list of templates, not the text {tags!r}")
    names: dict[str, None] = {}
    for tag in tags:
        try:
            parts = list(Formatter().parse(tag))
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{where}: tag {tag!r}: {error}") from None
        for _, name, form, conversion in parts:
            if name is None:
                continue
            if name not in signature.parameters or form or conversion:
                takes = ", ".join(signature.parameters) or "none"
                raise ConfigurationError(
                    f"{where}: {{{name}}} in {tag!r} must be a plain parameter; it has: {takes}"
                )
            names[name] = None
    return tuple(tags), tuple(names)


def _between(template: str) -> tuple[tuple[str, str], ...]:
    """Return each placeholder but the last, with the text behind it."""
    parts = [(literal, name) for literal, name, _, _ in Formatter().parse(template)]
    named = [(at, name) for at, (_, name) in enumerate(parts) if name is not None]
    return tuple((name, parts[at + 1][0]) for at, name in named[:-1])
