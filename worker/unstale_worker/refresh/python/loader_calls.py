"""Calls Python loaders in processes of their own, and finds out which of several ended one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from unstale.errors import RuleError
from unstale.settings import WorkerSettings
from unstale_worker.refresh.python.loader_process import (
    Loaded,
    LoaderFailed,
    LoaderProcess,
    ProcessDied,
)
from unstale_worker.refresh.used import Used
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader, RefreshSpec

log = structlog.get_logger("unstale.refresh")

INTERRUPTIONS: Final = 3
"""Processes that may end under a call by another's doing; then it is called alone."""
ALONE_MOST: Final = 2
"""Processes at the same time that call one suspected loader each."""


class LoaderCalls:
    """A process that all loaders share. It is replaced when one of them ends or blocks it.

    Where several ran, each is called again in a process of its own, so only the one that ends that has
    failed. Loaders that do not end when they are cancelled keep the old process until the others are done.

    Example:
        >>> async with LoaderCalls(settings, rules) as calls:
        ...     value = await calls.call(spec, "user:42:greeting")
    """

    def __init__(self, settings: WorkerSettings, rules: Rules) -> None:
        self._settings, self._folder = settings, _folder(rules)
        self._shared: LoaderProcess | None = None
        self._starting = asyncio.Lock()
        self._alone = asyncio.Semaphore(ALONE_MOST)
        self._leaving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shared is not None:
            await self._shared.close()
        for task in list(self._leaving):
            task.cancel()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def call(
        self,
        spec: RefreshSpec,
        key: str,
        known: str | None = None,
        *,
        spend: Callable[[], Awaitable[None]] | None = None,
        used: Used | None = None,
    ) -> Loaded:
        """Return the loaded value, or that its inputs still have the fingerprint ``known``.

        Raises `LoaderFailed`, and what ``spend`` raises, which is awaited before each call of the loader.
        ``used`` takes what the calls have used.
        """
        fields, query = spec.fields(key), spec.inputs
        inputs = None
        if query is not None:
            numbers = {column: f"${number}" for number, column in enumerate(query.columns, 1)}
            inputs = {"query": query.written(numbers), "values": [fields[column] for column in query.columns]}

        async def call(process: LoaderProcess) -> Loaded:
            return await process.call(
                str(spec.loader), key, fields,
                timeout=spec.timeout, known=known, inputs=inputs, spend=spend, used=used,
            )  # fmt: skip

        for _ in range(INTERRUPTIONS):
            process = await self._process()
            try:
                return await call(process)
            except ProcessDied as died:
                log.warning("a process of Python loaders ended; it is replaced", why=str(died))
                if died.suspect:
                    break
        async with self._alone:
            process = await LoaderProcess.started(self._settings, self._folder)
            try:
                return await call(process)
            except ProcessDied as died:
                raise LoaderFailed(str(died)) from died
            finally:
                await process.close()

    async def start(self) -> None:
        """Start the shared process before the first call needs it; raises `LoaderFailed`."""
        await self._process()

    async def _process(self) -> LoaderProcess:
        """Return the shared process, after replacing one that takes no further call."""
        async with self._starting:
            if self._shared is not None and not self._shared.usable:
                task = asyncio.create_task(_leave(self._shared))
                self._leaving.add(task)
                task.add_done_callback(self._leaving.discard)
                self._shared = None
            if self._shared is None:
                self._shared = await LoaderProcess.started(self._settings, self._folder)
            return self._shared

    def __repr__(self) -> str:
        return f"<LoaderCalls {self._shared}>"


async def _leave(process: LoaderProcess) -> None:
    """End a process when its last call has ended, or at once when cancelled."""
    try:
        await process.idle.wait()
    finally:
        await process.kill("its parent stops")


@dataclass(frozen=True, slots=True)
class Mistaken:
    """A loader that cannot be called.

    Attributes:
        spec: The refresh that names it.
        error: What is wrong, with the remedy.
        missing: True if it is not here, so that another process may have it. False if importing its module
            ends or blocks the process, here as anywhere.
    """

    spec: RefreshSpec
    error: RuleError
    missing: bool


async def mistakes(settings: WorkerSettings, rules: Rules) -> list[Mistaken]:
    """Import each Python loader that ``rules`` name, in a process, and return what is wrong with them."""
    found: list[Mistaken] = []
    folder = _folder(rules)
    process: LoaderProcess | None = None
    try:
        for spec in rules.refreshes:
            if not isinstance(spec.loader, PythonLoader):
                continue
            missing = False
            try:
                if process is None or not process.usable:
                    if process is not None:
                        await process.kill("it is replaced")
                    process = await LoaderProcess.started(settings, folder)
                mistake = await process.check(str(spec.loader))
                if mistake is None:
                    continue
                problem, remedy, missing = mistake.problem, mistake.remedy, True
            except (LoaderFailed, ProcessDied) as died:
                problem, remedy = f"the module cannot be imported: {died}", "Let it define functions only."
            error = RuleError(
                file=rules.file, line=spec.line, field=f'refresh."{spec.template.text}".loader',
                value=str(spec.loader), problem=problem, remedy=remedy,
            )  # fmt: skip
            found.append(Mistaken(spec, error, missing))
        return found
    finally:
        if process is not None:
            await process.kill("its parent stops")


def _folder(rules: Rules) -> Path:
    """Return the folder of the rules file: loaders are found there, wherever the command was started."""
    return Path(rules.file).resolve().parent
