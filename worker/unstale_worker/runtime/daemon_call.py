"""Runs a blocking call in a daemon thread, so that it cannot delay shutdown."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def call_in_daemon_thread(call: Callable[[], T], *, name: str) -> T:
    """Return what ``call`` returns, or raise what it raises, without blocking the loop.

    A closing loop and an ending process wait for the threads of ``asyncio.to_thread``. They do not wait for
    this one, so a module whose import never returns cannot keep a worker from ending. The thread is called
    ``name``.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[T] = loop.create_future()

    def returned(value: T) -> None:
        if not called.done():  # else the caller was cancelled
            called.set_result(value)

    def raised(error: BaseException) -> None:
        if not called.done():
            called.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed by then
            try:
                value = call()
            except BaseException as error:
                loop.call_soon_threadsafe(raised, error)
            else:
                loop.call_soon_threadsafe(returned, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await called
