"""The multiplexer and the typed steps on it, against a real Valkey."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from servers import eventually
from servers.proxy import Proxy
from unstale.errors import CacheClosed, RedisUnavailable, SettingError
from unstale.protocol.lease import ReplicaLimits
from unstale.protocol.names import LogId, Names
from unstale.redis_tier import log_reader
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.log_reader import LogReader
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.shared_tier import Put
from unstale.redis_tier.tier import RedisTier
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import DATABASE, WorkerDouble, redis_client

KEY = "user:42:profile"


@pytest.fixture
async def multiplexer(valkey: EmbeddedValkey) -> AsyncIterator[Multiplexer]:
    multiplexer = Multiplexer(Connections(valkey.url, timeout=1.0), timeout=1.0, clock=clock.now)
    yield multiplexer
    await multiplexer.close()


@pytest.fixture
async def tier(valkey: EmbeddedValkey) -> AsyncIterator[RedisTier]:
    connections = Connections(valkey.url, timeout=1.0)
    tier = RedisTier(connections, Names(), timeout=1.0, log_max_bytes=1 << 20, clock=clock.now)
    yield tier
    await tier.close()


@pytest.fixture
async def log(valkey: EmbeddedValkey) -> AsyncIterator[LogReader]:
    log = LogReader(Connections(valkey.url, timeout=1.0), Names(), timeout=1.0, clock=clock.now)
    yield log
    await log.close()


async def test_reads_of_the_same_moment_are_one_command(
    multiplexer: Multiplexer, valkey: EmbeddedValkey
) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.mset({f"k{number}": str(number) for number in range(50)})
        await multiplexer.get("warm")
        before = (await redis.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"]
        values = await asyncio.gather(*(multiplexer.get(f"k{number}") for number in range(60)))
        after = (await redis.info("commandstats"))["cmdstat_mget"]["calls"]
        await redis.flushall()
    assert values == [str(number).encode() for number in range(50)] + [None] * 10
    assert after - before == 1


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (("SCRIPT LOAD", "return 1"), b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"),
        (("CONFIG GET", "port"), None),
        (("CLIENT ID",), None),
        (("ECHO", "two words"), b"two words"),
        (("ECHO", "é\r\n"), "é\r\n".encode()),
        (("ECHO", 42), b"42"),
        (("ECHO", 0.5), b"0.5"),
        ((b"ECHO", b"\x00\xff"), b"\x00\xff"),
    ],
)
async def test_commands_are_written_as_for_redis_py(
    multiplexer: Multiplexer, command: tuple[str | bytes | int | float, ...], reply: bytes | None
) -> None:
    """A name may be two words, and an argument text, bytes or a number."""
    answer = await multiplexer.execute_command(*command)
    assert answer if reply is None else answer == reply


async def test_a_lone_read_waits_for_nobody(multiplexer: Multiplexer) -> None:
    await multiplexer.get("a")
    batches = multiplexer.batches
    await multiplexer.get("a")
    assert multiplexer.batches == batches + 1


async def test_very_many_reads_are_split_and_all_answered(multiplexer: Multiplexer) -> None:
    assert await asyncio.gather(*(multiplexer.get(f"k{number}") for number in range(2_000))) == [None] * 2_000


async def test_the_same_key_is_asked_for_once(multiplexer: Multiplexer, valkey: EmbeddedValkey) -> None:
    async with redis_client(valkey.url) as redis:
        await redis.set("k", "v", ex=60)
        assert await asyncio.gather(*(multiplexer.get("k") for _ in range(100))) == [b"v"] * 100
        stats = await redis.info("commandstats")
    assert stats["cmdstat_get"]["calls"] == 1
    assert "cmdstat_mget" not in stats


async def test_a_cancelled_caller_disturbs_nobody(multiplexer: Multiplexer) -> None:
    await multiplexer.execute_command("SET", "k", "v", "EX", 60)
    reads = [multiplexer.get("k") for _ in range(3)]
    await asyncio.sleep(0)
    reads[1].cancel()
    assert list(await asyncio.gather(reads[0], reads[2])) == [b"v", b"v"]
    assert await multiplexer.execute_command("PING") in (b"PONG", "PONG")


async def test_a_refused_command_is_its_own_callers_error_only(
    multiplexer: Multiplexer, tier: RedisTier
) -> None:
    await multiplexer.execute_command("SET", "k", "v", "EX", 60)
    answers: list[object] = await asyncio.gather(
        tier._command("LPUSH", "k", "x"), tier.read("k"), return_exceptions=True
    )
    refused, value = answers
    assert isinstance(refused, RedisUnavailable)
    assert "WRONGTYPE" in str(refused)
    assert value == b"v"


async def test_a_server_that_comes_back_is_used_again(
    multiplexer: Multiplexer, valkey: EmbeddedValkey
) -> None:
    await multiplexer.get("k")
    await valkey.kill()
    with pytest.raises(RedisUnavailable, match="does not answer"):
        await multiplexer.get("k")
    with pytest.raises(RedisUnavailable):  # at once: nobody waits for a server known to be away
        await multiplexer.get("k")
    await valkey.start()

    async def answers() -> bool:
        try:
            await multiplexer.get("k")
        except RedisUnavailable:
            return False
        return True

    await eventually(answers)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://{password}@127.0.0.1:1", "Redis at 127.0.0.1:1 does not answer (ConnectionRefusedError)"),
        ("redis://{password}@no.such.host.invalid:1", "does not answer (unknown host)"),
        (
            "redis://:wrong@127.0.0.1:{port}",
            "Redis at 127.0.0.1:{port} refused the user or password of REDIS_URL; correct it",
        ),
        ("redis://:{password}@127.0.0.1:{port}/99", "Redis at 127.0.0.1:{port}: the database number of"),
        ("redis://:{password}@127.0.0.1:{front}", "does not answer (timeout)"),
    ],
)
async def test_the_error_says_why(valkey: EmbeddedValkey, url: str, reason: str) -> None:
    async with Proxy(valkey.port) as proxy:
        proxy.half_open()
        url = url.format(password=valkey.password, port=valkey.port, front=proxy.port)
        multiplexer = Multiplexer(Connections(url, timeout=0.5), timeout=0.5, clock=time.monotonic)
        try:
            with pytest.raises(RedisUnavailable) as caught:
                await multiplexer.get("k")
            assert reason.format(port=valkey.port) in str(caught.value)
        finally:
            await multiplexer.close()
    assert valkey.password not in str(caught.value)


async def test_a_connection_closed_while_idle_is_replaced_without_an_error(
    multiplexer: Multiplexer, valkey: EmbeddedValkey
) -> None:
    await multiplexer.get("k")
    async with redis_client(valkey.url) as redis:
        assert await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == 1
    assert await multiplexer.get("k") is None


async def test_a_server_that_hangs_is_given_up(valkey: EmbeddedValkey) -> None:
    multiplexer = Multiplexer(Connections(valkey.url, timeout=1.0), timeout=0.1, clock=clock.now)
    await multiplexer.get("k")
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisUnavailable):
            await multiplexer.get("k")
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
        await multiplexer.close()


async def test_after_close_nothing_is_sent(multiplexer: Multiplexer) -> None:
    read = multiplexer.get("k")
    await asyncio.sleep(0)
    await multiplexer.close()
    with pytest.raises(CacheClosed):
        await read
    with pytest.raises(CacheClosed):
        await multiplexer.get("k")


async def test_a_fill_needs_its_lease(tier: RedisTier, silent: WorkerDouble) -> None:
    claim = await tier.acquire(KEY, soft=False, seconds=60)
    assert claim.lease is not None
    second = await tier.acquire(KEY, soft=False, seconds=60)
    assert (second.lease, second.found) == (None, claim.lease)
    assert not await tier.fill(KEY, b"\x00unstale:lease:wrong", b"1", seconds=60)
    assert await tier.extend(KEY, claim.lease, seconds=120)
    assert await silent.redis.pttl(KEY) > 60_000
    assert await tier.fill(KEY, claim.lease, b"1", seconds=60)
    assert not await tier.fill(KEY, claim.lease, b"2", seconds=60)
    assert not await tier.extend(KEY, claim.lease, seconds=60)
    assert not await tier.release(KEY, claim.lease)
    assert await tier.read(KEY) == b"1"


async def test_only_soft_leases_are_taken_over(tier: RedisTier, silent: WorkerDouble) -> None:
    soft = await tier.acquire(KEY, soft=True, seconds=60)
    taken = await tier.take_over(KEY, seconds=60)
    assert taken.lease not in (None, soft.lease)
    assert taken.limits == ReplicaLimits(taken.limits.need_lsn, primary=False, database=DATABASE)
    assert taken.limits.need_lsn is not None
    again = await tier.take_over(KEY, seconds=60)
    assert (again.lease, again.found) == (None, taken.lease)


@pytest.mark.parametrize(
    ("known", "limits"),
    [
        ((b"e", b"0/1", None, b"7:1"), ReplicaLimits("0/1", False, "7:1")),
        ((b"e", None, None, None), ReplicaLimits(None, False, None)),
        ((None, b"0/1", None, None), ReplicaLimits("0/1", True, None)),
        ((b"e", b"0/1", b"5", None), ReplicaLimits("0/1", True, None)),
        ((b"e", b"junk", None, None), ReplicaLimits(None, True, None)),
    ],
)
def test_a_replica_may_be_read_only_by_an_epoch_and_a_position(
    known: tuple[bytes | None, ...], limits: ReplicaLimits
) -> None:
    assert ReplicaLimits.decode(known) == limits


async def test_a_replay_is_complete_or_says_that_it_is_not(
    log: LogReader, silent: WorkerDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await silent.apply(f"k{number}", patterns=["p:*"])
    replay = await log.replay(LogId(1))
    assert (replay.epoch, replay.last, replay.complete) == (silent.epoch, 3, True)
    assert [entry.keys for entry in replay.entries] == [("k1",), ("k2",)]
    assert replay.entries[0].patterns == ("p:*",)
    await silent.redis.xdel(silent.names.log, "2-0")
    assert not (await log.replay(LogId(1))).complete
    assert (await log.replay(LogId(2))).complete
    assert (await log.replay(LogId(9))).complete  # a log that is behind is noticed by its last id
    monkeypatch.setattr(log_reader, "MOST_ENTRIES", 1)
    assert (await log.replay(LogId(2))).complete
    too_many = await log.replay(LogId(1))
    assert (too_many.complete, too_many.entries) == (False, ())
    for name in (silent.names.log, silent.names.state):
        await silent.redis.delete(name)
        if name == silent.names.state:
            assert (await log.replay(LogId(1))).epoch is None
        await silent.redis.set(name, "of another type", ex=60)
        assert (await log.replay(LogId(3))).epoch is None
        await silent.redis.delete(name)


async def test_a_put_is_logged(tier: RedisTier, log: LogReader, silent: WorkerDouble) -> None:
    assert await tier.put("session:1", b"1", seconds=60, rules=silent.rules.hash) is Put.TOLD
    assert [entry.keys for entry in (await log.replay(LogId(0))).entries] == [("session:1",)]


async def test_a_put_under_other_rules_stores_nothing(
    tier: RedisTier, log: LogReader, silent: WorkerDouble
) -> None:
    """They may own the key by now: nothing would say how old such a value is."""
    assert await tier.put("session:1", b"1", seconds=60, rules="older") is Put.REFUSED
    assert await silent.redis.get("session:1") is None
    assert (await log.replay(LogId(0))).last == 0


async def test_a_put_without_an_epoch_or_rules_is_stored_and_not_logged(
    tier: RedisTier, silent: WorkerDouble
) -> None:
    """Agents are detached then, or about to flush: there is nobody to tell."""
    await silent.redis.hdel(silent.names.state, "rules")
    assert await tier.put("session:1", b"1", seconds=60, rules="any") is Put.TOLD
    logged = await silent.redis.xlen(silent.names.log)
    run = await silent.redis.hget(silent.names.state, "run") or b""
    for of_run, epoch in (("0" * 40, True), (run, False)):
        await silent.redis.hset(silent.names.state, "run", of_run)
        if not epoch:
            await silent.redis.hdel(silent.names.state, "epoch")
        assert await tier.put("session:2", b"2", seconds=60, rules="any") is Put.UNTOLD
        await silent.redis.set(KEY, "1", ex=60)
        assert await tier.invalidate([KEY]) == 1
    assert await tier.read("session:2") == b"2"
    assert await silent.redis.xlen(silent.names.log) == logged


async def test_a_delete_does_not_lower_what_replicas_must_have_replayed(
    tier: RedisTier, silent: WorkerDouble
) -> None:
    for lsn in ("F/F", "F/10", "F/F"):
        await tier.invalidate([KEY], lsn=lsn)
    assert await silent.redis.hget(silent.names.state, "need_lsn") == b"F/10"


async def test_a_key_of_another_type_is_left_alone(tier: RedisTier, silent: WorkerDouble) -> None:
    """Redis does not roll a script back, so each checks what it is about to write."""
    redis, names = silent.redis, silent.names
    await redis.lpush(KEY, "x")
    assert not await tier.fill(KEY, b"x", b"1", seconds=60)
    assert not await tier.extend(KEY, b"x", seconds=60)
    assert not await tier.release(KEY, b"x")
    for taken in (await tier.take_over(KEY, seconds=60), await tier.replace(KEY, seconds=60)):
        assert (taken.lease, taken.found) == (None, None)
    assert await redis.lrange(KEY, 0, -1) == [b"x"]
    await redis.delete(KEY)

    await redis.set(names.refresh, "x", ex=60)
    lease = (await tier.acquire(KEY, soft=False, seconds=60)).lease
    assert lease is not None
    assert await tier.fill(KEY, lease, b"1", seconds=60, refreshed=True)
    await redis.delete(names.refresh)

    await redis.set(names.claim, "x", ex=60)
    assert await tier.put("session:1", b"1", seconds=60, rules=silent.rules.hash) is Put.FOREIGN
    await redis.delete(names.claim)

    for name in (names.log, names.state):
        await redis.delete(names.log, name)
        await redis.set(name, "x", ex=60)
        with pytest.raises(RedisUnavailable, match="state or log key holds another type"):
            await tier.put("session:1", b"1", seconds=60, rules=silent.rules.hash)
        with pytest.raises(RedisUnavailable, match="state or log key holds another type"):
            await tier.invalidate([KEY])
        assert await tier.read("session:1") is None
        assert await tier.read(KEY) == b"1"

    lease = (await tier.take_over("user:43:profile", seconds=60)).lease
    assert lease is not None
    assert not await tier.fill("user:43:profile", lease, b"1", seconds=60)
    await redis.delete(names.state)
    assert not await tier.fill("user:43:profile", lease, b"1", seconds=60)  # there is no epoch


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379", ""])
def test_a_url_that_is_none_is_a_setting_error(url: str) -> None:
    with pytest.raises(SettingError, match="REDIS_URL"):
        Connections(url, timeout=1.0)


def test_no_option_of_the_url_brings_silent_retries_back() -> None:
    connections = Connections(
        "redis://:secret@localhost:1/0?socket_timeout=5&retry_on_timeout=yes", timeout=1.0
    )
    connection = connections.new()
    assert connection.socket_timeout is None
    assert connection.retry.get_retries() == 0
    assert "secret" not in repr(connections)


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("redis://localhost", Connection, "localhost:6379"),
        ("rediss://:secret@example.com:6380/1", SSLConnection, "example.com:6380"),
        ("unix:///run/redis.sock?db=2", UnixDomainSocketConnection, "/run/redis.sock"),
    ],
)
def test_every_kind_of_url_makes_its_connection(url: str, kind: type, place: str) -> None:
    connections = Connections(url, timeout=1.0)
    assert type(connections.new()) is kind
    assert connections.place == place


async def test_nobody_waits_for_a_dead_server(valkey: EmbeddedValkey) -> None:
    """Connections are taken and never answered; only the command that finds out waits, for the time limit."""
    now = [100.0]
    async with Proxy(valkey.port) as proxy:
        connections = Connections(proxy.url(valkey.url), timeout=1.0)
        multiplexer = Multiplexer(connections, timeout=0.2, clock=lambda: now[0])
        try:
            await multiplexer.execute_command("SET", "key", "value", "PX", 60_000)
            proxy.half_open()
            with pytest.raises(RedisUnavailable):
                await multiplexer.get("key")
            for _ in range(5):
                now[0] += 10.0  # time for another attempt
                with pytest.raises(RedisUnavailable):
                    multiplexer.get("key")  # raises before there is anything to wait for
                await eventually(lambda: multiplexer._runner is None, message="the probe found it still dead")
            await proxy.heal()
            now[0] += 10.0
            with pytest.raises(RedisUnavailable):
                await multiplexer.get("key")
            await eventually(lambda: multiplexer.connected and not multiplexer._pause)
            assert await multiplexer.get("key") == b"value"
        finally:
            await multiplexer.close()
