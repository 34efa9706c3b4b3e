"""Refreshes keys of ``row`` and ``sql`` loaders: leases for many keys, one query, one script of fills."""

import asyncio
from collections.abc import Sequence
from typing import Final

from unstale.errors import DatabaseUnavailable
from unstale.runtime import failpoints
from unstale_worker.refresh.outcomes import Outcomes
from unstale_worker.refresh.redis.lease_keeper import extended
from unstale_worker.refresh.redis.leases import Acquired, new_lease
from unstale_worker.refresh.sql.sql_loading import Loaded, load
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules.refresh import RefreshSpec

DATABASE_PAUSE: Final = 1.0
"""Seconds until keys are due again whose database did not answer: that does not count as a failure."""

SUSPECTS_MOST: Final = 10_000
"""Keys that may be loaded alone, as one of them may have ended a session."""


class SqlRefresher:
    """Loads in the worker itself, many keys at a time.

    Example:
        >>> await SqlRefresher(outcomes, sessions).refresh(spec, ["user:42:profile"])
    """

    def __init__(self, outcomes: Outcomes, sessions: Sessions, suspects: set[str] | None = None) -> None:
        """``suspects`` are keys of loads that Postgres ended the session of. Each is loaded alone."""
        self._outcomes, self._leases, self._sessions = outcomes, outcomes.leases, sessions
        self._suspects = set() if suspects is None else suspects

    async def refresh(self, spec: RefreshSpec, keys: Sequence[str]) -> None:
        """Load and store claimed ``keys`` of one refresh, together but for suspects.

        The leases are acquired before the database is read, so a value read before a change is never stored.
        Raises `RedisUnavailable`; the keys are then due again by themselves.
        """
        for suspect in [key for key in keys if key in self._suspects]:
            await self._refresh(spec, [suspect])
        if others := [key for key in keys if key not in self._suspects]:
            await self._refresh(spec, others)

    async def _refresh(self, spec: RefreshSpec, keys: Sequence[str]) -> None:
        lease = new_lease()
        results = await self._leases.acquire(keys, lease)
        ours = [key for key, result in zip(keys, results, strict=True) if result is Acquired.YES]
        if not ours:
            return
        with self._outcomes.span(spec, ours):
            loaded = await self._load(spec, ours, lease)
        if failpoints.on:
            await failpoints.reach("sql_refresher.before_fill")
        await self._outcomes.fill(spec, loaded.values, lease)
        if failpoints.on:
            await failpoints.reach("sql_refresher.after_fill")
        if untried := [key for key in ours if key not in loaded.values and key not in loaded.failures]:
            await self._leases.postpone(untried, seconds=0.0, lease=lease)
        logged: set[str] = set()
        for key, error in loaded.failures.items():
            if failpoints.on:
                await failpoints.reach("sql_refresher.before_failed")
            await self._outcomes.failed(spec, key, lease, error, silent=error in logged)
            logged.add(error)

    async def _load(self, spec: RefreshSpec, keys: Sequence[str], lease: bytes) -> Loaded:
        began = False
        try:
            if failpoints.on:
                await failpoints.reach("sql_refresher.after_acquire")
            async with (
                extended(lambda: self._leases.extend(keys, lease), every=self._leases.extend_every),
                self._sessions.session() as (connection, statements),
            ):
                began = True
                loaded = await load(connection, statements, spec, keys)
                self._suspects.difference_update(keys)
                return loaded
        except DatabaseUnavailable as error:
            if began and len(keys) == 1 and keys[0] in self._suspects:
                return Loaded({}, {keys[0]: f"for this key: {error}"})
            if began and len(self._suspects) < SUSPECTS_MOST:  # or the server was stopped: it will tell
                self._suspects.update(keys)
            if failpoints.on:
                await failpoints.reach("sql_refresher.before_postpone")
            await self._leases.postpone(keys, seconds=DATABASE_PAUSE, lease=lease)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._leases.postpone(keys, seconds=0.0, lease=lease))
            raise
