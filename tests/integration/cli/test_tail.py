"""``unstale tail``: the invalidations as they are published."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import orjson
import pytest
from redis.asyncio import Redis

from servers import Database, eventually
from unstale.errors import RedisUnavailable
from unstale.protocol.names import Names
from unstale_worker.cli.output import Output
from unstale_worker.cli.tail import Line, follow
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.rules import Rules
from unstale_worker.tracing.table_names import Changes
from workers import PROFILES, SCHEMA, connected, running_worker
from workers.commands import started

CHANNEL = Names().channel
RULES = Rules.parse(PROFILES)


class Tail:
    """Follows in a task of its own and keeps the lines."""

    def __init__(self, redis: Redis, *, pattern: str | None = None) -> None:
        self.lines: list[Line] = []
        self.stop = asyncio.Event()
        self._redis, self._pattern = redis, pattern

    async def __aenter__(self) -> Tail:
        self.task = asyncio.create_task(self._follow())

        async def subscribed() -> bool:
            return bool((await self._redis.pubsub_numsub(CHANNEL))[0][1])

        await eventually(subscribed)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await self.task

    async def _follow(self) -> None:
        async for line in follow(self._redis, Names(), pattern=self._pattern, stop=self.stop, rules=RULES):
            self.lines.append(line)

    async def until(self, count: int) -> list[Line]:
        await eventually(lambda: len(self.lines) >= count)
        return self.lines


def message(number: int, *keys: str, patterns: tuple[str, ...] = (), prev: int | None = None) -> bytes:
    return orjson.dumps(
        {
            "v": 1, "epoch": "e", "id": number, "prev": number - 1 if prev is None else prev,
            "keys": keys, "patterns": patterns,
        }
    )  # fmt: skip


async def test_changes_come_by(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as connection, Redis.from_url(redis_url) as redis:
        await connection.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url), Tail(redis) as tail:
            await connection.execute("insert into profiles (id) values (42)")
            line = (await tail.until(1))[0]

            await connection.execute("update profiles set name = 'many' where id > 42")
            await connection.execute("insert into profiles (id) select generate_series(100, 119)")
            await tail.until(2)
            many = tail.lines[-1]

    assert set(line.keys) == {"user:42:profile", "user:42:greeting_instructions"}
    assert (line.kind, line.changes) == ("changes", (Changes("public.profiles", "insert", 1),))
    assert len(many.keys) == 40
    assert line.missed == 0
    assert line.id >= 1


def test_a_line_says_what_changed_and_shows_some_of_many_keys(capsys: pytest.CaptureFixture[str]) -> None:
    keys = tuple(f"user:{number}:profile" for number in range(1_000))
    changes = (Changes("public.profiles", "update", 999), Changes("public.notes", "insert", 1))
    Output(json=False).tail(Line(0.0, "e", 7, keys, ("a:*",), None, 0, "changes", None, changes))
    said = capsys.readouterr().out
    assert "999 update of public.profiles, 1 insert of public.notes: 1000 keys user:0:profile" in said
    assert "a:* (pattern)" in said
    assert len(said) < 400
    Output(json=False).tail(Line(0.0, "e", 7, ("a",), (), None, 0, "delete", "web-1:7"))
    assert "delete by web-1:7: a" in capsys.readouterr().out


async def test_only_what_a_pattern_matches(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, Tail(redis, pattern="user:4*") as tail:
        await redis.publish(CHANNEL, message(1, "user:41:a", "user:5:a"))
        await redis.publish(CHANNEL, message(2, "user:5:a"))
        await redis.publish(CHANNEL, message(3, "user:4:a", patterns=("org:*",)))
        first, second = await tail.until(2)

    assert (first.id, first.keys) == (1, ("user:41:a",))
    assert (second.id, second.keys, second.patterns) == (3, ("user:4:a",), ("org:*",))


async def test_gaps_are_counted_and_nonsense_is_passed_over(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as redis, Tail(redis) as tail:
        await redis.publish(CHANNEL, message(1, "a"))
        for nonsense in (b"", b"{}", b"[1]", b'{"v":9}', b"\xff"):
            await redis.publish(CHANNEL, nonsense)
        await redis.publish(CHANNEL, message(5, "b"))
        first, second = await tail.until(2)

    assert (first.missed, second.missed) == (0, 3)
    assert second.watermark_age is None


async def test_a_watermark_is_remembered(redis_url: str) -> None:
    watermark = {"v": 1, "epoch": "e", "last": 0, "seen": "3:3:", "lsn": "0/1", "rules": "", "age_ms": 2_000}
    async with Redis.from_url(redis_url) as redis, Tail(redis) as tail:
        await redis.publish(CHANNEL, orjson.dumps(watermark))
        await redis.publish(CHANNEL, message(1, "a"))
        line = (await tail.until(1))[0]

    assert line.watermark_age is not None
    assert 2 <= line.watermark_age < 30


async def test_a_server_that_goes_away_is_said(valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        tail = Tail(redis)
        async with tail:
            await valkey.kill()
            with pytest.raises(RedisUnavailable):
                await tail.task
            tail.task = asyncio.create_task(asyncio.sleep(0))


async def test_the_command(tmp_path: Path, redis_url: str) -> None:
    settings = {"REDIS_URL": redis_url}
    async with Redis.from_url(redis_url) as redis:

        async def followers() -> int:
            return int((await redis.pubsub_numsub(CHANNEL))[0][1])

        async with (
            started("tail", "--json", cwd=tmp_path, settings=settings) as as_json,
            started("tail", "user:*", cwd=tmp_path, settings=settings) as plain,
        ):

            async def both() -> bool:
                return await followers() == 2

            await eventually(both)
            await redis.publish(CHANNEL, message(7, "user:1:profile", "other", patterns=("x:*",)))

            said = json.loads(await as_json.line("user:1:profile"))
            assert (said["id"], said["keys"]) == (7, ["user:1:profile", "other"])
            line = await plain.line("user:1:profile")
            assert "#7" in line
            assert "other" not in line
            assert "x:* (pattern)" in line
            assert await as_json.end(signal.SIGINT) == 0
            assert await plain.end(signal.SIGTERM) == 0
