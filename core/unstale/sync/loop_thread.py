"""An event loop in a daemon thread, and calls that other threads wait for."""

import asyncio
import contextlib
import contextvars
import logging
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from unstale.errors import CacheClosed
from unstale.sync.caller import CallerLeft, WaitingCaller

logger = logging.getLogger("unstale")

T = TypeVar("T")

OTHER_PROCESS: Final = (
    "this belongs to the process that opened it, and this process was forked from that one; open another one "
    "here"
)
CLOSED: Final = "the cache is closed; open it again with `with cache` or `cache.open()`"


class LoopThread:
    """Runs coroutines for threads that wait for them.

    Attributes:
        loop: The event loop.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self._posted: deque[Callable[[], object]] = deque()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self.loop.add_reader(self._woken, self._take)
        self._stopping = False
        self._forked = False
        self._left: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """True in a forked child of the process that opened this."""
        return self._forked

    @property
    def alive(self) -> bool:
        """True until the loop has been stopped, or this process was forked."""
        return not self._forked and self._thread.is_alive()

    def run(
        self,
        work: Callable[[WaitingCaller], Coroutine[Any, Any, T]],
        *,
        context: contextvars.Context | None = None,
        abandoned: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Run a coroutine on the loop and wait for it; raises what it raises.

        A signal handler that raises in the waiting thread, as for Ctrl-C or a time limit, ends the wait: the
        coroutine is cancelled, and ``abandoned`` runs after it has ended. A read that waited for the loader
        of a thread that has left begins again.

        Args:
            work: Makes the coroutine; it receives the caller, whose thread can run loaders.
            context: Context of the coroutine; None: a copy of the caller's.
            abandoned: Undoes what the coroutine may have done when its result is lost.
        """
        caller = WaitingCaller(self.loop, self._post)

        async def attempts() -> T:
            try:
                while True:
                    try:
                        return await work(caller)
                    except CallerLeft:
                        if caller.left:
                            raise
            finally:
                caller.answered = True

        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            if caller.left:
                return
            task = self.loop.create_task(attempts(), context=inside)
            tasks.append(task)
            task.add_done_callback(caller.ended)

        inside = contextvars.copy_context() if context is None else context
        try:
            self._post(begin)
            caller.wait(lambda: self.alive)
        except BaseException:
            with contextlib.suppress(CacheClosed):
                self._post(lambda: self._abandon(caller, tasks, abandoned))
            raise
        if not tasks or tasks[0].cancelled():
            raise CacheClosed(CLOSED)
        return tasks[0].result()

    def stop(self, last: Callable[[], Coroutine[Any, Any, object]], *, wait: float | None) -> None:
        """Run ``last``, then end the loop and its thread; wait at most ``wait`` seconds for that."""

        async def end() -> None:
            try:
                await last()
            except Exception:
                logger.exception("the cache was not closed cleanly")
            finally:
                self._stopping = True
                self.loop.stop()

        def begin() -> None:
            task = self.loop.create_task(end(), context=contextvars.Context())
            self._left.add(task)

        with contextlib.suppress(CacheClosed):
            self._post(begin)
        if threading.current_thread() is not self._thread and wait != 0 and not self._forked:
            self._thread.join(wait)

    def forget(self) -> None:
        """Mark this as inherited by a forked child, where its thread does not run."""
        self._forked = True

    def _post(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` on the loop soon; raises `CacheClosed` if it has ended.

        Not by ``call_soon_threadsafe``: asyncio ignores each OSError while it wakes the loop, so the
        TimeoutError of a signal handler, which is one, could be lost there.
        """
        if self._forked:
            raise CacheClosed(OTHER_PROCESS)
        self._posted.append(callback)
        try:
            self._wake.send(b"\0")
        except BlockingIOError:
            pass  # it has not taken the last ones yet
        except OSError:
            if self._wake.fileno() != -1:
                raise  # of a signal handler
            raise CacheClosed(CLOSED) from None

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while self._posted:
            self._posted.popleft()()

    def _abandon(
        self,
        caller: WaitingCaller,
        tasks: list[asyncio.Task[T]],
        abandoned: Callable[[], Awaitable[object]] | None,
    ) -> None:
        """Cancel the task of a caller that has left; runs on the loop."""
        caller.leave()
        if not tasks:
            return

        async def undo() -> None:
            await asyncio.wait(tasks)
            if not tasks[0].cancelled():
                tasks[0].exception()  # retrieved, as no caller waits any more
            if abandoned is not None:
                with contextlib.suppress(Exception):
                    await abandoned()

        tasks[0].cancel()
        after = self.loop.create_task(undo())
        self._left.add(after)
        after.add_done_callback(self._left.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._stopping:
            # A loader's SystemExit leaves run_forever; it reaches the caller, and the loop goes on.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()
        try:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self._wake.close()
            self.loop.close()
            self._woken.close()

    def __repr__(self) -> str:
        return f"<LoopThread {self._thread.name} {'running' if self.alive else 'ended'}>"
