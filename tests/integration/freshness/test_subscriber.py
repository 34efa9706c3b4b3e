"""Following the log: lost, repeated, reordered and foreign messages, lost connections, lost servers."""

import asyncio
import contextlib
import logging
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import orjson
import pytest

from servers import eventually
from unstale import Cache, Invalidated, Reset
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.subscriber_log import Silence
from unstale.freshness.subscriptions import Subscription
from unstale.freshness.trust import Trust
from unstale.protocol.names import LogId
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, open_cache

KEY = "user:42:profile"
OTHER = "user:7:profile"


@contextlib.asynccontextmanager
async def following(valkey: EmbeddedValkey, silent: WorkerDouble, **more: object) -> AsyncIterator[Cache]:
    """An attached cache that holds `KEY`, and a worker that is silent from now on."""
    async with open_cache(valkey.url, **more) as cache:

        async def attach() -> bool:
            await silent.watermark()
            return cache.attached

        await eventually(attach)
        await cache.get_or_load(KEY, Loader("old"))
        await marked(cache, silent)
        yield cache


async def marked(cache: Cache, silent: WorkerDouble) -> None:
    """Send watermarks until one was processed: everything sent before it was, too.

    One may be lost to the new connection that follows a new epoch.
    """
    silent.xid += 1

    async def processed() -> bool:
        await silent.watermark()
        mark = cache.inspect().freshness.watermark
        return mark is not None and mark.seen.includes(silent.xid - 1)

    await eventually(processed)


def held(cache: Cache, key: str = KEY) -> bool:
    return cache.inspect().local.near.peek(key) is not None


async def test_what_is_heard_is_dropped(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with following(valkey, silent) as cache:
        await cache.get_or_load(OTHER, Loader(1))
        await silent.apply(KEY)
        await eventually(lambda: not held(cache))
        assert held(cache, OTHER)
        assert cache.attached


async def test_a_lost_message_in_the_middle_is_replayed(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with following(valkey, silent) as cache:
        await cache.get_or_load(OTHER, Loader(1))
        replays = cache.counters().replays
        await silent.apply(KEY, lost=True)
        await silent.apply("user:1:profile")
        await eventually(lambda: not held(cache))
        assert held(cache, OTHER)
        assert cache.counters().replays == replays + 1
        assert cache.attached


async def test_the_last_message_lost_is_noticed_by_the_watermark(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        await silent.apply(KEY, lost=True)
        assert held(cache)
        await silent.watermark()
        await eventually(lambda: not held(cache))


async def test_repeated_and_reordered_messages_only_remove(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:

        def message(number: int, key: str) -> dict[str, object]:
            return {
                "v": 1,
                "epoch": silent.epoch,
                "id": number,
                "prev": number - 1,
                "keys": [key],
                "patterns": [],
            }

        first = await silent.apply("user:1:profile", lost=True)
        await silent.apply(KEY, lost=True)
        for number, key in ((first + 1, KEY), (first, "user:1:profile"), (first + 1, KEY), (first, OTHER)):
            await silent.publish(message(number, key))
        await marked(cache, silent)
        assert not held(cache)
        assert cache.attached
        assert cache.inspect().freshness.last == first + 1


async def test_a_log_that_does_not_reach_back_drops_everything(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        await cache.get_or_load(OTHER, Loader(1))
        await silent.apply(KEY, lost=True)
        await silent.redis.xtrim(silent.names.log, maxlen=0, approximate=False)
        async with cache.subscribe("*") as events:
            await silent.watermark()
            assert isinstance(await anext(events), Reset)
        assert not held(cache)
        assert not held(cache, OTHER)
        await marked(cache, silent)
        assert cache.attached


async def test_a_log_behind_what_was_seen_drops_everything(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        # A forged id from the future must not make the agent deaf to what follows.
        forged = {
            "v": 1,
            "epoch": silent.epoch,
            "id": 2**50,
            "prev": cache.inspect().freshness.last,
            "keys": [],
            "patterns": [],
        }
        await silent.publish(forged)
        await eventually(lambda: cache.inspect().freshness.last == LogId(2**50))
        assert held(cache)
        await silent.apply("user:1:profile")
        await eventually(lambda: not held(cache))
        await marked(cache, silent)
        assert cache.attached


async def test_a_new_epoch_drops_everything_and_every_load_in_flight(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        loader = Loader("old")
        loader.gate.clear()
        read = asyncio.create_task(cache.get_or_load(OTHER, loader))
        await loader.entered.wait()
        await silent.new_epoch()
        await marked(cache, silent)
        assert not held(cache)
        assert cache.attached
        loader.gate.set()
        await read
        assert cache.counters().fills == 2  # the lease stood, and yet: nobody knows what was missed
        assert not held(cache, OTHER)
        assert cache.inspect().freshness.epoch == silent.epoch


async def test_flushall_detaches_nobody_for_good(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with following(valkey, silent) as cache:
        await silent.redis.flushall()
        await silent.recover()
        await marked(cache, silent)
        assert not held(cache)
        assert cache.attached


async def test_an_unreadable_message_is_a_gap(
    valkey: EmbeddedValkey, silent: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(valkey, silent) as cache:
        await silent.apply(KEY, lost=True)
        with caplog.at_level(logging.WARNING, "unstale"):
            await silent.publish(b"{nonsense")
            await silent.publish(b"{more nonsense")
            await eventually(lambda: cache.counters().unreadable_messages == 2)
        assert not held(cache)
        assert caplog.text.count("unreadable") == 1
        assert cache.attached


async def test_an_unreadable_log_entry_drops_everything(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with following(valkey, silent) as cache:
        await silent.redis.hincrby(silent.names.state, "last", 1)
        last = int(await silent.redis.hget(silent.names.state, "last") or 0)
        await silent.redis.xadd(silent.names.log, {"m": "nonsense"}, id=f"{last}-0")
        await silent.watermark()
        await eventually(lambda: not held(cache))
        await marked(cache, silent)
        assert cache.attached


async def test_a_message_of_another_version_detaches(
    valkey: EmbeddedValkey, silent: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(valkey, silent) as cache:
        with caplog.at_level(logging.WARNING, "unstale"):
            await silent.publish({"v": 2, "drop": "everything"})
            await silent.publish({"v": 2, "drop": "everything"})
            await eventually(lambda: not cache.attached)
            await silent.watermark()
            await silent.apply("user:1:profile")
            await eventually(lambda: cache.inspect().freshness.last > 0)
        assert not held(cache)
        assert not cache.attached
        assert caplog.text.count("upgrade this agent") == 1


async def test_a_killed_connection_detaches_and_what_was_missed_is_replayed(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        await cache.get_or_load(OTHER, Loader(1))
        await silent.cut_off()
        await silent.apply(KEY)
        await eventually(lambda: not cache.attached)
        assert cache.staleness == float("inf")
        await eventually(lambda: not held(cache))
        assert held(cache, OTHER)
        assert not cache.attached  # no watermark came yet
        async with silent.beating():
            await eventually(lambda: cache.attached)
        assert await cache.get_or_load(OTHER, Loader("unused")) == 1


async def test_several_pings_fit_into_a_short_silence(
    valkey: EmbeddedValkey, double: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the claim made of one PING runs out before the next, and agents detach while all is well."""
    monkeypatch.setattr("unstale.freshness.subscriber.PING_INTERVAL", 60.0)
    async with open_cache(valkey.url, max_silence=8.0) as cache:
        await eventually(
            lambda: cache.inspect().freshness._ping_number >= 2, message="the second PING, after 2 s"
        )
        assert cache.counters().replays == 1  # on the first connection


async def test_a_watermark_of_what_cannot_be_reached_does_not_count(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        await silent.cut_off()
        await eventually(lambda: not cache.attached)
        await eventually(lambda: cache.inspect().freshness._ponged > 0)
        # As from a server that was ahead of the one that is asked now.
        await silent.publish(
            {
                "v": 1,
                "epoch": silent.epoch,
                "last": 999,
                "seen": "900:900:",
                "lsn": "0/1",
                "rules": "rules-1",
                "age_ms": 0,
            }
        )
        last = await silent.apply("user:1:profile")
        await eventually(lambda: cache.inspect().freshness.last == last)
        assert not cache.attached
        await silent.watermark()
        await eventually(lambda: cache.attached)


async def test_a_restarted_empty_redis_is_followed_again(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    async with following(valkey, silent) as cache:
        await valkey.kill()
        await eventually(lambda: not cache.attached)
        assert await cache.get_or_load(KEY, Loader("loaded")) == "loaded"
        await valkey.start()
        await silent.redis.connection_pool.disconnect()
        await silent.recover()
        async with silent.beating():
            await eventually(lambda: cache.attached)
        assert not held(cache)
        assert await cache.get_or_load(KEY, Loader("again")) == "again"
        assert orjson.loads(await silent.redis.get(KEY) or b"") == "again"


async def test_a_silent_worker_detaches_though_redis_answers(
    valkey: EmbeddedValkey, silent: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "unstale"):
        async with following(valkey, silent, max_silence=2.1) as cache:
            assert 0 <= cache.staleness < math.inf
            await eventually(lambda: not cache.attached)
            # A new connection is tried; while its log is being looked at, Redis is not believed.
            await eventually(
                lambda: (
                    cache.counters().replays > 1 and cache.inspect().freshness.trust is Trust.BRIEFLY_DETACHED
                )
            )
            assert await cache.get_or_load(KEY, Loader("unused")) == "old"  # from Redis
            assert cache.counters().redis_hits == 1
            await eventually(lambda: "Is the worker running" in caplog.text)


async def test_new_rules_are_read_when_a_watermark_names_them(
    valkey: EmbeddedValkey, silent: WorkerDouble
) -> None:
    from unstale.protocol.messages import PublishedRules

    async with following(valkey, silent) as cache:
        silent.rules = PublishedRules("rules-2", ("org:*",), ())
        await silent.recover()
        await marked(cache, silent)
        assert cache.inspect().rules.owns("org:1")
        assert not cache.inspect().rules.owns(KEY)


AGENT = """
import asyncio, sys
from unstale import Cache

async def main(url):
    async with Cache.from_env(env_file=None, redis_url=url) as cache:
        while not cache.attached:
            await asyncio.sleep(0.01)
        await cache.get_or_load("user:42:profile", lambda: 1)
        loop = asyncio.get_running_loop()
        print("attached", flush=True)
        sys.stdin.readline()
        # The very first thing after waking up: nothing of what lies in the socket was read yet.
        print(cache.attached, cache.staleness, flush=True)
        async def again():
            while not cache.attached:
                await asyncio.sleep(0.01)
        await again()
        print(cache.attached, cache.staleness, flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_paused_process_does_not_trust_itself_when_it_wakes(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, valkey.url,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"UNSTALE_MAX_SILENCE": "2.1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"attached\n"
        process.send_signal(signal.SIGSTOP)
        await double.redis.set("clock", "1", px=2_500)  # longer than max_silence, told by the server

        async def over() -> bool:
            return not await double.redis.exists("clock")

        await eventually(over)
        process.send_signal(signal.SIGCONT)
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"False inf\n"
        trusted, staleness = (await process.stdout.readline()).split()
        assert trusted == b"True"
        assert float(staleness) < 2.1
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_events_come_after_the_own_copy_is_gone(valkey: EmbeddedValkey, silent: WorkerDouble) -> None:
    async with following(valkey, silent) as cache, cache.subscribe("user:42:*") as events:
        assert isinstance(events, Subscription)
        await silent.apply(KEY, OTHER, patterns=["org:*", "user:*:x"])
        event = await anext(events)
        assert isinstance(event, Invalidated)
        assert (event.keys, event.patterns) == ((KEY,), ("user:*:x",))
        assert 0 <= event.staleness < math.inf
        assert not held(cache)


async def test_it_ends_though_a_failing_child_swallows_the_cancellation(
    valkey: EmbeddedValkey, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TaskGroup before Python 3.13 forgets that it was cancelled when a child fails meanwhile."""

    async def failing(self: Subscriber, connection: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise Silence

    monkeypatch.setattr(Subscriber, "_ping", failing)
    cache = await Cache.from_env(env_file=None, redis_url=valkey.url).start()
    async with asyncio.timeout(10):
        await cache.close()
