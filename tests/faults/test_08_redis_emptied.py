"""8: Redis is emptied: ``FLUSHALL``, a restart without data, a restart from an older copy, eviction of
everything.

Guards: the position lives in Redis, next to the data it speaks of; without one, `Applier.recover` takes
a snapshot *first*, then drops what the rules own, then begins a new epoch; agents drop what they hold on
another epoch (`Freshness.adopt`) and on a log behind what they have seen.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest
from redis.asyncio import Redis

from faults.older import Older
from faults.stage import key_of, staged
from servers import Database, eventually
from unstale import Cache
from unstale.freshness.trust import Freshness
from unstale.protocol.names import Epoch, LogId
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.sources import Page
from unstale_worker.sources.outbox import OutboxSource
from workers import running_worker, seams, state_of


async def epoch_after(redis: Redis, before: str) -> str:
    """Wait for another epoch than ``before``."""

    async def other() -> str:
        epoch = (await state_of(redis)).get("epoch", "")
        return epoch if epoch != before else ""

    return await eventually(other, message="a new epoch")


@pytest.mark.parametrize("defended", [True, False])
async def test_flushall(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Changes are committed while Redis is empty; the undefended agents take no notice of the new epoch."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        for _ in range(2):
            await stage.open_agent()
        await stage.warm()
        before = (await state_of(redis))["epoch"]
        if not defended:

            def take_over(self: Freshness, epoch: Epoch | None, last: LogId) -> None:
                self.epoch, self.last = epoch, last

            monkeypatch.setattr(Freshness, "adopted", take_over)
        with seams.after(OutboxSource, "read", where=seams.snapshot_only, hold=True) as point:
            await redis.flushall()
            await stage.write(1)
            await point.wait()
            await stage.write(2)
        await epoch_after(redis, before)
        if defended:
            await stage.settled(redis)
            assert await stage.read(1, agent=1) == 2
            await stage.warm()
            await stage.settled(redis)
        else:
            with pytest.raises(AssertionError, match="stale in a near cache"):
                await stage.settled(redis)


async def test_killed_and_restarted_empty(database: Database, valkey: EmbeddedValkey) -> None:
    async with (
        staged(database.dsn, valkey.url) as (stage, redis),
        running_worker(database.worker_dsn, valkey.url),
    ):
        await stage.open_agent()
        await stage.warm()
        await valkey.kill()
        await stage.write(1)
        assert await stage.read(1) == 2  # Redis away: the loader answers
        await valkey.restart()
        await stage.write(2)
        await stage.settled(redis)
        await stage.warm()
        await stage.settled(redis)


async def test_restarted_from_an_older_append_only_file(database: Database, durable: EmbeddedValkey) -> None:
    """The run is another one after a restart, so the epoch is new; the position went back with the values."""
    async with (
        staged(database.dsn, durable.url) as (stage, redis),
        running_worker(database.worker_dsn, durable.url),
    ):
        await stage.open_agent()
        await stage.warm()
        before = (await state_of(redis))["epoch"]
        older = Older(durable)
        for user in (1, 2, 3):
            await stage.write(user)
        await stage.settled(redis)
        await stage.warm()
        await durable.kill()
        older.put_back()
        await stage.write(4)
        await durable.start()
        await epoch_after(redis, before)
        await stage.settled(redis)
        await stage.warm()
        await stage.settled(redis)


@pytest.mark.parametrize(
    "names", [["state"], ["log"], ["rules"], ["leader"], ["state", "log", "rules", "leader"]]
)
async def test_any_of_its_own_keys_may_be_evicted(
    database: Database, redis_url: str, names: Sequence[str]
) -> None:
    """Under ``allkeys-*`` Redis may evict state, log, rules and the leader's lease like any other key."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url),
    ):
        await stage.open_agent()
        await stage.warm()
        await redis.delete(*(f"{{unstale:0}}:{name}" for name in names))
        for user in (1, 2):
            await stage.write(user)
        await stage.settled(redis)
        assert await stage.read(1) == 2
        await stage.settled(redis)


@pytest.mark.parametrize("defended", [True, False])
async def test_the_snapshot_comes_before_the_drop(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """A value filled between drop and snapshot would be covered by a position that never invalidates it."""
    recover = Applier.recover
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()

        async def meanwhile() -> None:
            await redis.set(key_of(1), "1", ex=60)  # as a loader fills that read before the change
            await stage.write(1)

        async def drop_first(
            self: Applier,
            state: StoredState,
            *,
            rules: str,
            published: bytes,
            patterns: Iterable[str],
            snapshot: Callable[[], Awaitable[Page]],
            stale: bool = False,
        ) -> Seen:
            await self._drop(state, sorted(patterns), lsn="0/0", stale=stale)
            await meanwhile()
            return await recover(
                self, state, rules=rules, published=published, patterns=[], snapshot=snapshot
            )

        if not defended:
            monkeypatch.setattr(Applier, "recover", drop_first)
        await redis.hdel("{unstale:0}:state", "position")
        with seams.after(
            OutboxSource, "read", where=seams.snapshot_only, run=meanwhile if defended else None
        ):
            async with running_worker(database.worker_dsn, redis_url):
                if defended:
                    await stage.settled(redis)
                else:
                    with pytest.raises(AssertionError, match="stale in Redis"):
                        await stage.settled(redis)


async def test_without_a_position_readers_load_and_store_nothing(database: Database, redis_url: str) -> None:
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            cache: Cache = await stage.open_agent()
        await redis.flushall()
        assert await stage.read(1) == 1
        assert await redis.keys() == []
        assert cache.counters().fills == 0
