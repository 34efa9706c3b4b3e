"""Read many keys with one round trip to Redis and one loader call for all missing keys."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from unstale.errors import LoadCancelled
from unstale.reading import load_chain
from unstale.reading.load_chain import Chain, Waiting
from unstale.reading.loader import Loader

ManyLoader: TypeAlias = Callable[[list[str]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
"""Receives the missing keys and returns a mapping of key to value; an omitted key was not found (None)."""

LINGER: Final = 0.01
"""Seconds that a batch waits for keys whose lease is not acquired yet; then it loads the keys it has."""


async def load_many(
    keys: Sequence[str], loader: ManyLoader, read: Callable[[str, Loader], Awaitable[Any]]
) -> dict[str, Any]:
    """Read each key with ``read`` and a loader that joins one batch; raises the errors of ``read``."""
    batch = Batch(keys, loader)

    async def one(key: str) -> Any:
        try:
            return await read(key, lambda: batch.load(key))
        finally:
            batch.settled(key)

    values = await asyncio.gather(*map(one, keys), return_exceptions=True)
    for value in values:
        if isinstance(value, BaseException):
            raise value
    return dict(zip(keys, values, strict=True))


class Batch:
    """Combines the loads of single keys, each under its own lease, into few calls of one loader.

    A call starts as soon as each key has either arrived here or was answered otherwise (another instance
    filled it), and at most `LINGER` seconds after the first key arrived.
    """

    def __init__(self, keys: Sequence[str], loader: ManyLoader) -> None:
        self._expected = set(keys)
        self._loader = loader
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        self._calls: dict[asyncio.Task[None], dict[str, list[asyncio.Future[Any]]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loads: set[Waiting] = set()

    async def load(self, key: str) -> Any:
        """Return the value of one key; raises the loader's errors."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.setdefault(key, []).append(future)
        self._loads.update(load_chain.chain())
        if self._timer is None:
            self._timer = loop.call_later(LINGER, self._begin)
        self.settled(key)
        try:
            return await future
        finally:
            self._left(future)

    def settled(self, key: str) -> None:
        """Record that ``key`` was answered, so that the batch does not wait for it."""
        self._expected.discard(key)
        if not self._expected and self._waiting:
            self._begin()

    def _left(self, future: asyncio.Future[Any]) -> None:
        """Cancel the loader calls that no caller waits for any more."""
        for call, waiting in self._calls.items():
            if any(future in futures for futures in waiting.values()) and all(
                each.done() for futures in waiting.values() for each in futures
            ):
                call.cancel()

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            loads, self._loads = tuple(self._loads), set()
            call = asyncio.create_task(self._call(waiting, loads), name="unstale-load-many")
            self._calls[call] = waiting
            call.add_done_callback(lambda done: self._calls.pop(done, None))

    async def _call(self, waiting: dict[str, list[asyncio.Future[Any]]], loads: Chain) -> None:
        load_chain.enter(loads)
        try:
            answer = self._loader(list(waiting))
            found = await answer if inspect.isawaitable(answer) else answer
            if not isinstance(found, Mapping):
                raise TypeError(
                    f"a loader of many keys must return a mapping of key to value, but this one returned "
                    f"a {type(found).__name__}"
                )
        except asyncio.CancelledError:
            self._fail(waiting, LoadCancelled("the loader of many keys was cancelled"))
            raise
        except BaseException as error:
            self._fail(waiting, error)
            if not isinstance(error, Exception):
                raise
        else:
            for key, futures in waiting.items():
                for future in futures:
                    if not future.done():
                        future.set_result(found.get(key))

    @staticmethod
    def _fail(waiting: Mapping[str, list[asyncio.Future[Any]]], error: BaseException) -> None:
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def __repr__(self) -> str:
        return f"<Batch {len(self._expected)} expected, {len(self._waiting)} waiting>"
