"""Page 7: the code and the rules of docs/values.md do what the page says."""

import ast
import inspect
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel, Field
from redis.asyncio import Redis

from servers import Database, eventually
from tutorial.conftest import RULES
from unstale import Cache
from unstale_worker.rules import Rules
from workers import running_worker

PAGE = (Path(__file__).parents[2] / "docs" / "values.md").read_text()
KEYS = "2026a:" + "A" * 43 + "="


def blocks(language: str) -> list[str]:
    """Return the blocks of code in that language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


SEARCH, MODEL, LARGE, OLDER, USER_KEYS = blocks("python")
TAGS, INPUTS, BUDGET, READS = blocks("toml")
GREETING = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:greeting"]\n'
ADVICE = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:advice"]\n'


async def run(code: str, **names: Any) -> dict[str, Any]:
    """Run a block, which may await; return its names."""
    compiled = compile(code, "docs/values.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if inspect.isawaitable(result):
        await result
    return names


@pytest.fixture
async def cache(db: asyncpg.Connection, database: Database, redis_url: str) -> AsyncIterator[Cache]:
    """A cache beside a worker with the page's rules for tags and for reads."""
    await db.execute(
        "create table public.memories (id bigint primary key, user_id bigint);"
        "select unstale.watch('public.memories', '{user_id}')"
    )
    rules = RULES + ADVICE + TAGS + READS[READS.index("[reads") :]
    async with (
        running_worker(database.worker_dsn, redis_url, rules=rules),
        Cache.from_env(env_file=None, redis_url=redis_url) as cache,
    ):
        await eventually(lambda: cache.attached)
        yield cache


@pytest.mark.parametrize("block", [INPUTS, BUDGET, READS])
def test_the_rules_are_rules(block: str) -> None:
    (spec,) = Rules.parse(GREETING + ADVICE + block).refreshes
    assert spec.template.text == "user:{user_id}:greeting"


async def test_the_code_does_what_the_page_says(
    cache: Cache, db: asyncpg.Connection, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[int] = []

    def search() -> list[int]:
        searches.append(1)
        return [1]

    async def searched() -> bool:
        """Search, and return True if the loader was called."""
        before = len(searches)
        await run(SEARCH, cache=cache, user_id=42, query="tea", search=search)
        return len(searches) > before

    async def cached() -> bool:
        return not await searched()

    await eventually(cached)
    await db.execute("insert into memories values (1, 42)")
    await eventually(searched, message="a new memory invalidates the search")

    names = {"BaseModel": BaseModel, "Field": Field, "cache": cache}
    definition, _, call = MODEL.partition("\n\n\n")
    profile = (await run(definition, **names))["Profile"]
    promised = call.partition("# TypeError: ")[2].partition(" …")[0]
    with pytest.raises(TypeError, match=re.escape(promised)):
        await run(call, cache=cache, Profile=profile, load_profile=lambda: profile(name="Ada", password="x"))

    await run(LARGE, Cache=Cache)

    key, shown = "user:42:advice", list[str]()

    def down() -> object:
        raise ConnectionError

    await eventually(lambda: cache.inspect().rules.of(key).spare == 3600)
    assert await cache.get_or_load(key, lambda: "rest") == "rest"
    async with Redis.from_url(redis_url) as redis:
        await redis.unlink(key)  # its TTL ends
        cache.inspect().local.near.drop(key)
        found = await run(OLDER, cache=cache, key=key, load=down, show=shown.append)
        assert (found["greeting"], shown) == ("rest", ["This may be out of date."])
        assert (found["older"][0].reason, found["older"][0].age >= 0) == ("stale_if_error", True)

        asked: list[str] = []

        async def keys_of(statement: str, *user: str) -> str:
            asked.append(statement)
            return KEYS

        given = await run(
            USER_KEYS, kms=SimpleNamespace(decrypt=keys_of), db=SimpleNamespace(fetchval=keys_of),
            SHARED_KEYS="shared",
        )  # fmt: skip
        module = ModuleType("values_page_keys")
        module.__dict__.update(given)
        monkeypatch.setitem(sys.modules, "values_page_keys", module)
        settings: dict[str, Any] = {
            "value_key_function": "values_page_keys:value_keys",
            "value_key_users": "user:{user}:*",
        }
        async with Cache.from_env(env_file=None, redis_url=redis_url, **settings) as sealed:
            await eventually(lambda: sealed.attached)
            for name in ("user:42:secret", "shared:secret"):
                await sealed.get_or_load(name, lambda: "planted")
                stored: Any = await redis.get(name)
                assert b"planted" not in stored
        assert sorted(set(asked)) == ["select keys from user_keys where user_id = $1", "shared"]
