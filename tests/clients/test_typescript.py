"""The TypeScript client: it passes the conformance cases, and keeps the promises while everything breaks."""

import asyncio
import os
import random
import re
import subprocess
import time
from typing import Any

import asyncpg
import orjson
import pytest

import unstale
from clients.typescript import PACKAGE, Follower, follower, node
from history import Checker, Limits, State, Verdict, Writes
from servers import Database, eventually, takes
from unstale import Cache
from unstale.redis_tier.scripts import READING_HEADER, Script
from unstale_worker.dev_servers import EmbeddedValkey
from workers import connected, redis_at, running_worker
from workers.double import open_cache

pytestmark = pytest.mark.xdist_group("typescript")  # one process builds

ROWS = 6
RIGHTS = PACKAGE.parents[1] / "docs" / "typescript.md"
CHANGES = 250
SILENCE = 2.0
RULES = """
[[watch]]
table = "public.items"
keys = ["item:{id}", "trace:item:{id}:{version}"]
tags = ["rows:{id}"]

[ttl]
"item:*" = "1d"
"view:*" = "1d"
"""
SCHEMA = """
create table public.items (id bigint primary key, version bigint not null);
insert into public.items select g, 1 from generate_series(1, 6) g;
select unstale.watch('public.items', '{id,version}');
"""


@pytest.fixture(scope="module")
def built() -> None:
    """Build the client and its tests, strictly typed."""
    compile_project("tsconfig.test.json")


def compile_project(project: str, *options: str) -> None:
    compiler = PACKAGE / "node_modules" / "typescript" / "bin" / "tsc"
    command = [node(), str(compiler), "-p", project, *options]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_package_holds_what_its_exports_name() -> None:
    """As ``npm run build`` makes it, apart from the folder."""
    compile_project("tsconfig.json", "--outDir", "build/package")
    package = orjson.loads((PACKAGE / "package.json").read_bytes())
    assert set(package["exports"]["."].values()) | {package["types"]} == {
        "./dist/index.js",
        "./dist/index.d.ts",
    }
    module = PACKAGE / "build" / "package" / "index.js"
    assert "type CacheOptions" in module.with_suffix(".d.ts").read_text()
    show = f"import({str(module)!r}).then(m => console.log(Object.keys(m).sort().join(' ')))"
    done = subprocess.run([node(), "-e", show], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Cache", "CacheClosed", "ConfigurationError", "WaitTimeout"]


def test_it_passes_every_conformance_case(built: None) -> None:
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap", "build/test/conformance.test.js"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, "\n".join(re.findall(r"^not ok.*", done.stdout, re.MULTILINE)) + done.stderr
    assert int(re.findall(r"^# pass (\d+)$", done.stdout, re.MULTILINE)[0]) > 80


def test_it_has_the_version_of_the_python_package() -> None:
    assert orjson.loads((PACKAGE / "package.json").read_bytes())["version"] == unstale.__version__


def test_it_reads_the_log_with_the_same_script() -> None:
    """The script is replay.lua, behind the helpers that it calls."""
    text = (PACKAGE / "src" / "replay-script.ts").read_text()
    script = (
        text.partition("`replay.lua`")[2].partition("REPLAY = `")[2].removesuffix("`;\n").replace("\\`", "`")
    )
    whole = Script("unstale.redis_tier", "replay", read_only=True).text
    parts = re.split(r"(?=^local function |^-- Reads the epoch)", script, flags=re.MULTILINE)
    assert parts[0] == READING_HEADER
    assert len(parts) == 4
    for part in parts:
        assert part in whole
    assert whole.endswith(parts[-1])


async def test_it_keeps_every_promise_while_everything_breaks(
    built: None, database: Database, valkey: EmbeddedValkey
) -> None:
    """A second process whose near cache drops nothing shows that the checker would notice."""
    settings: dict[str, Any] = {"max_silence": SILENCE, "leader_ttl": 1.0}
    async with (
        connected(database.dsn) as db,
        asyncpg.create_pool(database.dsn, min_size=1, max_size=4) as pool,
    ):
        await db.execute(SCHEMA)

        async def load(row: str) -> dict[str, Any]:
            number = int(row.partition(":")[2])
            version = await pool.fetchval("select version from items where id = $1", number)
            await takes(random.random() * 0.01)
            return {"versions": {row: version}}

        url = await user_that_only_reads(valkey)
        common = {"redisUrl": url, "rows": ROWS, "maxSilence": SILENCE}
        async with (
            open_cache(valkey.url, max_silence=SILENCE, leader_ttl=1.0) as filler,
            follower({**common, "broken": False}, load) as sound,
            follower({**common, "broken": True}, load) as broken,
            asyncio.TaskGroup() as tasks,
        ):
            stop = asyncio.Event()
            following = [tasks.create_task(each.follow()) for each in (sound, broken)]
            filling = tasks.create_task(fill(filler, load, stop))
            async with running_worker(database.worker_dsn, valkey.url, rules=RULES, **settings):
                await eventually(lambda: sound.started.is_set() and broken.started.is_set())
                writing = tasks.create_task(write(db))
                await break_things(valkey, sound)
            # The worker is gone: agents detach, and another one takes over.
            heard = sound.reads
            await eventually(lambda: sound.reads > heard + 20)
            async with running_worker(database.worker_dsn, valkey.url, rules=RULES, **settings):
                rows = await writing
                token = await db.fetchval("select unstale.token()")
                sound.stop(token)
                broken.stop(token)
                await asyncio.gather(*following)
                stop.set()
                await filling
    verdict = judged(rows, sound)
    assert verdict.true, verdict.complaints
    assert verdict.attached_reads > CHANGES
    assert verdict.finals == 2 * ROWS
    assert sound.stats["nearHits"], sound.stats
    assert sound.stats["redisHits"], sound.stats
    assert sound.stats["loads"], sound.stats
    assert sound.stats["replays"] > 2, sound.stats  # connections were lost
    assert judged(rows, broken).stale.get("older"), "the broken near cache was not noticed"


async def user_that_only_reads(valkey: EmbeddedValkey) -> str:
    """Create the user that the page describes, for the keys of this test; return the URL."""
    line = re.search(r"^ACL SETUSER .+$", RIGHTS.read_text(), re.MULTILINE)
    assert line is not None
    words = re.findall(r"\([^)]*\)|\S+", line[0].replace("%R~user:*", "%R~item:* %R~view:*"))
    async with redis_at(valkey.url) as redis:
        await redis.execute_command(*words)
    return f"redis://unstale-follower:password@127.0.0.1:{valkey.port}/0"


def judged(rows: dict[str, list[State]], client: Follower) -> Verdict:
    checker = Checker(Writes(rows), Limits(detached=30.0))
    checker.judge("follower", client.records)
    return checker.verdict


async def fill(cache: Cache, load: Any, stop: asyncio.Event) -> None:
    """Read through the Python client, which stores what it loads in Redis."""
    while not stop.is_set():
        number = random.randint(1, ROWS)
        await cache.get_or_load(f"item:{number}", lambda n=number: load(f"item:{n}"))
        await cache.get_or_load(
            f"view:{number}",
            lambda n=number: load(f"item:{n}"),
            tags=[f"rows:{number}"],
        )
        await takes(0.002)


async def write(db: asyncpg.Connection) -> dict[str, list[State]]:
    """Change one or two rows at a time; return what was committed."""
    chance = random.Random(11)
    rows = {f"item:{number}": [State(1, True, 0.0, 0.0)] for number in range(1, ROWS + 1)}
    for version in range(2, CHANGES + 2):
        numbers = sorted(chance.sample(range(1, ROWS + 1), chance.randint(1, 2)))
        before = time.monotonic()
        await db.execute("update items set version = $2 where id = any($1::bigint[])", numbers, version)
        after = time.monotonic()
        for number in numbers:
            rows[f"item:{number}"].append(State(version, True, before, after))
        await takes(chance.random() * 0.04)
    return rows


async def break_things(valkey: EmbeddedValkey, client: Follower) -> None:
    """Kill subscriptions and all other connections, empty Redis, and let the process stand still."""

    async def reads_on() -> None:
        before = client.reads
        await eventually(lambda: client.reads > before + 50)

    async with redis_at(valkey.url) as redis:
        await reads_on()
        for kind in ("pubsub", "normal", "pubsub"):
            await redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await reads_on()
        client.pause()
        await takes(SILENCE * 1.25)  # longer than its near cache may be trusted
        client.go_on()
        await reads_on()
        await redis.flushall()
        await reads_on()
