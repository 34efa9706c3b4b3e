"""The leader's rules: published for agents, and put in force in place of others."""

import asyncio
import re
import time
from collections.abc import Sequence

import structlog

from unstale.errors import MessageError, Unavailable
from unstale.protocol.globs import glob_regex
from unstale.protocol.messages import PublishedRules
from unstale.protocol.reasons import Kind
from unstale.protocol.tags import is_record, shown
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.agents.read import read_agents
from unstale_worker.leader.former_rules import LOOK_EVERY, FormerRules
from unstale_worker.leader.rules_transition import ALL_KNOW_AFTER, RulesTransition
from unstale_worker.redis.adoption import Adoption
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.client import open_redis
from unstale_worker.redis.script_batches import always
from unstale_worker.redis.state import Adopting, StoredState
from unstale_worker.rules import Rules, difference
from unstale_worker.sources import Page, WatchState

log = structlog.get_logger("unstale.pipeline")


class RulesInForce:
    """The rules that one leader publishes, and its work after it has put them in force.

    Attributes:
        published: The rules as agents read them, with those that they follow.
        transition: What is to be invalidated once more.
        former: The watches that the rules lack by now, and that are still applied.
    """

    def __init__(self, applier: Applier, rules: Rules, settings: WorkerSettings) -> None:
        self._applier, self._rules, self._settings = applier, rules, settings
        self.former = FormerRules(rules, keep=settings.former_rules)
        self._look_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._adoption = Adoption(applier, settings.names)
        self.published = PublishedRules.decode(rules.published())
        self.transition = RulesTransition()
        self._lives = ""
        self._shortening: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<RulesInForce {self._rules.hash[:8]}>"

    @property
    def rules(self) -> Rules:
        """The rules that changes are planned by: those of the file, and former watches beside them."""
        return self.former.rules

    def encoded(self) -> bytes:
        """Return the rules as agents read them."""
        return self.published.encode()

    async def follow(self) -> tuple[PublishedRules | None, bool]:
        """Read the published rules, and let these follow them.

        Returns:
            The published rules, None if they are gone or unreadable; and whether they are what these publish.
        """
        before = await self._applier.published()
        published = None
        try:
            published = None if before is None else PublishedRules.decode(before)
        except MessageError:
            log.warning("cannot read the published rules; keys of older rules may stay until their TTL")
        now = PublishedRules.decode(self.former.follow(published, now=self._server_seconds()).published())
        self.published = now if published is None else now.after(published, now=time.time())
        return published, before == self.encoded()

    def lead(self, state: StoredState) -> None:
        """Note that changes are applied by these rules from now on, from ``state``."""
        now = time.monotonic()
        self.transition.lost(self.published.former, now=time.time(), at=now)
        self._lives = state.lives
        self.transition.shortened(state.shortening, at=now)

    async def adopt(self, state: StoredState, page: Page, captures: Sequence[WatchState]) -> bool:
        """Put these rules in force, and drop the keys of each pattern that changed.

        Watches that these rules lack are applied on, if ``captures`` report what they need. Returns False if
        it cannot be told what changed.

        Args:
            state: The state, with other rules, or with rules that were being put in force.
            page: A page that was read from the state's position just now.
            captures: The state of all captures.
        """
        await self.follow()
        self.former.captured(captures)
        published, _ = await self.follow()
        before = Adopting.read(state)
        if published is None or before is None or published.hash != before.before:
            return False
        now, changed = self.published, difference(published, self.published)
        patterns = {*changed.dropped, *before.patterns}
        kept = len(set(now.patterns) - patterns)
        log.info(
            "other rules; dropping the keys of the patterns that changed", dropped=len(patterns), kept=kept
        )
        self.former.said(published)
        for pattern in sorted(patterns):
            log.info(
                "a pattern changed",
                pattern=shown(pattern),
                why=changed.dropped.get(pattern, "not dropped yet"),
            )
        await self._adoption.adopt(
            state,
            page,
            now,
            Adopting(published.hash, tuple(sorted(patterns))),
            lives=changed.lives,
            beside=published.keeps_older or now.keeps_older,
        )
        return True

    async def shorten_if_due(self, state: StoredState, page: Page) -> None:
        """Begin to shorten what was stored with other TTLs; agents drop their near copies of it.

        It is done beside the cycles: with many keys it takes longer than agents wait for a watermark. What
        is still to be done is in the state, so that a leader that comes after a crash does it again.
        """
        if globs := self.transition.lives_due(time.monotonic()):
            await self._applier.apply(
                state, page, keys=(), patterns=(), near=globs, store=False, reason=always(Kind.RULES)
            )
            self._shortening.append(asyncio.create_task(self._shorten(globs), name="unstale-shorten"))

    def look_if_due(self) -> None:
        """Look at the reports of the agents, beside the cycles, for those that still use former watches."""
        if not self.former.kept or time.monotonic() < self._look_at:
            return
        if self._looking is None or self._looking.done():
            self._look_at = time.monotonic() + LOOK_EVERY
            self._looking = asyncio.create_task(self._look(), name="unstale-former")

    async def _look(self) -> None:
        found = None
        redis = open_redis(self._settings, connections=1)
        try:
            found = await read_agents(redis, self._settings.names)
        except Unavailable:
            pass  # an agent that is not seen may be there
        finally:
            await redis.aclose()
        self.former.looked(found, now=self._server_seconds())

    def _server_seconds(self) -> float:
        """Return the Unix time of Redis, by which agents' reports are dated; ours until Redis has told it."""
        return float(self._applier.server_time() or time.time() * 1000) / 1000

    async def close(self) -> None:
        """End what runs beside the cycles."""
        for task in [*self._shortening, *([] if self._looking is None else [self._looking])]:
            await cancelled(task)

    async def _shorten(self, globs: Sequence[str]) -> None:
        owned = re.compile(b"|".join(b"(?:%b)" % glob_regex(p).pattern for p in self.published.patterns))

        def life(key: str) -> float | None:
            """Return how long a value may live; None if no rule owns the key, or for the record of a tag."""
            if is_record(key) or not owned.match(key.encode("utf-8", "surrogateescape")):
                return None
            spec, ttl = self._rules.refresh_of(key), self.published.ttl_of(key)
            own = self._settings.default_ttl if ttl is None else ttl
            return max(own, (spec.ttl or 0.0) if spec is not None else 0.0)

        try:
            leads = await self._adoption.shorten(globs, life)
            others = [task for task in self._shortening if task is not asyncio.current_task()]
            if leads and self.transition.all_shortened and all(task.done() for task in others):
                await self._applier.shortened(self._lives)
        except Unavailable as error:
            log.warning("shortening stored values failed; it is tried again", error=str(error))
            self.transition.shortened(globs, at=time.monotonic() + ALL_KNOW_AFTER)
