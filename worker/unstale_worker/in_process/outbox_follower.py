"""Follows the outbox inside an agent's process, and feeds that process' near cache: no Redis, no leader.

Any number may follow one database, beside each other and beside a worker: each has a position of its own, in
memory, and only reads. It polls: the one session that commits may notify belongs to the worker's leader.
"""

import asyncio
import contextlib
import logging
import random
from typing import Final

from unstale.errors import ConfigurationError
from unstale.in_process.outbox_feed import Feed
from unstale.protocol.messages import PublishedRules
from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale.settings import AgentSettings
from unstale_worker.leader.planning import plan_page
from unstale_worker.leader.poll_policy import Pace
from unstale_worker.observe.preflight import check_watches
from unstale_worker.redis.state import Standing, State, standing_after_read
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import get_logger
from unstale_worker.runtime.retry import retry
from unstale_worker.sources import Page, Source
from unstale_worker.sources.opening import check_settings, open_source

logger = logging.getLogger("unstale")
log = get_logger("unstale")

SESSION: Final = "embedded"
"""Suffix of the sessions' ``application_name``: no leader's, so that no leader ends them."""
SHORTEST_PAUSE: Final = 0.01
"""Seconds between two reads while changes come: the process has requests to answer, too."""
PURGE_EVERY: Final = 30.0
"""Seconds between two rounds of the purge, give or take a third: many instances do not come at once."""
PURGE_STEP: Final = 5_000
"""Entries a purge step deletes: some 20 ms."""


class OutboxFollower:
    """An `unstale.in_process.entry_point.EmbeddedWorker` for the source ``outbox``.

    The position is in memory: a process that starts has nothing cached, so it takes a snapshot, drops what
    was loaded meanwhile, and is true to the database from there on. A connection that breaks costs nothing:
    the position stands, and what was missed is read afterwards.

    Attributes:
        reads: Reads of the outbox so far.
        restarts: Times a position was begun, the first included.
        failures: Times following broke and was tried again.
    """

    def __init__(self, settings: AgentSettings, feed: Feed) -> None:
        check_settings(settings)
        self._settings, self._feed = settings, feed
        self._rules = Rules.load(settings.config)
        self._published = PublishedRules.decode(self._rules.published())
        self._place: State | None = None
        self._source: Source | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._hinted = asyncio.Event()
        self.tried = asyncio.Event()
        self.refused: ConfigurationError | None = None
        self.reads = 0
        self.restarts = 0
        self.failures = 0

    def start(self) -> None:
        """See `EmbeddedWorker.start`."""
        self._tasks = [
            asyncio.create_task(self._follow_forever(), name="unstale-embedded"),
            asyncio.create_task(self._purge_for_ever(), name="unstale-embedded-purge"),
        ]

    def hint(self) -> None:
        """See `EmbeddedWorker.hint`."""
        self._hinted.set()

    async def close(self) -> None:
        """See `EmbeddedWorker.close`."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await cancelled(task)

    # --- following ------------------------------------------------------------------------------

    async def _follow_forever(self) -> None:
        async def attempt() -> None:
            try:
                await self._follow()
            except ConfigurationError as error:
                if self.tried.is_set():
                    raise
                self.refused = error
            finally:
                self.tried.set()

        await retry(attempt, failed=self._note, logger=log, event="not following the outbox; trying again")

    async def _follow(self) -> None:
        """Read until something breaks."""
        source = self._source = self._source or await self._open()
        pace = Pace(
            poll_min=max(SHORTEST_PAUSE, self._settings.poll_min, source.least_pause),
            poll_max=max(SHORTEST_PAUSE, self._settings.poll_max, 10 * source.least_pause),
        )
        try:
            while True:
                hinted = self._hinted.is_set()
                self._hinted.clear()
                found = await self.cycle(source)
                self.tried.set()
                pace.saw(found or hinted, now=self._feed.now())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pace.pause):
                        await self._hinted.wait()
        finally:
            await source.close()

    async def _open(self) -> Source:
        """The source, once the captures were seen to report what the rules need."""
        source = await open_source(self._settings, session=SESSION)
        try:
            check_watches(self._rules, (await source.watch_versions()).values())
            for failure in await source.check_queries(self._rules):
                logger.error("a fan-out query does not run, so changes cost its patterns: %s", failure)
        except BaseException:
            await source.close()
            raise
        return source

    async def cycle(self, source: Source) -> int:
        """Bring the caches up to now; returns how many entries were new."""
        began, place = self._feed.now(), self._place
        self.reads += 1
        if place is None:
            page = await source.read(None)
            # After the snapshot: what was loaded before it may lack what it contains.
            self._feed.restart(self._published)
            self._place = State(
                live_run="", position=page.position, database=page.database, flushed=page.flushed
            )
            self.restarts += 1
            self._reached(page, began)
            return 0
        page, found = await source.read(place.position), 0
        while True:
            standing = standing_after_read(place, page)
            if standing is not Standing.READY:
                logger.warning(
                    "dropping everything cached; the outbox cannot be followed: %s", standing.value
                )
                self._place = None
                self._feed.lost()
                return found
            await self._apply(source, page)
            # Only now: whatever breaks before this, the page is read again.
            place = self._place = place.advanced(page)
            found += len(page.entries)
            if not page.more:
                break
            page = await source.read(place.position, page.cursor)
        self._reached(page, began)
        return found

    async def _apply(self, source: Source, page: Page) -> None:
        if not page.entries:
            return
        plan = await plan_page(page, self._rules, source)
        if plan.queries:
            for failure in await source.run_queries(self._rules, plan):
                logger.error("a fan-out query failed; its patterns were invalidated: %s", failure)
        self._feed.drop(plan.keys, sorted(plan.patterns))

    def _reached(self, page: Page, began: float) -> None:
        self._feed.reached(began, seen=page.seen, lsn=page.lsn, flushed=page.flushed, database=page.database)

    # --- the purge ------------------------------------------------------------------------------

    async def _purge_for_ever(self) -> None:
        """Purge in small steps on a session opened for it; whoever comes second finds nothing to do."""
        told = self._settings.model_fields_set
        while True:
            await asyncio.sleep(PURGE_EVERY * random.uniform(0.7, 1.3))
            if self._source is None:
                continue
            source = self._source.beside()
            try:
                # What nobody set here stays as a worker, or another instance, was told.
                deleted = 1
                while deleted:
                    deleted = await source.purge(
                        rows=PURGE_STEP,
                        retention=self._settings.retention if "retention" in told else None,
                        outbox_max_rows=self._settings.outbox_max_rows if "outbox_max_rows" in told else None,
                    )
                    await asyncio.sleep(0.05)
            except Exception as error:
                pass_on_cancellation()
                logger.debug("the purge failed and is tried again: %s", error)
            finally:
                await source.close()

    def _note(self, error: Exception) -> None:
        self.failures += 1

    def __repr__(self) -> str:
        return f"<OutboxFollower position={self._place.position if self._place else None} reads={self.reads}>"
