"""Follow the outbox inside an agent's process and feed its near cache: no Redis, no leader.

Any number of processes may follow one database, also beside a worker: each keeps its own position in memory
and only reads. It polls, because the one session that commits may notify belongs to the worker's leader.
"""

import asyncio
import contextlib
import logging
import random
from typing import Final

from unstale.errors import ConfigurationError
from unstale.in_process.outbox_feed import OutboxFeed
from unstale.protocol.messages import PublishedRules
from unstale.runtime.cancellation import cancelled, pass_on_cancellation
from unstale.settings import AgentSettings
from unstale_worker.captures.coverage import Coverage
from unstale_worker.captures.monitor import CaptureMonitor
from unstale_worker.fanout.failure import ColumnTypes
from unstale_worker.leader.planning import plan_page
from unstale_worker.leader.poll_policy import PollPolicy
from unstale_worker.observe.preflight import check_watches, typed
from unstale_worker.redis.state import Standing, StoredState, standing_after_read
from unstale_worker.rules import Rules
from unstale_worker.runtime.logs import get_logger
from unstale_worker.runtime.retry import retry
from unstale_worker.sources import Page, Source
from unstale_worker.sources.opening import check_settings, open_source

logger = logging.getLogger("unstale")
log = get_logger("unstale")

SESSION: Final = "embedded"
"""Suffix of the sessions' ``application_name``: not a leader's name, so that no leader ends the sessions."""
SHORTEST_PAUSE: Final = 0.01
"""Minimum seconds between two reads while changes arrive: the process must also answer requests."""
PURGE_EVERY: Final = 30.0
"""Seconds between two rounds of the purge, plus or minus 30 %, so that many instances do not coincide."""
PURGE_STEP: Final = 5_000
"""Maximum entries per purge step, which takes about 20 ms."""


class OutboxFollower:
    """An `unstale.in_process.entry_point.EmbeddedWorker` for the source ``outbox``.

    The position is kept in memory. A process has nothing cached at its start, so it takes a snapshot, drops
    the values loaded meanwhile, and is consistent with the database from then on. After a lost connection the
    position is still valid, and the missed changes are read.

    Attributes:
        coverage: How far the rules' tables are captured, as of the last check.
        reads: Number of reads of the outbox.
        restarts: Number of new positions, including the first.
        failures: Number of failures after which following was retried.
    """

    def __init__(self, settings: AgentSettings, feed: OutboxFeed) -> None:
        check_settings(settings)
        self._settings, self._feed = settings, feed
        self._rules = Rules.load(settings.config).require_watches()
        self._published = PublishedRules.decode(self._rules.published())
        self._place: StoredState | None = None
        self._source: Source | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._hinted = asyncio.Event()
        self._captures: CaptureMonitor | None = None
        self.coverage = Coverage()
        self.tried = asyncio.Event()
        self.refused: ConfigurationError | None = None
        self.reads = 0
        self.restarts = 0
        self.failures = 0

    def start(self) -> None:
        """See `EmbeddedWorker.start`."""
        self._tasks = [
            asyncio.create_task(self._follow_forever(), name="unstale-embedded"),
            asyncio.create_task(self._purge_forever(), name="unstale-embedded-purge"),
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
        """Read in a loop until an error is raised."""
        source = self._source = self._source or await self._open()
        captures = self._captures = CaptureMonitor(
            source, self._rules, logger=log, known=self.coverage, report=self._covered
        )
        policy = PollPolicy(
            poll_min=max(SHORTEST_PAUSE, self._settings.poll_min, source.least_pause),
            poll_max=max(SHORTEST_PAUSE, self._settings.poll_max, 10 * source.least_pause),
        )
        try:
            while True:
                hinted = self._hinted.is_set()
                self._hinted.clear()
                if self._place is not None and (patterns := await captures.check_if_due()):
                    self._feed.drop((), sorted(patterns))
                found = await self.cycle(source)
                self.tried.set()
                policy.note(found or hinted, now=self._feed.now())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(policy.pause):
                        await self._hinted.wait()
        finally:
            await source.close()

    async def _open(self) -> Source:
        """Open the source and check that the captures report what the rules need."""
        source = await open_source(self._settings, session=SESSION)
        try:
            versions = (await source.watch_versions()).values()
            check_watches(self._rules, versions)
            await source.watch_states()  # called later again and again: say now if it is missing
            types: ColumnTypes = {}
            for failure in await source.check_queries(self._rules, types):
                logger.error("a fan-out query fails; changes invalidate its patterns instead: %s", failure)
            self._published = PublishedRules.decode(typed(self._rules, versions, types).published())
        except BaseException:
            await source.close()
            raise
        return source

    async def cycle(self, source: Source) -> int:
        """Apply all new entries to the near cache; return their number."""
        began, place = self._feed.now(), self._place
        self.reads += 1
        if place is None:
            page = await source.read(None)
            # After the snapshot: values loaded before it may be older than it.
            self._feed.restart(self._published)
            self._place = StoredState(
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
                    "dropping all cached values; the outbox cannot be followed: %s", standing.value
                )
                self._place = None
                self._feed.lost()
                if self._captures is not None and standing is not Standing.PURGED:
                    await self._captures.restored()
                return found
            await self._apply(source, page)
            # Only now: after an error before this line, the page is read again.
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
        if self._captures is not None:
            self._captures.noticed(page)
        plan = await plan_page(page, self._rules, source)
        if plan.queries:
            for failure in await source.run_queries(self._rules, plan):
                logger.error("a fan-out query failed; its patterns were invalidated: %s", failure)
        self._feed.drop(plan.keys, sorted(plan.patterns))

    def _reached(self, page: Page, began: float) -> None:
        self._feed.reached(began, seen=page.seen, lsn=page.lsn, flushed=page.flushed, database=page.database)

    # --- the purge ------------------------------------------------------------------------------

    async def _purge_forever(self) -> None:
        """Purge in small steps on a separate session; the second of two instances finds nothing to delete."""
        set_here = self._settings.model_fields_set
        while True:
            await asyncio.sleep(PURGE_EVERY * random.uniform(0.7, 1.3))
            if self._source is None:
                continue
            source = self._source.sibling()
            try:
                # Values that are not set here stay as a worker or another instance has set them.
                deleted = 1
                while deleted:
                    deleted = await source.purge(
                        rows=PURGE_STEP,
                        retention=self._settings.retention if "retention" in set_here else None,
                        outbox_max_rows=(
                            self._settings.outbox_max_rows if "outbox_max_rows" in set_here else None
                        ),
                    )
                    await asyncio.sleep(0.05)
            except Exception as error:
                pass_on_cancellation()
                logger.debug("the purge failed and will be retried: %s", error)
            finally:
                await source.close()

    def _covered(self, coverage: Coverage) -> None:
        self.coverage = coverage

    def _note(self, error: Exception) -> None:
        self.failures += 1

    def __repr__(self) -> str:
        return f"<OutboxFollower position={self._place.position if self._place else None} reads={self.reads}>"
