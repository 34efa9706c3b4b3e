"""Loaders: the callables that read the database, and the `Load` that they can receive."""

import inspect
import re
import typing
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from unstale.protocol.lease import ReplicaLimits

if TYPE_CHECKING:
    from asyncpg import Pool


@dataclass(frozen=True, slots=True)
class Load:
    """The facts a loader needs to read fresh data. A loader receives it in a parameter annotated ``Load``.

    Attributes:
        key: The key that is being loaded.
        need_lsn: A replica may be read only if it had replayed this WAL position when the read began.
        primary: True if the primary must be read.
        database: Identity of the database that ``need_lsn`` refers to.
    """

    key: str
    need_lsn: str | None
    primary: bool
    database: str | None = None

    @classmethod
    def of(cls, key: str, limits: ReplicaLimits, *, forced: bool = False) -> "Load":
        """Return the `Load` for ``key``. A ``forced`` load reads the primary."""
        return cls(key, limits.need_lsn, limits.primary or forced, limits.database)

    def connection(
        self, *, primary: "Pool[Any]", replica: "Pool[Any]", timeout: float = 1.0
    ) -> AbstractAsyncContextManager[Any]:
        """Return a connection for this load, from one of two asyncpg pools.

        It comes from the replica if that is a standby of this database and has replayed `need_lsn`, which is
        checked on the same connection. Otherwise, or if the replica does not answer within ``timeout``
        seconds, it comes from the primary. Errors on the connection afterwards are the loader's.

        Example:
            >>> async def load_profile(load: Load) -> str:
            ...     async with load.connection(primary=primary, replica=replica) as db:
            ...         return await db.fetchval("select name from profiles where id = 42")
        """
        from unstale.runtime.extras import needs

        with needs("companion", what="Load.connection"):
            from unstale.reading.replicas import connection_for  # asyncpg is loaded where it is used

        need_lsn = None if self.primary else self.need_lsn
        return connection_for(need_lsn, self.database, primary=primary, replica=replica, timeout=timeout)


Loader: TypeAlias = Callable[[], Any] | Callable[[Load], Any]
"""A callable that returns the value or an awaitable of it. A parameter annotated ``Load`` gets the `Load`."""


async def call(loader: Loader, load: Load) -> object:
    """Run a loader of any kind: async or plain function, lambda, method, or object with ``__call__``."""
    result = invoke(loader, load)
    return await result if inspect.isawaitable(result) else result


def invoke(loader: Loader, load: Load) -> object:
    """Call a loader, with its `Load` if it takes one; return the value, or an awaitable of it."""
    function: Callable[..., Any] = loader
    name = load_parameter(function)
    if name is None:
        return function()
    return function(**{name: load}) if name else function(load)


_LOAD: Final = re.compile(r"\bLoad\b")

REMEMBERED: Final = 10_000
"""Plain functions whose result is remembered by their code, which all lambdas of one line share."""

_UNKNOWN: Final = object()
_plain: dict[object, Any] = {}
"""Results of `load_parameter` for plain functions, as reading a signature takes about 50 µs."""
_known: "WeakKeyDictionary[object, dict[tuple[object, ...], str | None]]" = WeakKeyDictionary()
"""The same for other callables: by the code, and the arguments that a method or a partial has bound."""


def load_parameter(function: Callable[..., Any]) -> str | None:
    """Return the parameter in which a loader takes its `Load`: None: none, '': the first, else its name.

    Raises TypeError for what is no function, and for a loader with another required parameter, as there is
    nothing to pass for it.
    """
    if type(function) is FunctionType and not function.__dict__:  # a decorated one has __wrapped__ there
        code = function.__code__
        found: str | None = _plain.get(code, _UNKNOWN)
        if found is _UNKNOWN:
            found = _find_load(function)
            if len(_plain) >= REMEMBERED:
                _plain.clear()
            _plain[code] = found
        return found
    like: Any = function
    bound: tuple[object, ...] = ()
    if isinstance(function, partial):
        like, bound = function.func, (len(function.args), *function.keywords)
    if isinstance(like, MethodType):
        bound = ("self", *bound)
    if not hasattr(like, "__wrapped__"):  # every function that one decorator returns has the same code
        like = getattr(like, "__code__", like)
    try:
        known = _known.setdefault(like, {})
    except TypeError:  # it has no hash, or no weak reference leads to it
        return _find_load(function)
    if bound not in known:
        known[bound] = _find_load(function)
    return known[bound]


def _find_load(function: Callable[..., Any]) -> str | None:
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()  # else Python warns that nobody awaited it
        raise TypeError(
            f"a loader is a function, called when no value is cached; got {type(function).__name__}. Pass "
            "the function, not its result: `load`, not `load()`; or wrap the call: `lambda: load(...)`"
        )
    try:
        parameters = list(_signature(function).parameters.values())
    except (TypeError, ValueError):
        return None  # a builtin without a signature: called without arguments
    found: str | None = None
    for position, parameter in enumerate(parameters):
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if found is None and _is_load(parameter.annotation):
            keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            found = parameter.name if keyword or position else ""
        elif parameter.default is inspect.Parameter.empty:
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(
                f"the loader {name} requires the parameter {parameter.name!r}, but is called without "
                f"arguments: bind it, as in `lambda: {getattr(function, '__name__', 'load')}(...)`, or "
                f"annotate it `{parameter.name}: Load` if it is to receive the `unstale.Load`"
            )
    return found


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that only type checkers import, or text that only they can read
        return inspect.signature(function)


def _is_load(annotation: object) -> bool:
    """Return True for `Load`, alone or in a Union or ``Annotated``; in a string, by name."""
    if isinstance(annotation, str):
        return _LOAD.search(annotation) is not None
    return annotation is Load or any(inner is Load for inner in typing.get_args(annotation))
