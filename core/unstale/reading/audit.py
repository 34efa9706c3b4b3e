"""Compares cached values with what their loaders say now, and tells a wrong one from a change in flight."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from unstale.errors import UnstaleError
from unstale.freshness.published_rules import Rulebook
from unstale.freshness.tracker import Follower
from unstale.near_cache.in_flight import Mark
from unstale.near_cache.local_state import NearTier
from unstale.near_cache.store import Entry
from unstale.protocol import codec
from unstale.reading.single_flight import Load, Loader, call
from unstale.runtime.cancellation import cancelled

LOADER_SECONDS: Final = 30.0
"""Seconds the loader of an audit may take; nobody waits for it, and one audit runs at a time."""
LOOK_EVERY: Final = 0.02
"""Seconds between two looks at how far the changes have been processed."""


class Auditor:
    """Audits values of the near cache that a rule owns, so that every change of them is announced here.

    A value counts as wrong only if its loader said something else, twice the same, and everything committed
    before it said so the first time was processed here without the key being invalidated: then no change is
    in flight that would explain it.

    Attributes:
        equal: Audits that found the value to be what the loader said.
        mismatches: Audits that found it wrong; it was then invalidated.
        unjudged: Audits without a result: a change came between, the loader failed or never says the same
            twice, or this process was not attached for long enough.
        drawn: Whether the read that just looked into the near cache is to be audited.
    """

    def __init__(
        self,
        near: NearTier,
        follower: Follower,
        rulebook: Rulebook,
        *,
        clock: Callable[[], float],
        share: float,
        patience: float,
        repair: Callable[[str], Awaitable[object]],
    ) -> None:
        self._near, self._follower, self._rulebook = near, follower, rulebook
        self._clock, self._share, self._patience, self._repair = clock, share, patience, repair
        self._task: asyncio.Task[bool | None] | None = None
        self.equal = self.mismatches = self.unjudged = 0
        self.drawn = False

    def sampling(self, peek: Callable[[str], Entry | None]) -> Callable[[str], Entry | None]:
        """``peek`` for a read's quick way: the share to be audited does not find what it looks for there."""
        if not self._share:
            return peek

        def sampled(key: str) -> Entry | None:
            self.drawn = random.random() < self._share
            return None if self.drawn else peek(key)

        return sampled

    def begin(self, key: str, loader: Loader, data: bytes) -> None:
        """Audit ``data``, which a read has just been given, in the background; if no other audit runs."""
        if self._task is None or self._task.done():
            mark = self._marked(key, data)
            if mark is not None:
                self._task = asyncio.create_task(self._run(mark, loader, data), name="unstale-audit")

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Audit what the near cache holds for ``key``: equal, wrong (False), or without a result."""
        entry = self._near.followed.read(key)
        mark = None if entry is None else self._marked(key, entry.data)
        return None if entry is None or mark is None else await self._run(mark, loader, entry.data)

    async def close(self) -> None:
        """End the audit that runs."""
        if self._task is not None:
            await cancelled(self._task)

    def _marked(self, key: str, data: bytes) -> Mark | None:
        """A mark from a moment at which the near cache holds ``data``: an earlier change cannot hide."""
        entry = self._near.followed.read(key)
        held = entry is not None and entry.data is data
        return self._near.marks.open(key) if held and self._rulebook.owns(key) else None

    async def _run(self, mark: Mark, loader: Loader, data: bytes) -> bool | None:
        try:
            verdict = await self._judge(mark, loader, data)
        except Exception:
            verdict = None  # the loader's, or the clock's; a read that fails says so itself
        finally:
            self._near.marks.close(mark)
        if verdict is None:
            self.unjudged += 1
        elif verdict:
            self.equal += 1
        else:
            self.mismatches += 1
            self._rulebook.warn_once(
                mark.key,
                "audit: the cached value of %r is not what its loader returns, and no change of it was "
                "announced: does the loader read a table that no rule names? It was invalidated",
                mark.key,
            )
            with contextlib.suppress(UnstaleError):
                await self._repair(mark.key)
        return verdict

    async def _judge(self, mark: Mark, loader: Loader, data: bytes) -> bool | None:
        said = await self._ask(mark.key, loader)
        if said == orjson.loads(data):
            return True
        asked = self._clock()
        if not (mark.clean and await self._processed(asked) and mark.clean):
            return None
        again = await self._ask(mark.key, loader)
        return False if mark.clean and again == said else None

    async def _ask(self, key: str, loader: Loader) -> object:
        async with asyncio.timeout(LOADER_SECONDS):
            value = await call(loader, Load(key, None, primary=True))
        return orjson.loads(codec.encode(key, value))

    async def _processed(self, moment: float) -> bool:
        """Wait until all that was committed before ``moment`` is processed here; False: it takes too long."""
        while self._clock() - self._follower.watermark_age < moment:
            if self._clock() - moment > self._patience:
                return False
            await asyncio.sleep(LOOK_EVERY)
        return True

    def __repr__(self) -> str:
        return f"<Auditor {self.equal} equal, {self.mismatches} wrong, {self.unjudged} unjudged>"
