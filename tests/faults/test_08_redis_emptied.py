"""8: Redis is emptied: ``FLUSHALL``, a restart without data, a restart from an older copy, eviction of
everything.

Guards: the position lives in Redis, next to the data it speaks of; without one, `Applier.recover` takes
a snapshot *first*, then drops what the rules own, then begins a new epoch; agents drop what they hold on
another epoch (`Freshness.adopt`) and on a log behind what they have seen.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import pytest
from redis.asyncio import Redis

from faults.older import Older
from faults.stage import key_of, staged
from servers import Database, eventually
from unstale import Cache
from unstale.freshness.trust import Freshness
from unstale.protocol.names import Epoch, LogId, Names
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


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("lost", ["delete", "overwrite", "another type"])
async def test_rules_that_redis_lost_are_published_again(
    database: Database, redis_url: str, lost: str, away: bool
) -> None:
    """An agent that starts afterwards knows the rules: while the worker runs, or after its next start."""
    async with staged(database.dsn, redis_url) as (stage, redis), AsyncExitStack() as workers:
        await workers.enter_async_context(running_worker(database.worker_dsn, redis_url))
        await stage.open_agent()
        await stage.warm()
        before = await redis.get("{unstale:0}:rules")
        if away:
            await workers.aclose()
        if lost == "overwrite":
            await redis.set("{unstale:0}:rules", b"{}")
        else:
            await redis.delete("{unstale:0}:rules")
        if lost == "another type":
            await redis.rpush("{unstale:0}:rules", b"x")
        if away:
            await workers.enter_async_context(running_worker(database.worker_dsn, redis_url))

        async def back() -> bool:
            return await redis.type("{unstale:0}:rules") == b"string" and (
                await redis.get("{unstale:0}:rules") == before
            )

        await eventually(back, message="the rules are published")
        new = await stage.open_agent()
        await eventually(lambda: new.inspect().rules.owns(key_of(1)), message="the new agent knows the rules")
        assert await stage.read(1, agent=1) == 1
        await stage.write(1)
        await stage.settled(redis)


REFRESHED = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]

[refresh."user:{user_id}:profile"]
loader = "sql"
query = "select version as value from public.profiles where id = {user_id}"
debounce = "%s"
serve_stale = "2s"
"""
OWN = (
    "state",
    "rules",
    "log",
    "leader",
    "refresh",
    "dead",
    "refreshed",
    "refresh-workers",
    "locks",
    "agents",
    "audit",
)
"""Every key of unstale's own without a key of the user's or a pattern in its name; all others have a TTL."""


def test_no_own_key_is_forgotten_here() -> None:
    names = Names()
    own = {getattr(names, name) for name in dir(Names) if isinstance(getattr(Names, name), property)}
    keys = {name for name in own if isinstance(name, str) and ":" in name} - {names.tag, names.channel}
    assert keys == {f"{names.tag}:{name}" for name in OWN} | {names.claim}  # test_44 looks at the claim


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("name", OWN)
async def test_each_of_its_own_keys_may_vanish_alone(
    database: Database, redis_url: str, name: str, away: bool
) -> None:
    """While all runs, and between two workers; afterwards new and old agents agree with the database."""
    async with staged(database.dsn, redis_url) as (stage, redis), AsyncExitStack() as workers:
        await stage.db.execute("grant select on profiles to unstale_worker")
        start = partial(running_worker, database.worker_dsn, redis_url, rules=REFRESHED % "50ms")
        await workers.enter_async_context(start())
        await stage.open_agent()
        await stage.warm()
        async with stage.agents[0].lock("some") as lock:
            before = lock.fence
        if away:
            await workers.aclose()
        await stage.write(1)
        await redis.delete(f"{{unstale:0}}:{name}")
        await stage.write(2)
        if away:
            await workers.enter_async_context(start())
        await stage.settled(redis)
        await stage.open_agent()

        async def agree() -> bool:  # the rule allows the old values for 2 s
            return [await stage.read(user, agent) for user in (1, 2) for agent in (0, 1)] == [2] * 4

        await eventually(agree, message="both agents read what the database holds")
        for agent in (0, 1):
            async with stage.agents[agent].lock("some") as lock:
                assert before is not None
                assert lock.fence is not None
                assert lock.fence > before
        await stage.write(1)
        await stage.settled(redis)
        kept = [f"{{unstale:0}}:{kept}" for kept in ("state", "rules", "log", "leader")]

        async def all_kept() -> bool:
            return bool(await redis.exists(*kept) == len(kept))

        await eventually(all_kept)


async def test_a_lost_refresh_set_costs_no_more_than_the_bound(database: Database, redis_url: str) -> None:
    """Nothing refreshes the key any more; its old value ends with `serve_stale`, and a reader loads it."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.dsn, redis_url, rules=REFRESHED % "1h"),
    ):
        await stage.open_agent()
        await stage.warm()
        await stage.write(1)
        await stage.applied(redis)
        await redis.delete("{unstale:0}:refresh")

        async def fresh() -> bool:
            return await stage.read(1) == 2

        await eventually(fresh, message="a reader loads the key")
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
            why: str = "",
            beside: bool = False,
        ) -> Seen:
            await self._drop(state, sorted(patterns), lsn="0/0", beside=beside)
            await meanwhile()
            return await recover(
                self, state, rules=rules, published=published, why=why, patterns=[], snapshot=snapshot
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
        assert [key for key in await redis.keys() if b":agents" not in key] == []  # reports for people
        assert cache.counters().fills == 0
