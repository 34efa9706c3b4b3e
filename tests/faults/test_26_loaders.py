"""26: a loader that raises, is cancelled, never returns, or whose process is killed.

Guards: the lease is given up when a load ends badly (`Reader._load_and_fill`), lives no longer than its
process plus ``lease_ttl`` (SET … PX), is prolonged while the loader runs, and nobody waits for another's
longer than its life.
"""

import asyncio
import subprocess
import sys
import textwrap

import pytest

from faults.played import background, stored
from servers import eventually
from unstale import Cache, LoadCancelled
from unstale.redis_tier.tier import RedisTier
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

KEY = "user:42:profile"


class Broken(Exception):
    """What the loader raises."""


@pytest.mark.parametrize("defended", [True, False])
async def test_what_it_raises_reaches_everybody_and_frees_the_key(
    silent: WorkerDouble, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    calls = 0
    entered, gate = asyncio.Event(), asyncio.Event()

    async def breaks() -> None:
        nonlocal calls
        calls += 1
        entered.set()
        await gate.wait()
        raise Broken

    if not defended:

        async def keep(self: RedisTier, key: str, found: bytes) -> bool:
            return False

        monkeypatch.setattr(RedisTier, "release", keep)
    async with silent.beating(), attached_cache(valkey.url, lease_ttl=60) as cache:
        reads = [asyncio.create_task(cache.get_or_load(KEY, breaks)) for _ in range(20)]
        await entered.wait()
        gate.set()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert all(isinstance(result, Broken) for result in results)
        assert calls == 1
        assert (await stored(silent, KEY) is None) is defended
        if not defended:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await cache.get_or_load(KEY, Loader("whole"))
            return
        assert await cache.get_or_load(KEY, Loader("whole")) == "whole"
        assert await stored(silent, KEY) == b'"whole"'


async def test_the_last_reader_that_gives_up_ends_the_load(follower: Cache, silent: WorkerDouble) -> None:
    ended = asyncio.Event()
    entered = asyncio.Event()

    async def never() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    first, second = (asyncio.create_task(follower.get_or_load(KEY, never)) for _ in range(2))
    await entered.wait()
    first.cancel()
    await asyncio.wait([first])
    assert not ended.is_set()
    second.cancel()
    await asyncio.wait([second])
    async with asyncio.timeout(30):
        await ended.wait()

    async def free() -> bool:
        return await stored(silent, KEY) is None

    await eventually(free, message="the lease is given up")
    assert await follower.get_or_load(KEY, Loader("next")) == "next"


async def test_a_loader_cancelled_from_inside_is_an_error_not_a_cancellation(follower: Cache) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(LoadCancelled):
        await follower.get_or_load(KEY, cancelled)
    assert await follower.get_or_load(KEY, Loader("next")) == "next"


async def test_nobody_waits_for_a_loader_that_never_returns(
    silent: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    """Its lease is prolonged for ever; others wait for one lease's life, then load and store nothing."""
    stuck = Loader("never")
    stuck.gate.clear()
    async with (
        silent.beating(),
        attached_cache(valkey.url, lease_ttl=0.5) as first,
        attached_cache(valkey.url, lease_ttl=0.5) as second,
        background(first.get_or_load(KEY, stuck)) as read,
    ):
        await stuck.entered.wait()
        for number in range(3):
            async with asyncio.timeout(30):
                assert await second.get_or_load(KEY, Loader(number)) == number
        found = await stored(silent, KEY)
        assert found is not None
        assert found.startswith(b"\x00unstale:lease:")  # it stands after more than two of its lives
        stuck.gate.set()
        assert await read == "never"
        assert await stored(silent, KEY) == b'"never"'


async def test_an_invalidation_frees_those_who_wait_for_a_stuck_loader(
    silent: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    stuck = Loader("old")
    stuck.gate.clear()
    async with (
        silent.beating(),
        attached_cache(valkey.url, lease_ttl=60) as first,
        attached_cache(valkey.url, lease_ttl=60) as second,
        background(first.get_or_load(KEY, stuck)) as read,
    ):
        await stuck.entered.wait()
        async with background(second.get_or_load(KEY, Loader("new"))) as waiting:
            await silent.apply(KEY)
            async with asyncio.timeout(30):
                assert await waiting == "new"
        stuck.gate.set()
        assert await read == "old"
        assert await stored(silent, KEY) == b'"new"'


async def test_a_process_killed_in_the_middle_of_a_load_leaves_a_lease_that_runs_out(
    silent: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    child = textwrap.dedent(
        f"""
        import asyncio, os, signal, sys
        from unstale import Cache

        async def dies():
            os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            async with Cache.from_env(env_file=None, redis_url={valkey.url!r}, lease_ttl=0.5) as cache:
                while not cache.attached:
                    await asyncio.sleep(0.01)
                await cache.get_or_load({KEY!r}, dies)

        asyncio.run(main())
        """
    )
    async with silent.beating(), attached_cache(valkey.url, lease_ttl=0.5) as cache:
        ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", child], check=False)
        assert ended.returncode == -9
        async with asyncio.timeout(30):
            assert await cache.get_or_load(KEY, Loader("value")) == "value"
        assert await stored(silent, KEY) in (b'"value"', None)
