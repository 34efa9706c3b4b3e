"""Audit: compare cached values with their loaders, and tell wrong values from changes in flight."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from unstale.errors import UnstaleError
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.near_cache.in_flight import InFlightRead
from unstale.near_cache.local_state import LocalState
from unstale.protocol import codec
from unstale.reading.loader import Load, Loader, call
from unstale.runtime.cancellation import cancelled

LOADER_SECONDS: Final = 30.0
"""Time limit in seconds for the loader of an audit; no caller waits for it, and one audit runs at a time."""
LOOK_EVERY: Final = 0.02
"""Seconds between two checks of how far changes have been processed."""


class Auditor:
    """Audits near-cache values that a rule owns; every change of such a value is announced to this process.

    A value counts as wrong only if its loader returned another value twice, the same one, and everything
    committed before the first load's end was processed here without an invalidation of the key. Then no
    change in flight can explain the difference.

    Attributes:
        share: Share of reads that `sample` audits.
        equal: Audits in which the loader returned the cached value.
        mismatches: Audits that found a wrong value, which was then invalidated.
        unjudged: Audits without a result: the key was invalidated meanwhile, the loader failed or did not
            return the same value twice, or this process was not attached for long enough.
    """

    def __init__(
        self,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        *,
        clock: Callable[[], float],
        share: float,
        patience: float,
        repair: Callable[[str], Awaitable[object]],
    ) -> None:
        self._local, self._freshness, self._rules = local, freshness, rules
        self._clock, self._patience, self._repair = clock, patience, repair
        self._task: asyncio.Task[bool | None] | None = None
        self.share = share
        self.equal = self.mismatches = self.unjudged = 0

    def sample(self, key: str, loader: Loader, data: bytes) -> None:
        """Audit ``data``, which a read has just returned, in the background; only a share of calls does so.

        No audit starts while another one runs.
        """
        if random.random() >= self.share or (self._task is not None and not self._task.done()):
            return
        read = self._opened(key, data)
        if read is not None:
            self._task = asyncio.create_task(self._run(read, loader, data), name="unstale-audit")

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Audit the near-cache value of ``key``; return True if equal, False if wrong, None if unknown."""
        entry = self._local.near.read(key)
        read = None if entry is None else self._opened(key, entry.data)
        return None if entry is None or read is None else await self._run(read, loader, entry.data)

    async def close(self) -> None:
        """Cancel the running audit."""
        if self._task is not None:
            await cancelled(self._task)

    def _opened(self, key: str, data: bytes) -> InFlightRead | None:
        """Open a read if the near cache holds ``data``, so that every later invalidation is noticed."""
        entry = self._local.near.peek(key)
        held = entry is not None and entry.data is data and self._freshness.attached
        return self._local.in_flight.open(key) if held and self._rules.owns(key) else None

    async def _run(self, read: InFlightRead, loader: Loader, data: bytes) -> bool | None:
        try:
            verdict = await self._judge(read, loader, data)
        except Exception:
            verdict = None  # the loader failed or took too long; reads report that themselves
        finally:
            self._local.in_flight.close(read)
        if verdict is None:
            self.unjudged += 1
        elif verdict:
            self.equal += 1
        else:
            self._rules.warn_once(
                read.key,
                "audit: the cached value of %r is not what its loader returns, and no change of it was "
                "announced. It was invalidated. Does the loader read a table that no rule names?",
                read.key,
            )
            with contextlib.suppress(UnstaleError):
                await self._repair(read.key)
            self.mismatches += 1
        return verdict

    async def _judge(self, read: InFlightRead, loader: Loader, data: bytes) -> bool | None:
        loaded = await self._ask(read.key, loader)
        if loaded == orjson.loads(data):
            return True
        asked = self._clock()
        if not (read.valid and await self._processed(asked) and read.valid):
            return None
        again = await self._ask(read.key, loader)
        return False if read.valid and again == loaded else None

    async def _ask(self, key: str, loader: Loader) -> object:
        async with asyncio.timeout(LOADER_SECONDS):
            value = await call(loader, Load(key, None, primary=True))
        return orjson.loads(codec.encode(key, value))

    async def _processed(self, moment: float) -> bool:
        """Wait until everything committed before ``moment`` is processed; return False on timeout."""
        while self._clock() - self._freshness.watermark_age < moment:
            if self._clock() - moment > self._patience:
                return False
            await asyncio.sleep(LOOK_EVERY)
        return True

    def __repr__(self) -> str:
        return f"<Auditor {self.equal} equal, {self.mismatches} wrong, {self.unjudged} unjudged>"
