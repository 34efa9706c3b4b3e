"""Encrypted and compressed values: a dump holds nothing to read, whoever stored it, and readers read it."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis

from servers import Database, eventually
from unstale import Cache
from unstale.protocol import sealed
from unstale.sync import Cache as BlockingCache
from unstale_worker.audit.judging import Outcome
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.doctor import Severity, examine
from workers import applied, connected, redis_at, running_worker, settings_for
from workers.audited import auditing
from workers.commands import run
from workers.double import NAMES, Loader, WorkerDouble, attached_cache
from workers.refresh_stage import filled

KEYS = [f"{name}:{base64.b64encode(bytes((number,)) * 32).decode()}" for number, name in enumerate("abc")]
ENCRYPTED: dict[str, Any] = {"value_keys": KEYS[0], "compress_above": 1_000}
KEY = "user:1:profile"
PLANTED = 10_000

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "user:{id}:page"]
tags = ["user:{id}:everything"]

[refresh."user:{id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
serve_stale = "1m"
"""
SCHEMA = """
create table public.profiles (id bigint primary key, name text);
insert into public.profiles select n, 'planted-' || n from generate_series(1, 200) n;
select unstale.watch('public.profiles', '{id}');
grant select on public.profiles to unstale_worker;
"""


class Profile(BaseModel):
    id: int
    name: str


async def dump(redis: Redis) -> bytes:
    """Return every value, stream and hash, and the RDB file, in which nothing is packed."""
    await redis.config_set("rdbcompression", "no")
    await redis.save()
    folder: Any = await redis.config_get("dir")
    name: Any = await redis.config_get("dbfilename")
    found = await asyncio.to_thread((Path(folder["dir"]) / name["dbfilename"]).read_bytes)
    read: dict[bytes, Any] = {b"string": redis.get, b"hash": redis.hgetall, b"stream": redis.xrange}
    parts = [found]
    async for key in redis.scan_iter():
        kind: Any = await redis.type(key)
        if kind in read:
            content: Any = await read[kind](key)
            parts.append(content if isinstance(content, bytes) else repr(content).encode())
        else:
            parts.append(repr(await redis.dump(key)).encode())
    return b"\n".join(parts)


async def fill(cache: Cache, wait_for: Redis) -> None:
    """Store planted texts in every way that an agent has."""
    texts = [f"planted-agent-{number}" for number in range(PLANTED)]
    pages = {f"user:{at}:page": texts[at * 50 : at * 50 + 50] for at in range(PLANTED // 50)}
    await cache.get_many(list(pages)[:100], lambda keys: {key: pages[key] for key in keys})
    for key, page in list(pages.items())[100:150]:
        await cache.get_or_load(key, Loader(page), tags=["user:1:everything"])
    for at, page in enumerate(list(pages.values())[150:]):
        await cache.set(f"session:{at}", page)
    await cache.get("user:1:greeting")
    await cache.set("user:1:greeting", "planted-greeting")


async def test_a_server_that_does_not_tell_its_run_id(database: Database) -> None:
    async with (
        connected(database.dsn) as db,
        EmbeddedValkey(restricted=True) as server,
        redis_at(server.url) as redis,
    ):
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, server.restricted_url, rules=RULES, **ENCRYPTED),
            attached_cache(server.restricted_url, **ENCRYPTED) as cache,
            attached_cache(server.restricted_url, **ENCRYPTED) as other,
        ):
            row = {"id": 1, "name": "planted-1"}
            assert await cache.get_or_load(KEY, Loader(row)) == row
            assert (await filled(redis, KEY)).startswith(sealed.ENCRYPTED)
            assert await other.get(KEY) == row
            await db.execute("update public.profiles set name = 'Ada' where id = 1")
            await applied(redis, db)
            assert (await filled(redis, KEY, timeout=60.0)).startswith(sealed.ENCRYPTED), "by the worker"

            async def read() -> bool:
                return bool(await other.get(KEY) == {"id": 1, "name": "Ada"})

            await eventually(read)


async def test_a_dump_holds_no_value_and_every_reader_reads_it(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """Agents and the worker store; a change makes a stale value; agents, the audit and the doctor read."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, redis_url, rules=RULES, **ENCRYPTED),
            attached_cache(redis_url, **ENCRYPTED) as cache,
            attached_cache(redis_url, **ENCRYPTED) as other,
        ):
            await fill(cache, redis)
            assert await other.get("session:0") == [f"planted-agent-{at}" for at in range(7500, 7550)]
            assert (await other.get("user:120:page", tags=["user:1:everything"]))[0] == "planted-agent-6000"
            for number in range(1, 20):
                row = {"id": number, "name": f"planted-{number}"}
                first = await other.get_or_load(f"user:{number}:profile", Loader(row), model=Profile)
                assert first == Profile(**row)
            await db.execute("update public.profiles set name = name || '-again' where id < 20")
            await applied(redis, db)
            for number in range(1, 20):
                content = await filled(redis, f"user:{number}:profile", timeout=60.0)
                assert content.startswith(sealed.ENCRYPTED), "by the worker"
            loader = Loader("unused")
            assert await cache.get_or_load(KEY, loader, model=Profile) == Profile(
                id=1, name="planted-1-again"
            )
            assert loader.calls == 0
            assert cache.counters().unreadable_values == other.counters().unreadable_values == 0

            everything = await dump(redis)
            assert everything.count(b"planted") == 0
            assert b"user:1:profile" in everything, "names of keys stay plain"

            async with auditing(database.worker_dsn, redis_url, rules=RULES, **ENCRYPTED) as auditor:
                await eventually(lambda: auditor.tally.total().outcomes[Outcome.EQUAL] > 3)
                assert auditor.tally.total().outcomes[Outcome.WRONG] == 0
                assert auditor.tally.total().outcomes[Outcome.REFUSED] == 0

            config = tmp_path / "unstale.toml"
            config.write_text(RULES)
            given = settings_for(database.worker_dsn, redis_url, config=config, **ENCRYPTED)
            (said,) = [one for one in await examine(given) if one.subject == "values"]
            assert said.severity is Severity.OK
            assert "encrypted by 'a'" in said.finding
            async with attached_cache(redis_url) as plain:  # a process that was forgotten
                await plain.get_or_load("user:199:page", Loader("planted-plain"))
                assert (await dump(redis)).count(b"planted-plain") > 1, "the search finds what is there"
            (said,) = [one for one in await examine(given) if one.subject == "values"]
            assert said.severity is Severity.WARNING
            assert "1 plain" in said.finding


async def test_keys_rotate_under_running_agents_and_what_cannot_be_read_is_a_miss(
    valkey: EmbeddedValkey, double: WorkerDouble, caplog: pytest.LogCaptureFixture
) -> None:
    old, both, new = KEYS[0], f"{KEYS[1]},{KEYS[0]}", KEYS[1]
    async with (
        attached_cache(valkey.url, value_keys=old) as before,
        attached_cache(valkey.url, value_keys=both) as during,
        attached_cache(valkey.url, value_keys=new) as after,
        attached_cache(valkey.url) as plain,
    ):
        await before.get_or_load(KEY, Loader("Ada"))
        assert await during.get_or_load(KEY, Loader("unused")) == "Ada"
        assert before.counters().unreadable_values + during.counters().unreadable_values == 0
        loader = Loader("Ada")
        assert await after.get_or_load(KEY, loader) == "Ada"
        assert loader.calls == after.counters().unreadable_values == after.counters().misses == 1
        found: Any = await double.redis.get(KEY)
        assert sealed.key_id(found) == "b"
        assert await plain.get(KEY, default="none") == "none"
        assert await plain.get_many([KEY]) == {}

        # Values moved to another key, or damaged, are misses as well; never an error, and never garbage.
        await during.get_or_load(KEY, Loader("Ada"), fresh=True)
        found = await double.redis.get(KEY)
        for at, content in enumerate((found, found[:-5], found[:20], b"\x01", b"\x01z.", found[:-1] + b"x.")):
            key = f"user:1{at}:profile"
            await double.redis.set(key, content, px=60_000)
            assert await during.get_or_load(key, Loader("own")) == "own"
            assert await after.get_or_load(key, Loader("unused")) == "own"
        assert caplog.text.count("cannot be opened") == 3, "once for each cache and pattern"

        def read() -> object:
            with BlockingCache.from_env(env_file=None, redis_url=valkey.url, value_keys=both) as blocking:
                return blocking.get_or_load(KEY, lambda: 1 / 0, shared=True)

        assert await asyncio.to_thread(read) == "Ada"
        await double.apply(KEY)
        await eventually(lambda: during.inspect().local.near.peek(KEY) is None)
        assert await during.get_or_load(KEY, Loader("Grace"), refresh_ahead=0.9) == "Grace"


async def test_a_value_kept_for_a_failing_loader_is_encrypted_and_answered(
    valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    async def failing() -> object:
        raise OSError("the model is away")

    async with attached_cache(valkey.url, near_max_entries=0, **ENCRYPTED) as cache:
        await cache.get_or_load("session:9", Loader("planted"), ttl=0.05, stale_if_error=600)

        async def over() -> bool:
            return not await double.redis.exists("session:9")

        await eventually(over)
        kept: Any = await double.redis.get(NAMES.spare("session:9"))
        assert b"planted" not in kept
        assert await cache.get_or_load("session:9", failing, stale_if_error=600) == "planted"


SHREDDED: dict[str, str | None] = {}


def keys_of(user: str | None) -> str | None:
    """Stand in for a table of users' keys."""
    return KEYS[2] if user is None else SHREDDED.get(user)


async def test_a_forgotten_key_erases_a_user_from_dumps(valkey: EmbeddedValkey, double: WorkerDouble) -> None:
    given: dict[str, Any] = {"value_key_function": f"{__name__}:keys_of", "value_key_users": "user:{user}:*"}
    SHREDDED.clear()
    SHREDDED.update({"1": KEYS[0], "2": KEYS[1]})
    async with attached_cache(valkey.url, **given) as cache:
        for user in (1, 2):
            await cache.get_or_load(f"user:{user}:profile", Loader(f"planted-{user}"))
        await cache.set("session:1", "planted")
        copy: Any = await double.redis.get(KEY)
        assert [sealed.key_id(copy)] == ["a"]
    await double.apply(KEY)
    SHREDDED["1"] = None
    await double.redis.set(KEY, copy, px=60_000)  # a dump is restored, or a replica promoted
    async with attached_cache(valkey.url, **given) as cache:
        gone = Loader("not stored")
        assert await cache.get_or_load(KEY, gone) == "not stored"
        assert await cache.get_or_load(KEY, gone) == "not stored"
        assert gone.calls == 2, "nothing is stored for a user without a key"
        assert not await double.redis.exists(KEY)
        assert await cache.get_or_load("user:2:profile", Loader("unused")) == "planted-2"
        assert await cache.get("session:1") == "planted"


@pytest.mark.parametrize("value", ["a:tooshort", "a:!!", "no-colon"])
def test_a_wrong_key_ends_a_command_with_a_sentence(value: str, tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(RULES)
    for command in (["worker"], ["doctor"]):
        ended = run(
            *command, cwd=tmp_path, settings={"UNSTALE_VALUE_KEYS": value, "REDIS_URL": "redis://127.0.0.1:1"}
        )
        assert ended.code == 2
        assert "UNSTALE_VALUE_KEYS: entry 1" in ended.err + ended.out
        assert "tooshort" not in ended.err + ended.out
        assert "Traceback" not in ended.err + ended.out
        assert json.dumps(value) not in ended.out
