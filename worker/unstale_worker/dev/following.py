"""The worker of ``unstale dev``: it is replaced when the rules change, as in a deploy without a gap."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from unstale.settings import WorkerSettings
from unstale_worker.leader.supervisor import Worker
from unstale_worker.observe.status import Role
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules


@dataclass(slots=True)
class _Running:
    worker: Worker
    stop: asyncio.Event
    task: asyncio.Task[None]


class Following:
    """One worker at a time, with its page. Use it inside its ``async with``."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._running: _Running | None = None
        self._page = AsyncExitStack()
        self.url = ""
        """URL of the page."""

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._page.aclose()
        if self._running is not None:
            await _end(self._running)

    @property
    def task(self) -> asyncio.Task[None]:
        """The worker's task, which ends with an error only."""
        assert self._running is not None
        return self._running.task

    async def follow(self, rules: Rules) -> None:
        """Let a new worker check the servers against `rules`, then replace the former worker by it.

        Raises `ConfigurationError` if the rules do not fit; the former worker then goes on.
        """
        worker, stop = Worker(self._settings, rules), asyncio.Event()
        new = _Running(worker, stop, asyncio.create_task(worker.run(stop=stop)))
        try:
            while worker.status().role is Role.STARTING and not new.task.done():
                await asyncio.wait([new.task], timeout=0.02)
            if new.task.done():
                await new.task
        except BaseException:
            await _end(new)
            raise
        former, self._running = self._running, new
        await self._page.aclose()
        if former is not None:
            former.stop.set()
            await asyncio.wait([former.task])
        self._page = AsyncExitStack()
        self.url = await self._page.enter_async_context(serving_page(self._settings, rules, worker.status))

    async def stop(self) -> None:
        """Let the worker finish the batch at hand and release its lease; raise its error."""
        if self._running is not None:
            self._running.stop.set()
            await self._running.task


async def _end(running: _Running) -> None:
    running.task.cancel()
    await asyncio.wait([running.task])
