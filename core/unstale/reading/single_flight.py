"""Single flight: at most one load running and one waiting per key and process."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from unstale.errors import CacheClosed, LoadCancelled
from unstale.near_cache.in_flight import Mark, Marks

if TYPE_CHECKING:
    from asyncpg import Pool


@dataclass(frozen=True, slots=True)
class Load:
    """What a loader must know to read fresh data; passed to loaders that take one positional argument.

    Attributes:
        key: The key that is being loaded.
        need_lsn: A replica may be read only if it had replayed this WAL position when the read began.
        primary: Read the primary: no replica will do.
        database: ``system_identifier:timeline`` of the database that ``need_lsn`` is a position of.
    """

    key: str
    need_lsn: str | None
    primary: bool
    database: str | None = None

    def connection(
        self, *, primary: "Pool[Any]", replica: "Pool[Any]", timeout: float = 1.0
    ) -> AbstractAsyncContextManager[Any]:
        """A connection for this load, of one of two asyncpg pools.

        It is the replica's if that is a standby of this database and has replayed `need_lsn`, which is asked
        on that very connection. Otherwise, or when the replica does not answer within ``timeout`` seconds,
        it is the primary's. What happens on the connection afterwards is the loader's.

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
"""Returns the value or an awaitable of it; a required positional parameter receives the `Load`."""


class Origin(Enum):
    """Where a value came from."""

    MEMORY = "memory"
    REDIS = "redis"
    STALE = "stale"
    """From Redis: what was true until the last change, while the rule allows it (``serve_stale``)."""
    LOADER = "loader"


class Loaded(NamedTuple):
    """What a read brought: the value's JSON, and where it came from.

    A tuple, as there is one for each read that memory did not answer, and a frozen dataclass costs 1 µs.
    """

    data: bytes
    origin: Origin


class Flight:
    """One read of a key on behalf of everybody who waits for it.

    Attributes:
        mark: Dirty once the key was invalidated after the read began.
        forced: Only the loader will do.
        next: The flight for those who came after an invalidation.
    """

    __slots__ = (
        "abandoned", "forced", "key", "loader", "mark", "negative_ttl", "next", "task", "ttl", "waiters",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None,
        negative_ttl: float | None,
        forced: bool,
        mark: Mark,
    ) -> None:
        self.key = key
        self.loader = loader
        self.ttl = ttl
        self.negative_ttl = negative_ttl
        self.forced = forced
        self.mark = mark
        self.next: Flight | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiters: list[asyncio.Future[Loaded]] = []
        self.abandoned = False


class Flights:
    """Every flight of one process.

    ``fetch`` does the reading; it may replace ``flight.mark`` as long as it has read nothing yet.
    """

    def __init__(self, fetch: Callable[[Flight], Awaitable[Loaded]], marks: Marks) -> None:
        self._fetch = fetch
        self._marks = marks
        self._running: dict[str, Flight] = {}
        self._closed = False

    async def join(
        self,
        key: str,
        loader: Loader,
        *,
        ttl: float | None,
        forced: bool,
        negative_ttl: float | None = None,
    ) -> Loaded:
        """Wait for a read of ``key`` that began after the last invalidation this process knows of.

        ``forced`` callers wait for a load that begins after they came. A loader's error reaches everybody who
        waits for that load. A caller that is cancelled leaves the load to the others; the last one ends it.
        """
        flight = self._running.get(key)
        if flight is None:
            flight = self._new(key, loader, ttl, negative_ttl, forced)
            self._start(flight)
        elif forced or flight.abandoned or not flight.mark.clean:
            if flight.next is None:
                flight.next = self._new(key, loader, ttl, negative_ttl, forced)
            flight = flight.next
            flight.forced = flight.forced or forced
        waiter: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        flight.waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            flight.waiters.remove(waiter)
            if not flight.waiters and flight.task is not None:
                flight.abandoned = True
                flight.task.cancel()
            raise

    async def close(self) -> None:
        """Cancel every load; who waits gets `CacheClosed`."""
        self._closed = True
        tasks = [flight.task for flight in self._running.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _new(
        self, key: str, loader: Loader, ttl: float | None, negative_ttl: float | None, forced: bool
    ) -> Flight:
        mark = self._marks.open(key)
        return Flight(key, loader, ttl=ttl, negative_ttl=negative_ttl, forced=forced, mark=mark)

    def _start(self, flight: Flight) -> None:
        self._running[flight.key] = flight
        flight.task = asyncio.create_task(self._run(flight), name="unstale-load")

    async def _run(self, flight: Flight) -> None:
        try:
            loaded = await self._fetch(flight)
        except asyncio.CancelledError:
            if self._closed:
                self._fail(flight, CacheClosed("the cache was closed while this was loading"))
            elif flight.abandoned:
                raise
            else:
                self._fail(flight, LoadCancelled(f"the loader of {flight.key!r} was cancelled from inside"))
        except Exception as error:
            self._fail(flight, error)
        except BaseException as error:  # the interpreter is going down: wake everybody, then let it
            self._fail(flight, error)
            raise
        else:
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(loaded)
        finally:
            self._marks.close(flight.mark)
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        """Let the next flight begin, if anybody still waits for it."""
        following = flight.next
        if following is not None and self._closed:
            self._fail(following, CacheClosed("the cache was closed while this was loading"))
        if following is not None and following.waiters and not self._closed:
            self._marks.close(following.mark)
            following.mark = self._marks.open(following.key)  # nothing was read for it before now
            self._start(following)
            return
        if following is not None:
            self._marks.close(following.mark)
        del self._running[flight.key]

    def _fail(self, flight: Flight, error: BaseException) -> None:
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def __contains__(self, key: str) -> bool:
        return key in self._running

    def __len__(self) -> int:
        return len(self._running)


_takes_load: "WeakKeyDictionary[object, bool]" = WeakKeyDictionary()


async def call(loader: Loader, load: Load) -> object:
    """Run a loader, whatever kind of callable it is."""
    function: Callable[..., Any] = loader
    result = function(load) if wants_load(function) else function()
    return await result if inspect.isawaitable(result) else result


def wants_load(function: Callable[..., Any]) -> bool:
    """Whether the loader has a required positional parameter."""
    code = getattr(function, "__code__", None)  # a lambda is made anew for each call, its code is not
    if code is None:
        return _requires_argument(function)
    known = _takes_load.get(code)
    if known is None:
        known = _takes_load[code] = _requires_argument(function)
    return known


def _requires_argument(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(
        parameter.default is inspect.Parameter.empty
        and parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )
