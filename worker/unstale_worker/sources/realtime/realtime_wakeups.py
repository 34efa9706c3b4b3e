"""Keep one Realtime session open, reconnect after failures, and pass its hints on."""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Self

import structlog

from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.sources.realtime.library_log import kept_quiet
from unstale_worker.sources.realtime.session import Ended, Session
from unstale_worker.sources.realtime.target import Target, Timing

log = structlog.get_logger("unstale.realtime")

LOG_AGAIN: Final = 600.0
"""Seconds after which an unchanged reason is logged again."""


class RealtimeWakeUps:
    """Calls ``on_hint`` for every change of a table, and whenever a change may have been missed.

    A hint means "there may be changes" and nothing else: several changes may give one hint, and a hint may
    come without a change. An unavailable, refusing or silent service never raises; `healthy` and `problem`
    report it. The service can lose changes while everything looks healthy. A caller that also reads by timer
    notices this and may call `reconnect`.

    Example:
        >>> async with RealtimeWakeUps(url, key, on_hint=wakeups.hint) as realtime:
        ...     realtime.healthy
        False

    Args:
        url: The project's base URL; `SettingError` if it is not a URL.
        key: A secret or ``service_role`` key; never decoded, never logged.
        on_hint: Called in this object's own task. An exception is logged and does not stop later hints.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        table: str = "unstale_wakeup",
        schema: str = "public",
        on_hint: Callable[[], None],
        timing: Timing | None = None,
    ) -> None:
        self._target = Target(url, key, schema=schema, table=table)
        self._timing = timing or Timing()
        self._hint = on_hint
        self._backoff = Backoff(first=self._timing.first_pause, most=self._timing.most_pause)
        self._stopping = asyncio.Event()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._private = False
        self._ready_at = 0.0
        self._logged = ("", 0.0)
        self._unreadable_logged_at = 0.0
        self.healthy = False
        """True while changes are delivered, as far as can be known."""
        self.problem = ""
        """Reason why it is not healthy; empty while it is."""
        self.attempts = 0
        """Number of sessions started."""
        self.sessions = 0
        """Number of sessions that became ready."""
        self.hints = 0
        """Number of calls of ``on_hint``."""
        self.unreadable = 0
        """Number of messages that the client dropped because they do not fit its models."""

    def __repr__(self) -> str:
        return f"<RealtimeWakeUps {'healthy' if self.healthy else 'down'} reconnects={self.reconnects}>"

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="unstale-realtime")
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def reconnects(self) -> int:
        """Number of sessions that became ready after an earlier one had ended."""
        return max(0, self.sessions - 1)

    def reconnect(self, reason: str) -> None:
        """End the session and open a new one, for example if reads find changes without a hint."""
        if self._session is not None:
            self._session.end(reason)

    async def close(self) -> None:
        """Stop, and wait until no task is left. May be called again."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is None:
            return
        if self._session is not None:
            self._session.end("stopped")
        try:
            await asyncio.wait([task], timeout=3 * self._timing.close)
        finally:
            await cancelled(task)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with kept_quiet(masked=self._target.masked, unreadable=self._cannot_read):
            while not self._stopping.is_set():
                ended = await self._one_session()
                lasted = loop.time() - self._ready_at if self.healthy else 0.0
                self.healthy = False
                if self._stopping.is_set():
                    return
                self._note(ended)
                try:
                    async with asyncio.timeout(self._pause(ended, lasted=lasted)):
                        await self._stopping.wait()
                except TimeoutError:
                    pass_on_cancellation()

    def _pause(self, ended: Ended, *, lasted: float) -> float:
        """Return the seconds until the next attempt; the last session was ready for ``lasted`` seconds."""
        if lasted >= self._timing.settled:
            self._backoff.succeeded()
        pause = self._backoff.failed()
        if ended.private_only and not self._private:
            self._private = True
        elif ended.refused:
            pause = max(pause, self._timing.refused_pause * random.uniform(0.5, 1.0))
        return pause

    async def _one_session(self) -> Ended:
        self.attempts += 1
        try:
            self._session = Session(
                self._target,
                timing=self._timing,
                private=self._private,
                on_ready=self._became_ready,
                on_hint=self._pass_on,
            )
            return await self._session.run()
        except Exception as error:  # an incompatible version of the client counts as an outage
            pass_on_cancellation()
            return Ended(self._target.masked(f"{type(error).__name__}: {error}"))
        finally:
            self._session = None

    def _became_ready(self) -> None:
        self._ready_at = asyncio.get_running_loop().time()
        self.healthy, self.problem = True, ""
        self.sessions += 1
        self._logged = ("", 0.0)
        log.info("Realtime delivers wake-ups", reconnects=self.reconnects, attempts=self.attempts)
        self._pass_on()  # changes may have arrived while no session listened

    def _pass_on(self) -> None:
        self.hints += 1
        try:
            self._hint()
        except Exception as error:
            log.exception("passing on a wake-up failed", problem=str(error))

    def _cannot_read(self, line: str) -> None:
        """Count an unreadable message and treat it as a hint; runs in the client's listening task."""
        self.unreadable += 1
        if self._session is not None and "postgres_changes" in line:
            self._session.hint()
        now = asyncio.get_running_loop().time()
        if self._unreadable_logged_at and now < self._unreadable_logged_at + LOG_AGAIN:
            return
        self._unreadable_logged_at = now
        remedy = ""
        if "Error 401" in line:
            table = f"{self._target.schema}.{self._target.table}"
            remedy = f"service_role may not read the table: grant select on {table} to service_role"
        log.warning("Realtime sent a message that its client cannot read", message=line[:500], remedy=remedy)

    def _note(self, ended: Ended) -> None:
        self.problem = ended.reason
        now = asyncio.get_running_loop().time()
        if (ended.reason, True) == (self._logged[0], now < self._logged[1] + LOG_AGAIN):
            return
        self._logged = (ended.reason, now)
        log.warning("Realtime is down; polling until it is back", problem=ended.reason)
