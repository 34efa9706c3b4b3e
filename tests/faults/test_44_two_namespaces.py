"""44: two namespaces meet in one Redis database, where both would use the same names for their keys.

Guards: `claim.lua` gives the database to one namespace and takes the history of the other one away; `put.lua`
stores nothing where another one holds the claim.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from faults.stage import key_of, staged
from servers import Database, eventually
from unstale import Cache
from unstale.protocol.names import Names
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Severity, examine
from unstale_worker.leader.supervisor import Worker
from unstale_worker.redis.claim import NamespaceTaken
from unstale_worker.rules import Rules
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker, settings_for, state_of
from workers.commands import run

CLAIM = Names().claim
HOUR_MS = 3_600_000


@asynccontextmanager
async def other(redis_url: str, namespace: str = "staging") -> AsyncIterator[Cache]:
    """An agent of another namespace, whose worker was refused or never started."""
    async with Cache.from_env(env_file=None, redis_url=redis_url, namespace=namespace) as cache:
        yield cache


async def silent_for_an_hour(redis: Redis) -> None:
    """Let the claim look as if nobody had renewed it for an hour."""
    seconds, _ = await redis.time()
    await redis.hset(CLAIM, "seen", str(seconds * 1000 - HOUR_MS))


@pytest.mark.parametrize("owned", [True, False])
async def test_an_agent_never_answers_with_a_value_of_another_namespace(
    database: Database, redis_url: str, owned: bool
) -> None:
    """Keys that rules own, and keys that none owns: `set` of one namespace must not reach the other."""
    key = key_of(1) if owned else "session:1"
    async with (
        staged(database.dsn, redis_url) as (stage, _),
        running_worker(database.worker_dsn, redis_url),
        other(redis_url) as theirs,
    ):
        ours = await stage.open_agent()
        await ours.get_or_load(key, lambda: "ours", ttl=600)
        assert await theirs.get_or_load(key, lambda: "theirs", ttl=600) == "theirs"
        await theirs.set(key, "theirs", ttl=600)
        assert await theirs.get(key) in ("theirs", None)
        await theirs.set("free:2", "theirs", ttl=600)
        ours.inspect().local.flush()
        assert await ours.get(key) in ("ours", None)
        assert await ours.get_or_load(key, lambda: "ours", ttl=600) == "ours"
        assert await ours.get("free:2") is None
        assert not theirs.attached


async def test_the_second_worker_refuses_to_start_and_the_first_goes_on(
    database: Database, redis_url: str
) -> None:
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
            with pytest.raises(NamespaceTaken, match=r"'unstale'.*'staging'.*another database number"):
                async with running_worker(database.worker_dsn, redis_url, namespace="staging"):
                    pass
            assert await redis.keys("{staging:0}:*") == []
            await stage.write(1)
            await stage.settled(redis)
        # The first one's worker may be away, as in a deploy.
        with pytest.raises(NamespaceTaken):
            async with running_worker(database.worker_dsn, redis_url, namespace="staging"):
                pass


@pytest.mark.parametrize("lost", [False, True])
async def test_a_namespace_that_is_gone_blocks_for_an_hour_only(
    database: Database, redis_url: str, lost: bool
) -> None:
    """The next one drops what the rules of the one before owned, also keys that its own rules do not know."""
    rules = PROFILES.replace("user:{id}:profile", "member:{id}")
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
            await redis.set("free:1", "1", ex=60)
        await silent_for_an_hour(redis)
        if lost:
            await redis.hset(CLAIM, "seen", "no number")
        async with running_worker(database.worker_dsn, redis_url, namespace="staging", rules=rules):
            assert await stage.redis_values(redis) == {}
            assert await redis.exists("free:1")
            assert not await redis.exists("{unstale:0}:state")
            # The one before comes back late.
            assert await stage.agents[0].set("free:2", "1") is False
            with pytest.raises(NamespaceTaken, match="'staging'"):
                async with running_worker(database.worker_dsn, redis_url):
                    pass
            names = Names("staging")
            assert (await state_of(redis, names))["epoch"]


async def test_a_leader_whose_claim_was_taken_ends(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        worker = Worker(settings_for(database.worker_dsn, redis_url), Rules.parse(PROFILES))
        running = asyncio.create_task(worker.run(stop=asyncio.Event()))
        await eventually(lambda: worker.status().ready)
        await redis.hset(CLAIM, "namespace", "staging")
        with pytest.raises(NamespaceTaken):
            await running
        assert not await redis.exists("{unstale:0}:state")


@pytest.mark.parametrize("lost", ["deleted", "another type"])
async def test_a_lost_claim_is_renewed_by_the_leader(database: Database, redis_url: str, lost: str) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            await redis.delete(CLAIM)
            if lost == "another type":
                await redis.set(CLAIM, "x")

            async def back() -> bool:
                return await redis.type(CLAIM) == b"hash"

            await eventually(back, message="the leader claims the database again")
            assert await redis.hget(CLAIM, "namespace") == b"unstale"


async def test_a_clock_that_was_set_back_does_not_block_for_longer(
    database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        seconds, _ = await redis.time()
        await redis.hset(CLAIM, mapping={"namespace": "staging", "seen": str(seconds * 1000 + 10 * HOUR_MS)})
        async with running_worker(database.worker_dsn, redis_url):
            assert await redis.hget(CLAIM, "namespace") == b"unstale"


async def test_other_database_numbers_are_other_places(database: Database, valkey: EmbeddedValkey) -> None:
    numbered = valkey.url.rpartition("/")[0] + "/3"
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, valkey.url),
            running_worker(database.worker_dsn, numbered, namespace="staging"),
            redis_at(valkey.url) as here,
            redis_at(numbered) as there,
        ):
            assert await here.hget(CLAIM, "namespace") == b"unstale"
            assert await there.hget(CLAIM, "namespace") == b"staging"


async def test_doctor_and_the_command_say_so(database: Database, redis_url: str, tmp_path: Path) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url):
            theirs = settings_for(database.worker_dsn, redis_url, namespace="staging")
            (finding,) = [found for found in await examine(theirs) if found.subject == "namespace"]
            assert finding.severity is Severity.ERROR
            assert "'unstale'" in finding.finding
            assert "another database number" in finding.remedy
            assert await redis.hget(CLAIM, "namespace") == b"unstale"
            (tmp_path / "unstale.toml").write_text(PROFILES)
            variables = {
                "DATABASE_URL": database.worker_dsn,
                "REDIS_URL": redis_url,
                "UNSTALE_NAMESPACE": "staging",
                "UNSTALE_HTTP_PORT": "0",
            }
            ended = await asyncio.to_thread(run, "worker", cwd=tmp_path, settings=variables)
            assert ended.code == 2
            assert "is used by the namespace 'unstale'" in ended.err
