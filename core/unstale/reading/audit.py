"""Audit: compare cached values with their loaders, and tell a wrong value from a change in flight."""

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
"""Seconds the loader of an audit may take; no caller waits for it, and one audit runs at a time."""
LOOK_EVERY: Final = 0.02
"""Seconds between two looks at how far the changes have been processed."""


class Auditor:
    """Audits values of the near cache that a rule owns: every change of those is announced to this process.

    A value counts as wrong only if its loader returned something else, twice the same, and everything
    committed before the first time was processed here without the key being invalidated. Then no change in
    flight explains the difference.

    Attributes:
        share: Share of the reads that `sample` audits.
        equal: Audits that found the value to be what the loader returned.
        mismatches: Audits that found it wrong; it was then invalidated.
        unjudged: Audits without a result: a change came between, the loader failed or does not return the
            same value twice, or this process was not attached for long enough.
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
        """Audit ``data``, which a read has just returned, in the background, for the share of reads.

        No audit begins while another one runs.
        """
        if random.random() >= self.share or (self._task is not None and not self._task.done()):
            return
        read = self._opened(key, data)
        if read is not None:
            self._task = asyncio.create_task(self._run(read, loader, data), name="unstale-audit")

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Audit what the near cache holds for ``key``; return True if equal, False if wrong, else None."""
        entry = self._local.near.read(key)
        read = None if entry is None else self._opened(key, entry.data)
        return None if entry is None or read is None else await self._run(read, loader, entry.data)

    async def close(self) -> None:
        """Cancel the audit that runs."""
        if self._task is not None:
            await cancelled(self._task)

    def _opened(self, key: str, data: bytes) -> InFlightRead | None:
        """Open a read while the near cache holds ``data``, so that no earlier change can be missed."""
        entry = self._local.near.peek(key)
        held = entry is not None and entry.data is data and self._freshness.attached
        return self._local.in_flight.open(key) if held and self._rules.owns(key) else None

    async def _run(self, read: InFlightRead, loader: Loader, data: bytes) -> bool | None:
        try:
            verdict = await self._judge(read, loader, data)
        except Exception:
            verdict = None  # the loader failed or took too long; a read reports that itself
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
                "announced: does the loader read a table that no rule names? It was invalidated",
                read.key,
            )
            with contextlib.suppress(UnstaleError):
                await self._repair(read.key)
            self.mismatches += 1
        return verdict

    async def _judge(self, read: InFlightRead, loader: Loader, data: bytes) -> bool | None:
        said = await self._ask(read.key, loader)
        if said == orjson.loads(data):
            return True
        asked = self._clock()
        if not (read.valid and await self._processed(asked) and read.valid):
            return None
        again = await self._ask(read.key, loader)
        return False if read.valid and again == said else None

    async def _ask(self, key: str, loader: Loader) -> object:
        async with asyncio.timeout(LOADER_SECONDS):
            value = await call(loader, Load(key, None, primary=True))
        return orjson.loads(codec.encode(key, value))

    async def _processed(self, moment: float) -> bool:
        """Wait until everything committed before ``moment`` is processed; False if that takes too long."""
        while self._clock() - self._freshness.watermark_age < moment:
            if self._clock() - moment > self._patience:
                return False
            await asyncio.sleep(LOOK_EVERY)
        return True

    def __repr__(self) -> str:
        return f"<Auditor {self.equal} equal, {self.mismatches} wrong, {self.unjudged} unjudged>"
