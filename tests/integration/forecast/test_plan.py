"""`unstale plan`: against a revision and a file, and what it says of a restart is what a restart does."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from servers import Database, eventually
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules
from workers import connected, running_worker, state_of
from workers.commands import run

TABLES = "create table people (id bigint primary key, name text, mood text);"
BEFORE = """
[[watch]]
table = "people"
keys = ["same:{id}", "gone:{id}"]
[[watch]]
table = "people"
columns = ["name"]
keys = ["columns:{id}"]
[[watch]]
table = "people"
keys = ["ttl:{id}"]
[ttl]
"ttl:*" = "1h"
"""
AFTER = """
[[watch]]
table = "people"
keys = ["same:{id}", "new:{id}"]
[[watch]]
table = "people"
columns = ["name", "mood"]
keys = ["columns:{id}"]
[[watch]]
table = "people"
keys = ["ttl:{id}"]
[ttl]
"ttl:*" = "30m"
[refresh."columns:{id}"]
loader = "row"
table = "people"
key = "id"
"""
EXPECTED = {"columns:*": "drop", "gone:*": "keep", "new:*": "drop", "same:*": "keep", "ttl:*": "shorten"}


def actions(plan: dict[str, Any]) -> dict[str, str]:
    return {fate["pattern"]: fate["action"] for fate in plan["patterns"]}


def test_against_a_revision_or_a_file_it_asks_no_server(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "unstale.toml").write_text(BEFORE)
    (tmp_path / "before.toml").write_text(BEFORE)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "rules"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "unstale.toml").write_text(AFTER)
    for against in ("HEAD", "before.toml"):
        ended = run("plan", "--against", against, "--json", cwd=tmp_path)
        assert ended.code == 0, ended.err
        plan = json.loads(ended.out)
        assert actions(plan) == EXPECTED
        assert plan["compared_with"] == against
        assert {each["table"] for each in plan["migrations"]} == {None, "public.people"}
        assert plan["loads_at_most"] is None
        (columns,) = [fate for fate in plan["patterns"] if fate["pattern"] == "columns:*"]
        assert columns["loaders"] == ["the reader's loader", "[refresh] row of public.people"]
    said = run("plan", "--against", "HEAD", cwd=tmp_path).out
    assert "keep     gone:*     former: not in these rules; applied until no agent uses it" in said
    assert "shorten  ttl:*      TTL: 3600 s before, 1800 s now" in said
    assert not (tmp_path / "supabase").exists()

    wrong = run("plan", "--against", "nowhere", cwd=tmp_path)
    assert wrong.code == 2
    assert "'nowhere' is neither a file nor a git revision with unstale.toml" in wrong.err
    (tmp_path / "before.toml").write_text("watch = 1")
    assert "before.toml:1" in run("plan", "--against", "before.toml", cwd=tmp_path).err
    (tmp_path / "unstale.toml").write_text(BEFORE)
    assert "no difference" in run("plan", "--against", "HEAD", cwd=tmp_path).out


async def test_a_restart_drops_what_the_plan_said(database: Database, redis_url: str, tmp_path: Path) -> None:
    """The number of keys, too; the plan itself changes nothing."""
    settings = {"DATABASE_URL": database.worker_dsn, "REDIS_URL": redis_url}
    (tmp_path / "unstale.toml").write_text(AFTER)
    patterns = [*EXPECTED, "other:*"]
    async with connected(database.dsn) as owner, Redis.from_url(redis_url) as redis:
        await owner.execute(TABLES)
        unled = await asyncio.to_thread(run, "plan", cwd=tmp_path, settings=settings)
        assert unled.code == 0, unled.err
        assert (
            "everything is dropped: it cannot be told what changed (no worker has stored a position)"
            in unled.out
        )
        assert "worker: none leads" in unled.out
        assert "the database does not watch public.people" in unled.out

        async def left() -> dict[str, int]:
            return {
                pattern: len([key async for key in redis.scan_iter(pattern, count=1_000)])
                for pattern in patterns
            }

        file = write_migration(Rules.parse(BEFORE), tmp_path / "before").path
        assert file is not None
        await owner.execute(file.read_text())
        async with running_worker(database.worker_dsn, redis_url, rules=BEFORE):
            for pattern in patterns:
                for number in range(20):
                    await redis.set(pattern.replace("*", str(number)), "{}", ex=3_000)
            before = await left()
            ended = await asyncio.to_thread(run, "plan", "--json", cwd=tmp_path, settings=settings)
            assert ended.code == 0, ended.err
            plan = json.loads(ended.out)
            assert await left() == before
        assert actions(plan) == EXPECTED
        assert {fate["pattern"]: fate["keys"] for fate in plan["patterns"]} == dict.fromkeys(EXPECTED, 20)
        assert plan["loads_at_most"] == 40
        assert plan["running"]["leader"]
        assert plan["database_not_compared"] is None
        assert plan["database"] == []

        async with running_worker(database.worker_dsn, redis_url, rules=AFTER):

            async def done() -> bool:
                stored = (await state_of(redis)).get("rules", "")
                return stored.startswith(Rules.parse(AFTER).hash)

            await eventually(done)
            dropped = {pattern for pattern, count in (await left()).items() if count == 0}
            assert dropped == {pattern for pattern, action in EXPECTED.items() if action == "drop"}
            same = (await asyncio.to_thread(run, "plan", "--no-count", cwd=tmp_path, settings=settings)).out
            assert "compared with the rules in force: no difference" in same
            assert "load: none" in same
            assert "database: every table is captured as the rules need" in same
