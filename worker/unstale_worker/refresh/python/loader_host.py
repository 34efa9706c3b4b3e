"""Main module of a process that calls Python loaders for its parent, which may end it at any moment.

Loaders are foreign code: they may end their process, block its event loop, or ignore their cancellation. So
none runs where a worker leads, holds leases or answers HTTP. The parent reads frames from this process'
standard output and writes them to its standard input; loaders see neither.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from contextvars import ContextVar
from typing import IO, Any, Final

from unstale.companion.pools import ConnectionPool
from unstale.companion.pools.usage import Usage, counted
from unstale.companion.refresh_context import Refresh, RefreshLoader
from unstale.protocol import codec
from unstale.reading import load_chain
from unstale.settings.pools import PoolSettings
from unstale_worker.refresh.python.find_loaders import LoaderMistake, find
from unstale_worker.refresh.python.frames import SIZES, frame, header_of
from unstale_worker.refresh.python.inputs import fingerprint
from unstale_worker.refresh.python.openai_backoff import pause_for
from unstale_worker.runtime.daemon_call import call_in_daemon_thread
from unstale_worker.runtime.event_loop import new_event_loop
from unstale_worker.runtime.logs import configure_logging

BEAT_EVERY: Final = 0.5
"""Seconds between two frames that say how long the event loop has not moved."""
ERROR_CHARACTERS: Final = 200
"""Most characters of a loader's own message that are kept."""
CLOSE_SECONDS: Final = 1.0
"""Seconds that loaders and clients have to end when the parent is done."""

_call: ContextVar[int | None] = ContextVar("_call", default=None)


class Host:
    """The calls of this process.

    Args:
        reads: Frames of the parent; their end is the parent's.
        writes: Where the answers go; used by several threads.
    """

    def __init__(self, reads: IO[bytes], writes: IO[bytes]) -> None:
        self._reads, self._writes, self._writing = reads, writes, threading.Lock()
        self._loop = new_event_loop()
        self._moved = time.monotonic()
        self._found: dict[str, asyncio.Future[RefreshLoader]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asking: dict[int, asyncio.Future[None]] = {}
        self._closing = asyncio.Event()

    def run(self) -> None:
        """Answer until the parent says that it is done, or is gone."""
        settings = self._read()[0]
        configure_logging(settings["log"])
        asyncio.set_event_loop(self._loop)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        self._loop.run_until_complete(self._serve(PoolSettings(**settings["pool"])))

    async def _serve(self, settings: PoolSettings) -> None:
        self._tick()
        async with contextlib.AsyncExitStack() as stack:
            self._pool = await stack.enter_async_context(ConnectionPool(settings))
            self._say({"ready": True})
            # Importing a client library takes a second of a core: now, and not at the first change.
            await self._pool.warm()
            await self._closing.wait()
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=CLOSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await stack.aclose()
            os._exit(0)  # no thread of a loader, and no handler of its modules, keeps this process

    # --- frames ---------------------------------------------------------------------------------

    def _read(self) -> tuple[dict[str, Any], bytes]:
        sizes = self._reads.read(SIZES.size)
        if len(sizes) < SIZES.size:
            os._exit(0)  # the parent is gone
        head, payload = SIZES.unpack(sizes)
        return header_of(self._reads.read(head)), self._reads.read(payload)

    def _say(self, header: dict[str, Any], payload: bytes = b"") -> None:
        with self._writing, contextlib.suppress(OSError):
            self._writes.write(frame(header, payload))
            self._writes.flush()

    def _listen(self) -> None:
        while True:
            header, _ = self._read()
            self._loop.call_soon_threadsafe(self._handle, header)

    def _handle(self, header: dict[str, Any]) -> None:
        number: int = header.get("id", 0)
        match header["do"]:
            case "check" | "call":
                context_number = _call.set(number)
                work = self._check(header) if header["do"] == "check" else self._answer(header)
                task = self._tasks[number] = self._loop.create_task(work)
                _call.reset(context_number)
                task.add_done_callback(lambda _: self._tasks.pop(number, None))
            case "go" if number in self._asking and not self._asking[number].done():
                self._asking[number].set_result(None)
            case "cancel" if number in self._tasks:
                self._tasks[number].cancel()
            case "close":
                self._closing.set()

    # --- loaders --------------------------------------------------------------------------------

    async def _loader(self, loader: str) -> RefreshLoader:
        """Find a loader once. It is imported in a thread: an endless import keeps nothing else waiting."""
        found = self._found.get(loader)
        if found is None:
            work = call_in_daemon_thread(lambda: find(loader), name=f"import {loader}")
            found = self._found[loader] = asyncio.ensure_future(work)
        return await asyncio.shield(found)

    async def _check(self, header: dict[str, Any]) -> None:
        """Say whether a loader can be called."""
        answer: dict[str, Any] = {"id": header["id"]}
        try:
            await self._loader(header["loader"])
        except LoaderMistake as mistake:
            answer |= {"problem": mistake.problem, "remedy": mistake.remedy}
        self._say(answer)

    async def _answer(self, header: dict[str, Any]) -> None:
        """Call a loader, and say what it returned or how it failed, whatever that is."""
        number, key = header["id"], header["key"]
        usage, calls = Usage(), 0
        try:
            loader = await self._loader(header["loader"])
            self._say({"id": number, "began": True})
            load_chain.enter((load_chain.Waiting(key),))
            known, inputs, problem = header.get("known"), header.get("inputs"), None
            refresh = Refresh(key, header["fields"], self._pool, known)
            if inputs:
                try:
                    refresh.said.append(await fingerprint(self._pool, key, inputs))
                except Exception as error:
                    problem = _said(error)
            value = b""
            if known is None or known not in refresh.said:
                if header.get("ask"):
                    await self._ask(number)
                calls = 1
                with counted(usage):
                    value = codec.encode(key, await loader(refresh))
        except asyncio.CancelledError:
            cancelled = "the loader was cancelled from inside"
            self._say({"id": number, "error": cancelled, "used": [calls, *usage.tokens]})
        except LoaderMistake as mistake:
            self._say({"id": number, "error": str(mistake)})
        except BaseException as error:
            used = [calls, *usage.tokens]
            self._say({"id": number, "error": _said(error), "pause": pause_for(error), "used": used})
        else:
            given = refresh.said[0] if refresh.said else None
            unchanged = given is not None and given == known
            used = [0 if unchanged and not any(usage.tokens) else calls, *usage.tokens]
            answer = {"id": number, "value": True, "fingerprint": given, "problem": problem, "used": used}
            self._say({**answer, "unchanged": unchanged}, b"" if unchanged else value)

    async def _ask(self, number: int) -> None:
        """Wait until the parent has counted this call; it cancels the task if there is no budget left."""
        self._asking[number] = self._loop.create_future()
        try:
            self._say({"id": number, "asks": True})
            await self._asking[number]
        finally:
            del self._asking[number]

    # --- signs of life --------------------------------------------------------------------------

    def _tick(self) -> None:
        self._moved = time.monotonic()
        self._loop.call_later(BEAT_EVERY, self._tick)

    def _beat(self) -> None:
        """Say from a thread how long the event loop has been blocked, and by which call."""
        while True:
            blocked = time.monotonic() - self._moved
            self._say({"blocked": blocked, "by": self._current() if blocked > 2 * BEAT_EVERY else None})
            time.sleep(BEAT_EVERY)

    def _current(self) -> int | None:
        with contextlib.suppress(Exception):
            task = asyncio.current_task(self._loop)
            if task is not None and hasattr(task, "get_context"):  # Python 3.12; also of tasks it started
                number: int | None = task.get_context().get(_call)
                return number
            return next((number for number, each in self._tasks.items() if each is task), None)
        return None


def _said(error: BaseException) -> str:
    """Return the error's kind and message; the message is foreign code, too."""
    try:
        message = str(error)[:ERROR_CHARACTERS]
    except BaseException:
        message = "its message cannot be read"
    return f"{type(error).__name__}: {message}"


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep standard input and output for frames; what loaders print goes to standard error."""
    reads, writes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return reads, writes


def main() -> None:
    """Serve the parent. It alone ends this process: signals to the whole group are the parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    code: object = 0
    try:
        Host(*_own_streams()).run()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code if isinstance(code, int) else 1)  # without waiting for threads
