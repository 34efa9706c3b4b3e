"""One process that calls Python loaders, as its parent sees it: start, call, cancel, end."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import structlog
from pydantic import SecretStr

from unstale.runtime.cancellation import cancelled
from unstale.settings import PoolSettings, WorkerSettings
from unstale_worker.refresh.python.find_loaders import LoaderMistake
from unstale_worker.refresh.python.frames import SIZES, frame, header_of
from unstale_worker.refresh.used import Used

log = structlog.get_logger("unstale.refresh")

BLOCKED_SECONDS: Final = 10.0
"""Seconds for which a loader may block the event loop: every other loader of its process waits meanwhile."""
SILENT_SECONDS: Final = 20.0
"""Seconds without a sign of life after which the process is ended."""
START_SECONDS: Final = 60.0
"""Seconds in which the process has to start, and a loader's module has to be imported."""
CANCEL_SECONDS: Final = 2.0
"""Seconds that a loader has to end after its cancellation; then its process takes no further call."""
CLOSE_SECONDS: Final = 4.0
"""Seconds that the process has to end in order."""
HEADER_BYTES: Final = 1 << 20
"""A longer header was not written by the process' own code."""
LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the signs of life."""
PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from unstale_worker.refresh.python.loader_host import main; main()"
)


class LoaderFailed(Exception):
    """A loader failed; the text says how, without values.

    Attributes:
        pause: Seconds for which a model's rate limit asks to leave the loader alone; None: it is a failure.
    """

    def __init__(self, text: str, *, pause: float | None = None) -> None:
        self.pause = pause
        super().__init__(text)


class ProcessDied(Exception):
    """The process of a call ended before the loader did.

    Attributes:
        suspect: True if this call may be the one that ended it; False if that was another, or the parent.
    """

    def __init__(self, text: str, *, suspect: bool) -> None:
        self.suspect = suspect
        super().__init__(text)


class Loaded(NamedTuple):
    """The result of a call.

    Attributes:
        value: The JSON of the value; None: the kept one is unchanged.
        fingerprint: Fingerprint of the inputs; None: there is none.
        problem: Why the query of the inputs failed; None: it did not.
        tokens: Tokens of prompts and of answers that the call used.
    """

    value: bytes | None
    fingerprint: str | None = None
    problem: str | None = None
    tokens: tuple[int, int] = (0, 0)


class _Call:
    """The events that a call waits for: it begins, it asks to call the loader, and it has ended."""

    __slots__ = ("asked", "began", "ended")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.asked: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[tuple[dict[str, Any], bytes]] = loop.create_future()


class LoaderProcess:
    """A child process and the calls that it works on.

    Example:
        >>> process = await LoaderProcess.started(settings, folder)
        >>> fields = {"user_id": "42"}
        >>> value = await process.call("greetings:greeting", "user:42:greeting", fields, timeout=30.0)
        >>> await process.close()
    """

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._child, self._writes, self._reads = child, child.stdin, child.stdout
        self._numbers, self._calls = itertools.count(1), dict[int, _Call]()
        self._heard, self._moved = time.monotonic(), 0.0
        self._ready = asyncio.Event()
        self._end = ""
        self._blamed: int | None = None
        self.idle = asyncio.Event()
        """Set while no call waits for it."""
        self.idle.set()
        self.usable = True
        """False once it takes no further call: it has ended, or a loader in it does not end."""
        self._tasks = [
            asyncio.create_task(self._listen(), name="loader process"),
            asyncio.create_task(self._watch(), name="loader process watch"),
        ]

    @classmethod
    async def started(cls, settings: WorkerSettings, folder: Path) -> "LoaderProcess":
        """Start a process that also finds modules in ``folder``; raises `LoaderFailed`."""
        path = [str(folder), *(entry for entry in sys.path if entry != str(folder))]
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-c", PROGRAM, json.dumps(path),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise LoaderFailed(f"a process for loaders did not start ({error.strerror})") from error
        process = cls(child)
        try:
            process._send({"pool": _plain(settings), "log": settings.log})
            async with asyncio.timeout(START_SECONDS):
                await process._ready.wait()
        except TimeoutError:
            await process.kill(f"it did not start within {START_SECONDS:.0f} s")
        except BaseException:
            await process.kill("its parent stops")
            raise
        if not process.usable:
            await process.kill("it did not start")
            raise LoaderFailed(f"a process for loaders did not start: {process._end}")
        return process

    async def check(self, loader: str) -> LoaderMistake | None:
        """Return what keeps ``loader`` from being called; raises `LoaderFailed` and `ProcessDied`."""
        number, call = self._open({"do": "check", "loader": loader})
        try:
            header, _ = await self._within(call, START_SECONDS)
        except TimeoutError:
            raise LoaderFailed(f"importing its module takes longer than {START_SECONDS:.0f} s") from None
        finally:
            self._close(number)
        return LoaderMistake(header["problem"], header["remedy"]) if "problem" in header else None

    async def call(
        self,
        loader: str,
        key: str,
        fields: Mapping[str, str],
        *,
        timeout: float,
        known: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        spend: Callable[[], Awaitable[None]] | None = None,
        used: Used | None = None,
    ) -> "Loaded":
        """Return the JSON of the loaded value, or that it is unchanged since the fingerprint ``known``.

        A cancelled call ends the loader first. Raises `LoaderFailed`, and `ProcessDied` if the call was
        interrupted.

        Args:
            spend: Called before the loader is, if its inputs have changed; if it raises, the loader is not
                called.
            used: Takes what the call has used, however it ends.
        """
        number, call = self._open(
            {
                "do": "call",
                "loader": loader,
                "key": key,
                "fields": dict(fields),
                "known": known,
                "inputs": inputs,
                "ask": spend is not None,
            }
        )
        problem = f"importing its module takes longer than {START_SECONDS:.0f} s"
        try:
            await self._within(call, START_SECONDS, or_until=call.began)
            problem = f"the loader took longer than {timeout:g} s"
            if spend is not None:
                await self._within(call, timeout, or_until=call.asked)
                if not call.ended.done():
                    await self._may_call(number, call, spend)
            header, payload = await self._within(call, timeout)
        except TimeoutError:
            if not await self._cancelled(number, call):
                problem += ", and did not end when it was cancelled"
            if call.ended.done() and (error := call.ended.exception()) is not None:
                raise error from None  # the process ended meanwhile: another loader may be to blame
            raise LoaderFailed(problem) from None
        except asyncio.CancelledError:
            await self._cancelled(number, call, wait_for_loop=False)
            raise
        finally:
            self._close(number)
            if used is not None and _answered(call):
                used.add(call.ended.result()[0])
        if "error" in header:
            raise LoaderFailed(header["error"], pause=header.get("pause"))
        value = None if header.get("unchanged") else payload
        return Loaded(value, header.get("fingerprint"), header.get("problem"))

    async def close(self) -> None:
        """End the process: in order if it can, and at once if the caller is cancelled."""
        try:
            self.usable = False
            if self._child.returncode is None and not self._end:
                self._send({"do": "close"})
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._child.wait()
        except TimeoutError:
            pass
        finally:
            await self.kill("its parent stops")

    async def kill(self, reason: str) -> None:
        """End the process at once, and with it every call."""
        self._ended(reason, by_loader=False)
        if self._child.returncode is None:
            self._child.kill()
        for task in self._tasks:
            if task is not asyncio.current_task():
                await cancelled(task)
        self._writes.close()
        await self._child.wait()

    def __repr__(self) -> str:
        return f"<LoaderProcess {self._child.pid} calls={len(self._calls)} usable={self.usable}>"

    # --- calls ----------------------------------------------------------------------------------

    def _open(self, header: dict[str, Any]) -> tuple[int, _Call]:
        if not self.usable:
            raise ProcessDied(self._end or "it takes no further call", suspect=False)
        number, call = next(self._numbers), _Call()
        self._calls[number] = call
        self.idle.clear()
        self._send({**header, "id": number})
        return number, call

    def _close(self, number: int) -> None:
        del self._calls[number]
        if not self._calls:
            self.idle.set()

    async def _may_call(self, number: int, call: _Call, spend: Callable[[], Awaitable[None]]) -> None:
        """Let the loader be called once ``spend`` returns; if it raises, the call is cancelled."""
        try:
            await spend()
        except Exception:
            await self._cancelled(number, call)
            raise
        self._send({"do": "go", "id": number})

    async def _within(
        self, call: _Call, seconds: float, *, or_until: "asyncio.Future[None] | None" = None
    ) -> tuple[dict[str, Any], bytes]:
        """Wait until the call has ended, or for another of its events; raises TimeoutError."""
        waits: list[asyncio.Future[Any]] = [call.ended] if or_until is None else [call.ended, or_until]
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise TimeoutError
        return await call.ended if call.ended.done() else ({}, b"")

    async def _cancelled(self, number: int, call: _Call, *, wait_for_loop: bool = True) -> bool:
        """Cancel a loader; return False if it goes on. Its process then takes no further call.

        Where the event loop does not move, another loader blocks it. That is over once it moves, or once the
        process has been ended for it.
        """
        sent = time.monotonic()
        self._send({"do": "cancel", "id": number})
        while not call.ended.done():
            await asyncio.wait([call.ended], timeout=CANCEL_SECONDS)
            if not call.ended.done() and (self._moved > sent or not wait_for_loop):
                self.usable = False
                return False
        call.ended.exception()  # retrieved
        return True

    # --- the child ------------------------------------------------------------------------------

    def _send(self, header: dict[str, Any]) -> None:
        if not self._writes.is_closing():
            self._writes.write(frame(header))

    async def _listen(self) -> None:
        try:
            while True:
                head, size = SIZES.unpack(await self._reads.readexactly(SIZES.size))
                if head > HEADER_BYTES:
                    raise ValueError("not a frame")
                header = header_of(await self._reads.readexactly(head))
                self._heard_of(header, await self._reads.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await self._child.wait()
            self._ended(
                f"it ended its process (exit code {code})" if code >= 0 else f"signal {-code} ended it"
            )
        except (ValueError, MemoryError) as error:
            self._child.kill()
            self._ended(f"it wrote into its process' pipe ({type(error).__name__})")

    def _heard_of(self, header: dict[str, Any], payload: bytes) -> None:
        self._heard = time.monotonic()
        if "blocked" in header:
            self._moved = self._heard - header["blocked"]
            if header["blocked"] > BLOCKED_SECONDS and not self._end:
                self._blamed = header["by"]
                self._child.kill()
                self._ended(f"it blocked the event loop for {BLOCKED_SECONDS:.0f} s; await, or use a thread")
        elif "ready" in header:
            self._ready.set()
        elif (call := self._calls.get(header["id"])) is not None:
            if "began" in header:
                call.began.set_result(None)
            elif "asks" in header:
                call.asked.set_result(None)
            elif not call.ended.done():
                call.ended.set_result((header, payload))

    async def _watch(self) -> NoReturn:
        await self._ready.wait()  # a start may take longer than a silence: it has its own limit
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if time.monotonic() - self._heard > SILENT_SECONDS and not self._end:
                self._child.kill()
                self._ended(f"its process did not answer for {SILENT_SECONDS:.0f} s")

    def _ended(self, reason: str, *, by_loader: bool = True) -> None:
        """End every call: the one that is to blame has failed; if that is unknown, each is a suspect."""
        if self._end:
            return
        self._end, self.usable = reason, False
        self._ready.set()
        running = {number: call.ended for number, call in self._calls.items() if not call.ended.done()}
        blamed = next(iter(running)) if by_loader and len(running) == 1 else self._blamed
        for number, ended in running.items():
            if number == blamed:
                ended.set_exception(LoaderFailed(reason))
            else:
                ended.set_exception(ProcessDied(reason, suspect=by_loader and blamed is None))


def _answered(call: _Call) -> bool:
    ended = call.ended
    return ended.done() and not ended.cancelled() and ended.exception() is None


def _plain(settings: WorkerSettings) -> dict[str, Any]:
    """Return the settings of loaders' clients as JSON has them; only the child's pipe carries them."""
    values = {name: getattr(settings, name) for name in PoolSettings.model_fields}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in values.items()
    }
