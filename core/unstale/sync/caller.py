"""A thread that waits for the event loop, and runs its loader meanwhile.

Plain loaders run in the thread that asked, so thread-locals (a Django connection), context variables and
signal handlers are those of the caller. The loop asks for a load by a message to the waiting thread, and
awaits the result. So one load still serves all threads, and a lease is extended while the loader runs.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias, cast

from unstale.errors import CacheClosed
from unstale.reading import load_chain
from unstale.reading.batch_loader import ManyLoader
from unstale.reading.loader import Load, Loader, invoke, load_parameter

SLICE_SECONDS: Final = 0.5
"""Longest wait in one piece. Between two, Python delivers a signal that another thread has received, and the
exceptions that some libraries raise in a thread from outside as a time limit."""

Outcome: TypeAlias = "tuple[Any, Exception | None]"
"""The result of a loader, or else its error."""


class CallerLeft(Exception):
    """The thread whose loader a read waits for was interrupted: begin the read again with another loader."""


class WaitingCaller:
    """One call of one thread, until it is answered or the thread leaves.

    Attributes:
        answered: True once the coroutine has ended. A load that begins later is one in the background.
        left: True if the thread was interrupted while it waited. Changed on the loop only.
        may_leave_early: True if the call may be answered before its loader has ended (``soft_timeout``). Then
            plain loaders run in threads of their own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Callable[[Callable[[], object]], None]) -> None:
        self._loop, self._post = loop, post
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._asked: set[asyncio.Future[Outcome]] = set()
        self.answered = False
        self.left = False
        self.may_leave_early = False

    # --- in the thread of the caller ------------------------------------------------------------

    def wait(self, alive: Callable[[], bool]) -> None:
        """Run loaders until the coroutine has ended; raises CacheClosed if the loop ended without it."""
        while True:
            try:
                step = self._inbox.get(timeout=SLICE_SECONDS)
            except Empty:
                if not alive() and self._inbox.empty():
                    raise CacheClosed("the cache was closed while this was waiting") from None
                continue
            if step is None:
                return
            step()

    def _work(self, function: Callable[[], object], asked: "asyncio.Future[Outcome]") -> None:
        if asked.done():  # cancelled meanwhile
            return
        try:
            outcome: Outcome = (function(), None)
        except Exception as error:
            outcome = (None, error)
        self._send(asked, outcome)  # what ends the thread, like Ctrl-C, ends `wait`

    # --- on the loop ----------------------------------------------------------------------------

    def loader(self, loader: Loader) -> Loader:
        """Return an async loader that runs ``loader`` in the waiting thread, or on the loop if it is async.

        Raises TypeError for a loader with a parameter for which there is no value.
        """
        takes_load = load_parameter(loader) is not None
        if inspect.iscoroutinefunction(loader):
            return loader
        if not takes_load:
            plain = cast(Callable[[], Any], loader)

            async def load() -> Any:
                return await self._ask(plain)

            return load

        async def load_with(load: Load) -> Any:
            return await self._ask(partial(invoke, loader, load))

        return load_with

    def many_loader(self, loader: ManyLoader) -> ManyLoader:
        """Do the same as `loader` for a loader of many keys."""
        if inspect.iscoroutinefunction(loader):
            return loader

        async def load(keys: list[str]) -> Mapping[str, Any]:
            return cast(Mapping[str, Any], await self._ask(partial(loader, keys)))

        return load

    def ended(self, _task: "asyncio.Task[Any]") -> None:
        """Wake the thread: the coroutine has ended."""
        self._inbox.put(None)

    def leave(self) -> None:
        """Record that the thread waits no longer, and let the reads that need its loader begin again."""
        self.left = True
        for asked in tuple(self._asked):
            if not asked.done():
                asked.set_exception(CallerLeft())

    async def _ask(self, function: Callable[[], object]) -> Any:
        if self.left and not self.may_leave_early:
            raise CallerLeft
        function = partial(load_chain.inside, load_chain.chain(), function)
        asked: asyncio.Future[Outcome] = self._loop.create_future()
        if self.answered or self.may_leave_early:  # an early refresh or an audit: the caller has gone on
            context = contextvars.copy_context()
            work = partial(context.run, self._work, function, asked)
            threading.Thread(target=work, name="unstale-background-load", daemon=True).start()
        else:
            self._asked.add(asked)
            self._inbox.put(partial(self._work, function, asked))
        try:
            value, error = await asked
        finally:
            self._asked.discard(asked)
        if error is not None:
            raise error
        return await value if inspect.isawaitable(value) else value

    def _send(self, asked: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
        def arrive() -> None:
            if not asked.done():
                asked.set_result(outcome)

        with contextlib.suppress(CacheClosed):  # `wait` notices
            self._post(arrive)

    def __repr__(self) -> str:
        state = "left" if self.left else "answered" if self.answered else "waiting"
        return f"<WaitingCaller {state}>"
