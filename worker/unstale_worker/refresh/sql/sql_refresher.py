"""Refreshes the keys of ``row`` and ``sql`` loaders: leases for many keys, one query, one script of fills."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from unstale.errors import DatabaseUnavailable
from unstale.runtime import failpoints
from unstale_worker.observe.refresh_counters import Tally
from unstale_worker.refresh.redis.lease_keeper import kept
from unstale_worker.refresh.redis.refresh_set import RefreshQueue, Verdict, new_lease
from unstale_worker.refresh.retry_policy import Attempts
from unstale_worker.refresh.sql.sql_loading import load
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules.refresh import RefreshSpec

Lifetime = Callable[[str, RefreshSpec, bytes], float]
"""Seconds that a value of this key lives."""

DATABASE_PAUSE = 1.0
"""Seconds until keys are due again whose database did not answer: that is no failure of theirs."""


class Batches:
    """Loads in the worker itself, many keys at a time.

    Example:
        >>> await Batches(queue, sessions, attempts, lifetime, tally).refresh(spec, ["user:42:profile"])
    """

    def __init__(
        self, queue: RefreshQueue, sessions: Sessions, attempts: Attempts, lifetime: Lifetime, tally: Tally
    ) -> None:
        self._queue, self._sessions, self._attempts = queue, sessions, attempts
        self._lifetime, self._tally = lifetime, tally

    async def refresh(self, spec: RefreshSpec, keys: Sequence[str]) -> None:
        """Make claimed ``keys`` of one refresh new.

        The leases are taken before the database is read, so a value read before a change is never stored.
        Raises `RedisUnavailable`; the keys are then due again by themselves.
        """
        lease = new_lease()
        verdicts = await self._queue.take(keys, lease)
        ours = [key for key, verdict in zip(keys, verdicts, strict=True) if verdict is Verdict.TAKEN]
        if not ours:
            return
        try:
            if failpoints.on:
                await failpoints.reach("batches.after_take")
            async with kept(self._queue, ours, lease), self._sessions.session() as (connection, statements):
                loaded = await load(connection, statements, spec, ours)
        except DatabaseUnavailable:
            if failpoints.on:
                await failpoints.reach("batches.before_postpone")
            await self._queue.postpone(ours, seconds=DATABASE_PAUSE, lease=lease)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._queue.postpone(ours, seconds=0.0, lease=lease))
            raise
        values = [(key, value, self._lifetime(key, spec, value)) for key, value in loaded.values.items()]
        if failpoints.on:
            await failpoints.reach("batches.before_fill")
        stored = await self._queue.fill(values, lease, again=spec.debounce)
        if failpoints.on:
            await failpoints.reach("batches.after_fill")
        self._tally.filled += stored
        self._tally.overtaken += len(values) - stored
        told: Counter[str] = Counter()
        for key, error in loaded.failures.items():
            if failpoints.on:
                await failpoints.reach("batches.before_failed")
            failure = await self._attempts.failed(self._queue, spec, key, lease, error, alike=told[error])
            told[error] += 1
            self._tally.failed += failure is not None
            self._tally.dead += failure is not None and failure.dead
