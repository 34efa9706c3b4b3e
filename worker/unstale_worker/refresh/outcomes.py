"""Results of refreshes: store what was loaded, or count a failure and say when the next attempt is."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

import structlog

from unstale.runtime.spans import Spans
from unstale.sealing.sealer import Sealer, sealer_of
from unstale.settings import WorkerSettings
from unstale_worker.observe.refresh_counters import RefreshCounters
from unstale_worker.refresh.redis.budgets import OverBudgetError
from unstale_worker.refresh.redis.leases import Failure, Leases, Value
from unstale_worker.refresh.ttl import Ttls
from unstale_worker.refresh.used import Used
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.runtime.log_throttle import LogThrottle

LONGEST: Final = 60.0
"""Seconds between two attempts at most, unless the first pause is longer."""

OVER_BUDGET_LOG_EVERY: Final = 600.0
"""Seconds after which the log repeats that a budget is used up."""

log = structlog.get_logger("unstale.refresh")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Ends the refreshes of one process, and counts them; every method raises `RedisUnavailable`.

    Attributes:
        leases: Leases that the refreshes hold.
        ttls: How long a value lives.
        tally: What is counted.
        attempts: Failures in a row after which a key is a dead letter.
        first_pause: Seconds before the second attempt; doubles with each one.
        spans: Makes a span of each load; None without `UNSTALE_OTEL`.
        max_value_bytes: Most bytes of a value that is stored.
        warned: Refreshes whose values were too large, so that the log says it once.
        throttle: Keeps the log from repeating that a budget is used up.
        sealer: Compresses and encrypts values; None if they are plain.
    """

    leases: Leases
    ttls: Ttls
    tally: RefreshCounters
    attempts: int
    first_pause: float
    spans: Spans | None = None
    max_value_bytes: int = sys.maxsize
    warned: set[str] = field(default_factory=set)
    sealer: Sealer | None = None
    throttle: LogThrottle = field(default_factory=lambda: LogThrottle(every=OVER_BUDGET_LOG_EVERY))

    @classmethod
    def of(cls, settings: WorkerSettings, rules: Rules, leases: Leases, tally: RefreshCounters) -> "Outcomes":
        """Return what these settings and rules say."""
        ttls = Ttls.of(rules, settings)
        spans = Spans() if settings.otel else None
        return cls(
            leases, ttls, tally, settings.refresh_attempts, settings.refresh_backoff, spans,
            settings.max_value_bytes, sealer=sealer_of(settings),
        )  # fmt: skip

    def span(self, spec: RefreshSpec, keys: Sequence[str]) -> AbstractContextManager[object]:
        """Return a span for one load of these keys; nothing without `UNSTALE_OTEL`."""
        if self.spans is None:
            return nullcontext()
        given = {"unstale.refresh": spec.template.text, "unstale.key": keys[0], "unstale.keys": len(keys)}
        return self.spans.span("unstale.refresh", given)

    async def fill(
        self,
        spec: RefreshSpec,
        values: Mapping[str, bytes],
        lease: bytes,
        *,
        fingerprint: str | None = None,
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """Store values by key where ``lease`` still stands; other keys are due again after the debounce.

        ``fingerprint`` is that of the inputs of all of them, and ``tokens`` is what each has cost.
        """
        most = self.max_value_bytes
        timed, locked = [], []
        for key, value in values.items():
            if len(value) <= most:
                stored_as, seconds = self.ttls.stored(key, spec, value)
                content = stored_as if self.sealer is None else await self.sealer.sealed(key, stored_as)
                if content is None:
                    locked.append(key)
                else:
                    spare = self.ttls.spare(key)
                    noted = seconds + spare + spec.serve_stale
                    timed.append(Value(key, content, seconds, spare, fingerprint or "", noted, tokens))
        stored = await self.leases.fill(timed, lease, again=spec.debounce)
        self.tally.filled += stored
        self.tally.overtaken += len(timed) - stored
        for key in locked:
            await self.failed(spec, key, lease, "there is no key to encrypt its value with")
        for key, value in values.items() if len(timed) + len(locked) < len(values) else ():
            if len(value) > most:
                await self._too_large(spec, key, lease, len(value))

    async def store_again(self, spec: RefreshSpec, key: str, lease: bytes, fingerprint: str) -> bool:
        """Store the kept value again, as its inputs are unchanged; returns False if that cannot be."""
        _, seconds = self.ttls.stored(key, spec, b"{}")
        stored = await self.leases.store_again(
            key, lease,
            fingerprint=fingerprint, seconds=seconds,
            serve_stale=spec.serve_stale, spare=self.ttls.spare(key), pattern=spec.template.text,
        )  # fmt: skip
        if stored is None:
            return False
        pattern = spec.template.text
        _add(self.tally.unchanged, (pattern,), 1)
        _add(self.tally.tokens, (pattern, "in", "saved"), stored[0])
        _add(self.tally.tokens, (pattern, "out", "saved"), stored[1])
        return True

    async def count(self, spec: RefreshSpec, used: Used) -> None:
        """Count calls of a loader, and the tokens that they used."""
        pattern = spec.template.text
        if used.calls:
            _add(self.tally.calls, (pattern,), used.calls)
            _add(self.tally.tokens, (pattern, "in", "spent"), used.tokens_in)
            _add(self.tally.tokens, (pattern, "out", "spent"), used.tokens_out)
            await self.leases.note(
                pattern, calls=used.calls, tokens_in=used.tokens_in, tokens_out=used.tokens_out
            )

    async def over_budget(self, spec: RefreshSpec, key: str, lease: bytes, error: OverBudgetError) -> None:
        """End a refresh whose loader must not be called: it waits, or the key is left to its next reader."""
        pattern = spec.template.text
        _add(self.tally.over_budget, (pattern,), 1)
        if self.throttle.allows(f"{pattern} {error.budget}"):
            log.warning(
                "a budget is used up, so a loader is not called", refresh=pattern, budget=str(error.budget),
                over_budget=spec.over_budget, next_window_in=round(error.seconds),
            )  # fmt: skip
        await self.leases.note(pattern, over_budget=1)
        if spec.over_budget == "serve_stale":
            await self.leases.postpone([key], seconds=error.seconds, lease=lease)
        else:
            await self.leases.leave(key, lease)

    async def _too_large(self, spec: RefreshSpec, key: str, lease: bytes, size: int) -> None:
        """Make a key a dead letter at once: another attempt would call its loader for nothing."""
        pattern = spec.template.text
        error = f"the value has {size} bytes, and UNSTALE_MAX_VALUE_BYTES allows {self.max_value_bytes}"
        await self.failed(spec, key, lease, error, silent=pattern in self.warned, final=True)
        self.warned.add(pattern)

    async def failed(
        self,
        spec: RefreshSpec,
        key: str,
        lease: bytes,
        error: str,
        *,
        silent: bool = False,
        final: bool = False,
    ) -> None:
        """Count a failure and log it; ``silent`` if the log has the same error already.

        After a ``final`` one there is no other attempt.
        """
        pattern = spec.template.text
        failure = await self.leases.failed(
            key, lease,
            pattern=pattern, error=error, attempts=1 if final else self.attempts,
            first=self.first_pause, most=max(LONGEST, self.first_pause),
        )  # fmt: skip
        if failure is None:
            return
        self.tally.failed += 1
        self.tally.dead += failure.dead
        if not silent:
            _log(failure, key, pattern, error)


def _add(counts: dict[tuple[str, ...], float], labels: tuple[str, ...], number: int) -> None:
    counts[labels] = counts.get(labels, 0.0) + number


def _log(failure: Failure, key: str, pattern: str, error: str) -> None:
    if failure.dead:
        log.error(
            "a refresh failed for good; its key stays invalidated (see: unstale dead-letters)",
            key=key, refresh=pattern, error=error, attempts=failure.attempts,
        )  # fmt: skip
    else:
        log.warning(
            "a refresh failed and will be retried",
            key=key, refresh=pattern, error=error, attempts=failure.attempts, seconds=failure.pause,
        )  # fmt: skip
