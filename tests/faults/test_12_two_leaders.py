"""12: two workers lead, one of them without knowing that it does no longer.

Guards: `refusal` in ``_common.lua`` (fence, run, epoch, position before every write) and the lease in
Redis. The old leader is held within a batch, between two scripts, and goes on after another one has led.
"""

import asyncio
import hashlib
import signal
from collections.abc import Iterator

import pytest

from faults.promotions import caught_up, cut_off
from faults.stage import Stage, key_of, staged
from servers import Database, eventually
from servers.proxy import Proxy
from unstale.redis_tier.scripts import Script
from unstale.runtime import failpoints
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.observe.status import Role
from unstale_worker.redis import applier
from workers import LONG_LEASE, running_worker, state_of, worker_process

FENCE = "if (known[1] or '') ~= header.fence then return 'fence' end"
RUN = "if known[2] ~= live_run() then return 'run' end"
POSITION = "if (known[4] or '') ~= header.position then return 'position' end"


@pytest.fixture
def altered() -> Iterator[None]:
    """Puts `applier.APPLY` back."""
    script = applier.APPLY
    text, sha = script.text, script.sha
    yield
    script.text, script.sha = text, sha


def without(*checks: str) -> None:
    """Let the applier's script run without these checks."""
    script: Script = applier.APPLY
    for check in checks:
        assert check in script.text
        script.text = script.text.replace(check, "")
    script.sha = hashlib.sha1(script.text.encode(), usedforsecurity=False).hexdigest()


async def test_the_old_leader_goes_on_between_two_scripts(database: Database, redis_url: str) -> None:
    """It lost the lease, another one led and applied; its last script changes nothing."""
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url, script_keys=2, leader_ttl=0.5) as old,
    ):
        await stage.open_agent()
        await stage.warm()
        with (
            failpoints.armed("applier.before_last_script", hold=True) as batch,
            failpoints.armed("leadership.before_renew", hold=True) as renewal,
        ):
            await stage.db.execute("update profiles set version = version + 1 where id <= 5")
            await batch.wait()
            fence = old.status().fence
            with worker_process(database.worker_dsn, redis_url, UNSTALE_LEADER_TTL="0.5") as new:
                await stage.settled(redis)
                assert int((await state_of(redis))["fence"]) > fence
                for user in (1, 6):
                    await stage.write(user)
                await stage.settled(redis)
                await stage.warm()
                before = await state_of(redis)
                batch.release()
                renewal.release()
                await eventually(lambda: old.status().role is Role.STANDBY)
                assert new.poll() is None
                after = await state_of(redis)
                assert (after["fence"], after["last"]) == (before["fence"], before["last"])
                await stage.settled(redis)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_batch_does_not_end_on_another_server_than_it_began(
    database: Database,
    pair: tuple[EmbeddedValkey, EmbeddedValkey],
    altered: None,
    defended: bool,
) -> None:
    """A failover between two scripts takes the first one's effects back; the last one must be refused."""
    if not defended:
        without(RUN)
    primary, replica = pair
    async with Proxy(primary.port) as proxy:
        url = proxy.url(primary.url)
        async with (
            staged(database.dsn, url) as (stage, redis),
            running_worker(database.worker_dsn, url, script_keys=2, **LONG_LEASE),
        ):
            await stage.open_agent()
            await stage.warm()
            await caught_up(redis, replica)
            async with cut_off(replica) as client:
                with failpoints.armed("applier.before_last_script", hold=True) as batch:
                    await stage.db.execute("update profiles set version = 7 where id <= 5")
                    await batch.wait()
                    await primary.kill()
                    await client.execute_command("REPLICAOF", "NO", "ONE")
                    proxy.target = replica.port
                    proxy.cut()
                    assert await client.get(key_of(1)) == b"1"  # the failover brought it back
            if defended:
                await stage.settled(redis)
            else:
                with pytest.raises(AssertionError, match="stale in Redis"):
                    await stage.settled(redis)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_position_is_only_moved_from_where_it_was_read(
    database: Database, redis_url: str, altered: None, defended: bool
) -> None:
    """Somebody else (an operator, an older copy) changed the position meanwhile: the batch starts again."""
    if not defended:
        without(POSITION)
    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url, script_keys=2, **LONG_LEASE),
    ):
        await stage.open_agent()
        await stage.warm()
        older = (await state_of(redis))["position"]
        await stage.db.execute("update profiles set version = 7 where id = 9")
        await stage.applied(redis)
        with failpoints.armed("applier.before_last_script", hold=True) as batch:
            await stage.db.execute("update profiles set version = 7 where id <= 5")
            await batch.wait()
            # As a copy of Redis from before the first change would bring both back.
            await redis.hset("{unstale:0}:state", "position", older)
            await redis.set(key_of(9), "1", ex=60)
        if defended:
            await stage.settled(redis)
        else:
            with pytest.raises(AssertionError, match="stale in Redis"):
                await stage.settled(redis)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_a_standby_takes_over_before_agents_detach(
    database: Database, redis_url: str, how: signal.Signals
) -> None:
    """SIGTERM hands over at once, SIGKILL and SIGSTOP cost the lease's life, 2 s by default.

    ``bench/takeover.py`` measures it against the default ``max_silence``; here there is three times as long.
    """
    async with staged(database.dsn, redis_url) as (stage, redis):
        with worker_process(database.worker_dsn, redis_url) as leader:
            await stage.open_agent(max_silence=15.0)
            await stage.warm()
            detached: list[float] = []
            async with running_worker(database.worker_dsn, redis_url, leading=False) as standby:
                watching = asyncio.create_task(notice_detached(stage, detached))
                leader.send_signal(how)
                await stage.write(1)
                await eventually(lambda: standby.status().role is Role.LEADING)
                await stage.settled(redis)
                if how is signal.SIGSTOP:
                    leader.send_signal(signal.SIGCONT)
                    await stage.write(2)
                    await stage.settled(redis)
                    assert standby.status().role is Role.LEADING
                watching.cancel()
                await asyncio.wait([watching])
            assert detached == []


async def notice_detached(stage: Stage, detached: list[float]) -> None:
    """Write down each moment at which an agent is not attached."""
    while True:
        if not all(cache.attached for cache in stage.agents):
            detached.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.005)
