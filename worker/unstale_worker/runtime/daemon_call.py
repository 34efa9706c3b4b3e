"""Calls foreign code that may never return, in a thread that nobody waits for."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T], *, name: str) -> T:
    """What ``call`` returns or raises, while the loop goes on; ``name`` is the thread's.

    Unlike ``asyncio.to_thread``, whose threads a closing loop and an ending process wait for: a module that
    never finishes importing must not keep a worker from ending.
    """
    loop = asyncio.get_running_loop()
    called: asyncio.Future[T] = loop.create_future()

    def returned(value: T) -> None:
        if not called.done():  # else whoever waited was cancelled
            called.set_result(value)

    def raised(error: BaseException) -> None:
        if not called.done():
            called.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed by then: nobody listens
            try:
                value = call()
            except BaseException as error:
                loop.call_soon_threadsafe(raised, error)
            else:
                loop.call_soon_threadsafe(returned, value)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await called
