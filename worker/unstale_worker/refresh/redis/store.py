"""State of refreshes in Redis, over one connection of its own."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.settings import WorkerSettings
from unstale_worker.refresh.redis.budgets import Budgets
from unstale_worker.refresh.redis.leases import Leases
from unstale_worker.refresh.redis.presence import Presence
from unstale_worker.refresh.redis.refresh_set import RefreshSet
from unstale_worker.refresh.redis.reservations import Reservations
from unstale_worker.rules import Rules


@dataclass(frozen=True, slots=True)
class RefreshStore:
    """The refresh set and what belongs to it.

    Attributes:
        keys: The refresh set, for the leader.
        leases: Leases of keys, and what ends them.
        reservations: Ready keys of Python loaders, and the loaders' limits.
        budgets: Counted calls of Python loaders.
        presence: The refresh workers that are there.
    """

    keys: RefreshSet
    leases: Leases
    reservations: Reservations
    budgets: Budgets
    presence: Presence


@asynccontextmanager
async def open_store(settings: WorkerSettings, rules: Rules) -> AsyncIterator[RefreshStore]:
    """Open the store; it connects when it is first used, and again after a failure.

    Example:
        >>> async with open_store(settings, rules) as store:
        ...     claimed = await store.keys.claim()
    """
    timeout, names = settings.redis_timeout, settings.names
    connections = Connections(settings.redis_url.get_secret_value(), timeout=timeout, tag=names.tag)
    multiplexer = Multiplexer(connections, timeout=timeout, clock=time.monotonic)
    try:
        yield RefreshStore(
            RefreshSet(multiplexer, names),
            Leases(multiplexer, names, lease_ttl=settings.lease_ttl, rules=rules.hash),
            Reservations(multiplexer, names, rules, takeover=settings.refresh_takeover),
            Budgets(multiplexer, names),
            Presence(multiplexer, names),
        )
    finally:
        await multiplexer.close()
