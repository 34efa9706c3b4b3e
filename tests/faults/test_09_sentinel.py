"""9: the same failover, decided by Sentinel: the primary dies, or is demoted by an operator and lives on.

Guards: every new connection asks the sentinels anew, all at once (`Sentinels`), and stays only with a server
that says it is a primary (`expect_primary`); then ``run`` and epoch do the rest, as in `test_09_failover`.
"""

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from faults.stage import staged
from servers import Database, eventually
from servers.sentinels import SERVICE, EmbeddedSentinel, Guarded, guarded, sentinel_url
from servers.tls_front import TlsFront
from unstale.errors import RedisUnavailable, UnsupportedServer
from unstale.protocol.names import Names
from unstale.redis_tier import connections
from unstale.redis_tier.asking import NoPrimary
from unstale.redis_tier.connections import Connections, RedisConnection
from unstale.redis_tier.multiplexer import Multiplexer
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.observe.preflight import check_redis
from unstale_worker.redis.client import open_redis
from workers import redis_at, running_worker, settings_for, state_of


@pytest.fixture
async def watched() -> AsyncIterator[Guarded]:
    """A primary, its replica and three sentinels."""
    async with guarded() as servers:
        yield servers


async def port_of(url: str, *, timeout: float = 20) -> int:
    """The port that a new connection ends at."""
    opener = Connections(url, timeout=timeout)
    connection: RedisConnection = opener.new()
    try:
        async with asyncio.timeout(30):
            await opener.open(connection)
        return int(connection.port)  # type: ignore[union-attr]  # no Unix socket
    finally:
        await connection.disconnect(nowait=True)


@pytest.mark.parametrize("how", ["killed", "SENTINEL FAILOVER"])
async def test_worker_and_agents_follow_to_the_new_primary(
    database: Database, watched: Guarded, quick: None, how: str
) -> None:
    """What the old one acknowledged last may be missing there; it is applied again."""
    async with (
        staged(database.dsn, watched.primary.url) as (stage, before),
        running_worker(database.worker_dsn, watched.url) as worker,
        redis_at(watched.replica.url) as redis,
    ):
        for _ in range(2):
            await stage.open_agent(watched.url)
        await stage.warm()
        epoch = (await state_of(before))["epoch"]
        await stage.write(1)
        if how == "killed":
            await watched.primary.kill()
        else:
            await watched.fail_over()
        await stage.write(2)
        await watched.promoted()

        async def other() -> bool:
            return (await state_of(redis)).get("epoch", epoch) != epoch

        await eventually(other, message="a new epoch")
        await stage.write(3)
        await stage.settled(redis)
        assert worker.status().counters.epochs >= 2  # the first, and the one after the failover
        for agent in (0, 1):
            for user in (1, 2, 3, 4):
                assert await stage.read(user, agent) == (1 if user == 4 else 2)
        if how == "killed":
            await watched.primary.start()  # empty, and takes itself for a primary
        async with redis_at(watched.primary.url) as old:

            async def left() -> bool:
                ((_, subscribers),) = await old.pubsub_numsub(Names().channel)
                return int(subscribers) == 0

            await eventually(left, message="nobody listens to the old primary")


async def test_a_subscription_leaves_a_primary_that_nobody_demotes(
    database: Database, watched: Guarded, quick: None
) -> None:
    """Guards: `Connections.led_elsewhere`, asked when watermarks are late; silence would take a minute."""
    async with (
        staged(database.dsn, watched.primary.url) as (stage, _),
        running_worker(database.worker_dsn, watched.url, max_silence=60),
    ):
        cache = await stage.open_agent(watched.url, max_silence=60)
        await stage.warm()
        await watched.fail_over()
        await watched.promoted()
        async with redis_at(watched.primary.url) as old, redis_at(watched.replica.url) as redis:
            # The sentinels cannot log in any more; nor can anybody else but who listens already.
            await old.config_set("requirepass", "another")
            await old.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

            async def left() -> bool:
                ((_, subscribers),) = await old.pubsub_numsub(Names().channel)
                return int(subscribers) == 0

            await eventually(left, message="nobody listens to the old primary")
            assert (await old.info("replication"))["role"] == "master"
            await stage.write(1)
            await eventually(lambda: cache.attached)
            await stage.settled(redis)
            assert await stage.read(1) == 2


async def test_a_server_that_was_demoted_without_the_sentinels_knowing_is_refused() -> None:
    """One sentinel alone cannot fail over, so it goes on naming a server that is a replica now."""
    async with guarded(sentinels=1) as watched, redis_at(watched.primary.url) as redis:
        assert await port_of(watched.url) == watched.primary.port
        async with redis_at(watched.replica.url) as other:
            await other.execute_command("REPLICAOF", "NO", "ONE")
        await redis.execute_command("REPLICAOF", "127.0.0.1", str(watched.replica.port))
        with pytest.raises(NoPrimary, match="leads to a replica"):
            await port_of(watched.url)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_user_with_few_rights_does_not_stay_with_a_replica_either(
    monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """docs/operations.md's user may not call ROLE; what it may is enough to tell."""
    async with EmbeddedValkey() as primary, EmbeddedValkey(replica_of=primary) as replica:
        async with redis_at(replica.url) as redis:
            rights = "~user:* ~{unstale:0}:* &{unstale:0}:* +@all -@dangerous -@admin +info"
            await redis.execute_command("ACL", "SETUSER", "app", "on", ">secret", *rights.split())

            async def follows() -> bool:
                return bool((await redis.info("replication"))["master_link_status"] == "up")

            await eventually(follows)
        url = f"redis://app:secret@127.0.0.1:{replica.port}/0"
        if defended:
            with pytest.raises(NoPrimary, match="leads to a replica"):
                await port_of(url)
        else:

            async def trusting(connection: RedisConnection) -> None:
                return

            monkeypatch.setattr(connections, "expect_primary", trusting)
            assert await port_of(url) == replica.port
        async with redis_at(url) as app:
            with pytest.raises(Exception, match="no permissions to run the 'role' command"):
                await app.execute_command("ROLE")


async def test_a_sentinel_that_hangs_costs_nothing_and_one_left_behind_misleads_nobody(
    watched: Guarded,
) -> None:
    """A majority is enough, and the answer of the newest failover counts."""
    await watched.fail_over()
    await watched.promoted()
    first, second, third = watched.sentinels
    async with EmbeddedSentinel(watched.primary, quorum=3, password=first.password) as fresh:
        await watched.primary.kill()  # from nobody can it hear of the failover
        assert await fresh.ask("GET-MASTER-ADDR-BY-NAME", SERVICE) == [
            b"127.0.0.1",
            str(watched.primary.port).encode(),
        ]
        await third.kill()
        assert await port_of(sentinel_url(watched.primary, (fresh, first, second))) == watched.replica.port
        os.kill(second.pid, signal.SIGSTOP)
        try:
            # Two of three answer: nobody waits for the third, or `port_of` would give up first.
            url = sentinel_url(watched.primary, (second, first, fresh))
            assert await port_of(url, timeout=120) == watched.replica.port
            # One of three: the one that hangs is waited for, half of the time there is.
            url = sentinel_url(watched.primary, (second, first, third))
            assert await port_of(url, timeout=4) == watched.replica.port
        finally:
            os.kill(second.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"service": "other"}, "one does not know the service 'other'"),
        ({"own": "wrong"}, "one refused the user or password"),
    ],
)
async def test_what_is_wrong_with_the_url_is_named(wrong: dict[str, str], said: str) -> None:
    async with guarded(sentinels=1) as watched:
        url = sentinel_url(watched.primary, watched.sentinels, **wrong)
        with pytest.raises(NoPrimary, match=said) as refused:
            await port_of(url)
        assert watched.primary.password not in str(refused.value)
        assert watched.sentinels[0].password not in str(refused.value)
        multiplexer = Multiplexer(Connections(url, timeout=20), timeout=20, clock=time.monotonic)
        with pytest.raises(RedisUnavailable, match=said):
            await multiplexer.get("user:1:profile")
        await multiplexer.close()


async def test_no_sentinel_answers_and_that_is_said_in_time() -> None:
    async with guarded(sentinels=1) as watched:
        (sentinel,) = watched.sentinels
        impatient = settings_for("postgresql://nowhere", watched.url, redis_timeout=0.5)
        patient = settings_for("postgresql://nowhere", watched.url, redis_timeout=20)
        async with open_redis(patient) as redis:
            assert await redis.ping()
        os.kill(sentinel.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                async with open_redis(impatient) as redis:
                    with pytest.raises(NoPrimary, match="1 did not answer within"):
                        await redis.ping()
        finally:
            os.kill(sentinel.pid, signal.SIGCONT)
        await sentinel.kill()
        async with open_redis(patient) as redis:
            with pytest.raises(NoPrimary, match="one cannot be reached"):
                await redis.ping()


async def test_a_url_that_leads_to_a_sentinel_itself_is_refused_with_the_right_form() -> None:
    async with guarded(sentinels=1) as watched:
        (sentinel,) = watched.sentinels
        url = f"redis://:{sentinel.password}@127.0.0.1:{sentinel.port}/0"
        async with open_redis(settings_for("postgresql://nowhere", url, redis_timeout=20)) as redis:
            with pytest.raises(UnsupportedServer, match=r"redis\+sentinel://"):
                await check_redis(redis, Names())


async def test_with_tls_to_sentinels_and_servers(tmp_path: Path) -> None:
    """Both are believed only with a certificate of the authority that the URL names."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    async with EmbeddedValkey() as primary:
        with TlsFront(primary.port, context) as front:
            sentinel = EmbeddedSentinel(primary, quorum=1, password="s", primary_port=front.port)
            async with sentinel:
                with TlsFront(sentinel.port, context) as asked:
                    url = (
                        f"rediss+sentinel://:{primary.password}@127.0.0.1:{asked.port}/{SERVICE}/0"
                        "?sentinel_password=s"
                    )
                    with pytest.raises(NoPrimary, match="CERTIFICATE_VERIFY_FAILED"):
                        await port_of(url)
                    trusting = f"{url}&ssl_ca_certs={quote(str(file))}"
                    assert await port_of(trusting) == front.port
                    async with open_redis(
                        settings_for("postgresql://nowhere", trusting, redis_timeout=20)
                    ) as redis:
                        assert await redis.ping()
                    assert front.encrypted == 2
                    assert asked.encrypted >= 2
