"""Open what a replay needs, and run it."""

import time

from unstale.redis_tier.cluster_tier import by_keys
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.tier import RedisTier
from unstale.settings import WorkerSettings
from unstale_worker.redis.explained import explained
from unstale_worker.replay.replay import Replayed, replay
from unstale_worker.rules import Rules
from unstale_worker.sources.opening import open_source


async def run_replay(
    settings: WorkerSettings, *, since: float, table: str | None, dry_run: bool = False
) -> Replayed:
    """Announce again what was committed in the last ``since`` seconds; see `replay`."""
    rules = Rules.load(settings.config).require_watches()
    tier = RedisTier(
        Connections(
            settings.redis_url.get_secret_value(), timeout=settings.redis_timeout, tag=settings.names.tag
        ),
        settings.names,
        timeout=settings.redis_timeout,
        log_max_bytes=settings.log_max_bytes,
        clock=time.monotonic,
    )
    source = await open_source(settings, session="replay")
    try:
        async with explained(settings):
            return await replay(source, by_keys(tier), rules, since=since, table=table, dry_run=dry_run)
    finally:
        await source.close()
        await tier.close()
