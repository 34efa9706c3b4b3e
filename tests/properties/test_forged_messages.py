"""Forged, repeated and senseless messages cost misses: agents stay true, and converge afterwards."""

import asyncio
import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio.client import PubSub

from history import Checker, Final, Record, Recorder, State, Verdict, Writes
from history.recorder import seen_in
from servers import eventually, takes
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache, redis_client

KEYS = [f"user:{n}:profile" for n in range(4)]
HUGE = 2**53 - 1
NUMBERS = st.sampled_from([0, 1, 2, 3, 5, HUGE]) | st.integers(0, 30)
EPOCHS = st.sampled_from(["real", "older", "ffffffffffffffffffffffffffffffff", ""])
GLOBS = st.sampled_from(["*", "user:*", "user:1:*", "[", "a" * 300, "*" * 200 + "b", "\\"])


@st.composite
def invalidations(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "v": 1,
        "epoch": draw(EPOCHS),
        "id": draw(NUMBERS),
        "prev": draw(NUMBERS),
        "keys": draw(st.lists(st.sampled_from([*KEYS, "other", ""]), max_size=3)),
        "patterns": draw(st.lists(GLOBS, max_size=2)),
    }


@st.composite
def watermarks(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "v": 1,
        "epoch": draw(EPOCHS),
        "last": draw(NUMBERS),
        "seen": draw(st.sampled_from(["1:1:", "5:9:6,7", f"{2**60}:{2**60}:"])),
        "lsn": draw(st.sampled_from(["0/1", "FFFFFFFF/FFFFFFFF", "", "x"])),
        "rules": draw(st.sampled_from(["rules-1", "other", ""])),
        "age_ms": draw(st.sampled_from([0, 1e14, 0.5])),
    }


FORGED = st.one_of(
    invalidations(),
    watermarks(),
    st.builds(lambda last: {"v": 1, "epoch": "real", "last": last}, NUMBERS),
    st.binary(max_size=20),
    st.sampled_from([b"", b"null", b'{"v":1}', b'{"v":99,"keys":["x"]}']),
)
CHANGES = st.sampled_from(KEYS)
STEPS = st.lists(
    st.tuples(st.just("forge"), FORGED)
    | st.tuples(st.just("repeat"), st.integers(0, 20))
    | st.tuples(st.just("change"), CHANGES),
    min_size=12,
    max_size=30,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """PINGs often, so that staleness is measured finely enough to converge in no time."""
    monkeypatch.setattr("unstale.freshness.subscriber.PING_INTERVAL", 0.05)


class World:
    """Rows with versions, a played worker that announces them, and one agent that is recorded."""

    def __init__(self, worker: WorkerDouble, cache: Cache) -> None:
        self.worker, self.cache = worker, cache
        self.records: list[Record] = []
        self.recorder = Recorder(cache, self.records.append)
        self.states = {key: [State(1, True, 0.0, 0.0)] for key in KEYS}
        self.epochs = [worker.epoch]
        self.heard: list[bytes] = []

    async def change(self, key: str) -> None:
        """Commit a version and announce it: it counts as committed once it was announced."""
        version, before = self.states[key][-1].version + 1, time.monotonic()
        self.states[key].append(State(version, True, before, before))
        await self.worker.apply(key, f"trace:{key}:{version}")
        self.states[key][-1] = State(version, True, before, time.monotonic())

    async def forge(self, message: dict[str, Any] | bytes) -> None:
        """Publish what no worker said."""
        if isinstance(message, dict):
            names = {"real": self.worker.epoch, "older": self.epochs[0]}
            message = {**message, "epoch": names.get(message["epoch"], message["epoch"])}
        await self.worker.publish(message)

    async def repeat(self, back: int) -> None:
        """Publish again what was heard before: any message or watermark of the worker, or of a forger."""
        if self.heard:
            await self.worker.publish(self.heard[-1 - back % len(self.heard)])

    async def overhear(self, channel: PubSub) -> None:
        """Keep what is published, as a client that may subscribe can."""
        async for said in channel.listen():
            if said["type"] == "message":
                self.heard.append(said["data"])

    async def load(self, key: str) -> dict[str, Any]:
        """What the database holds."""
        version = self.states[key][-1].version
        await takes(0.0005)
        return {"versions": {key: version}}

    async def read(self, key: str) -> None:
        await self.recorder.read(
            key, lambda: self.cache.get_or_load(key, lambda: self.load(key)), rows=(key,)
        )

    async def settled(self) -> Verdict:
        """Attached again and true, and what the checker says of everything."""
        moment = time.monotonic()
        await eventually(
            lambda: time.monotonic() - self.cache.staleness > moment, message="the agent converges"
        )
        await self.recorder.sample()
        for key in KEYS:
            value = await self.cache.get_or_load(key, lambda key=key: self.load(key))
            self.records.append(Final(key, seen_in(value, (key,))))
        checker = Checker(Writes(self.states))
        checker.judge("agent", self.records)
        return checker.verdict


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, renew=st.booleans())
async def test_forged_messages_cost_misses_and_nothing_else(
    steps: list[tuple[str, Any]], renew: bool, valkey: EmbeddedValkey
) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.flushall()
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating(), attached_cache(valkey.url, max_silence=3.0, leader_ttl=0.5) as cache:
            world = World(worker, cache)
            listener = asyncio.create_task(world.recorder.listen())
            channel = redis.pubsub()
            await channel.subscribe(worker.names.channel)
            spy = asyncio.create_task(world.overhear(channel))
            await world.recorder.listening.wait()
            try:
                for number, (what, item) in enumerate(steps):
                    if what == "change":
                        await world.change(item)
                    elif what == "repeat":
                        await world.repeat(item)
                    else:
                        await world.forge(item)
                    if renew and number == len(steps) // 2:
                        await worker.new_epoch()
                    await asyncio.gather(*(world.read(key) for key in KEYS))
                verdict = await world.settled()
            finally:
                for task in (listener, spy):
                    task.cancel()
                await asyncio.wait([listener, spy])
                await channel.aclose()
    assert verdict.true, verdict.complaints
    assert verdict.reads == len(steps) * len(KEYS)
    assert verdict.finals == len(KEYS)


async def test_what_is_forged_under_another_version_ends_by_itself(valkey: EmbeddedValkey) -> None:
    async with redis_client(valkey.url) as redis:
        worker = WorkerDouble(redis)
        await worker.recover()
        async with worker.beating(), attached_cache(valkey.url, max_silence=3.0, leader_ttl=0.5) as cache:
            await worker.publish(orjson.dumps({"v": 2}))
            await eventually(lambda: not cache.attached)
            await eventually(lambda: cache.attached)
