"""The tools on real servers: what they do, what they never do, and what a model reads."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from servers import eventually
from services.api_double import StandIn
from unstale import Cache, ConnectionPool, RedisCache, ToolError, Tools
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import Loader, WorkerDouble, attached_cache

SEVEN = {
    "getConnectionPoolStats",
    "cleanupConnectionPool",
    "getRedisCacheStats",
    "clearUserCache",
    "invalidateCache",
    "getInvalidationStats",
    "refreshCache",
}
USERS = ("1", "10", "1*", "[1]", "?", "\\", "é", "{unstale", "*")


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    async with StandIn() as standin, ConnectionPool.from_env(env_file=None, **standin.settings) as pool:
        yield pool


@pytest.fixture
async def tools(cache: Cache, pool: ConnectionPool) -> Tools:
    return Tools(cache, pool, user_id=1)


async def fill(cache: Cache) -> None:
    for user in USERS:
        for name in ("profile", "settings", "note"):
            await cache.get(f"user:{user}:{name}")
            assert await cache.set(f"user:{user}:{name}", name, ttl=60)


async def left(double: WorkerDouble) -> set[str]:
    keys: Any = await double.redis.keys("*")
    return {key.decode() for key in keys if not key.startswith(b"{unstale:0}:")}


def all_keys(*, without: str = "") -> set[str]:
    return {
        f"user:{user}:{name}" for user in USERS for name in ("profile", "settings", "note") if user != without
    }


# --- each tool --------------------------------------------------------------------------------------


async def test_there_are_the_seven_with_schemas(tools: Tools) -> None:
    assert {tool.name for tool in tools} == SEVEN
    for definition in tools.openai():
        function: Any = definition["function"]
        assert definition["type"] == "function"
        assert function["strict"] is True
        assert function["parameters"]["additionalProperties"] is False
        assert function["parameters"]["required"] == list(function["parameters"]["properties"])
        assert 20 < len(function["description"]) < 250
    flat = tools.openai(api="responses")
    assert {each["name"] for each in flat} == SEVEN
    assert repr(tools) == "<Tools of user:1:*: 7>"


async def test_the_page_names_the_seven() -> None:
    page = (Path(__file__).parents[3] / "docs" / "tools.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\(", page, re.MULTILINE)) == SEVEN


async def test_the_pages_code_runs(cache: Cache, pool: ConnectionPool) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tools.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    messages: list[Any] = [{"role": "user", "content": "Forget what you know of me."}]
    scope: dict[str, Any] = {"cache": cache, "pool": pool, "openai": await pool.openai()}
    exec(f"async def page(messages):\n{textwrap.indent(code, '    ')}\n    return messages", scope)
    assert [message.content for message in (await scope["page"](messages))[1:]] == [
        "You said: Forget what you know of me."
    ]


async def test_without_a_pool_its_tools_are_not_offered(cache: Cache) -> None:
    tools = Tools(cache, user_id=1)
    assert {tool.name for tool in tools} == SEVEN - {"getConnectionPoolStats", "cleanupConnectionPool"}
    with pytest.raises(ToolError, match="no connection pool"):
        await tools.get_connection_pool_stats()


async def test_pool_stats_and_clean_up(tools: Tools, pool: ConnectionPool) -> None:
    await (await pool.openai()).models.list()
    stats = await tools.run("getConnectionPoolStats")
    assert stats == await pool.get_stats()
    assert await tools.run("cleanupConnectionPool", "{}") == {"cleaned": True, "status": "healthy"}
    after: Any = await tools.run("getConnectionPoolStats")
    assert after["dependencies"]["openai"]["requests"] == 0


async def test_cache_stats_have_these_fields(tools: Tools) -> None:
    stats = await tools.run("getRedisCacheStats")
    assert set(stats) >= {
        "enabled", "connected", "hit_rate", "cache_hits", "cache_misses", "redis_memory", "status",
    }  # fmt: skip
    assert stats["status"] == "healthy"


async def test_clearing_removes_this_user_everywhere(
    tools: Tools, cache: Cache, double: WorkerDouble, valkey: EmbeddedValkey
) -> None:
    await fill(cache)
    async with attached_cache(valkey.url) as other:
        assert await other.get("user:1:profile") == "profile"
        assert await tools.run("clearUserCache") == {"removed": 3}
        assert await left(double) == all_keys(without="1")
        await eventually(lambda: other.counters().near_entries == 0)


async def test_invalidating_by_pattern(tools: Tools, cache: Cache, double: WorkerDouble) -> None:
    await fill(cache)
    assert await tools.run("invalidateCache", {"pattern": "pro*"}) == {"removed": 1}
    assert await left(double) == all_keys() - {"user:1:profile"}


async def test_refreshing_loads_anew(cache: Cache, pool: ConnectionPool) -> None:
    loader = Loader({"name": "Ada"})
    tools = Tools(cache, pool, user_id=1, loaders={"profile": loader})
    assert await cache.get_or_load("user:1:profile", loader) == {"name": "Ada"}
    loader.value = {"name": "Grace"}
    assert await tools.run("refreshCache", {"key": "profile"}) == {
        "key": "profile", "refreshed": True, "found": True, "confirmed": True,
    }  # fmt: skip
    assert await cache.get("user:1:profile") == {"name": "Grace"}
    assert loader.calls == 2


async def test_refreshing_without_a_loader_removes(tools: Tools, cache: Cache) -> None:
    await fill(cache)
    result = await tools.run("refreshCache", {"key": "user:1:note"})
    assert (result["key"], result["refreshed"], result["removed"]) == ("note", False, True)
    assert await cache.get("user:1:note") is None


async def test_a_loader_that_fails_is_a_sentence_without_its_secrets(cache: Cache) -> None:
    def load() -> object:
        raise ConnectionError("postgres://ada:hunter2@db")

    tools = Tools(cache, user_id=1, loaders={"profile": load})
    with pytest.raises(ToolError, match=r"loading a new one failed \(ConnectionError\)") as caught:
        await tools.run("refreshCache", {"key": "profile"})
    assert "hunter2" not in str(caught.value)


async def test_invalidation_stats_show_this_users_changes_only(
    tools: Tools, cache: Cache, double: WorkerDouble
) -> None:
    await double.apply("user:1:profile", "user:10:profile", "user:2:secret")
    await double.apply("user:10:settings")
    await double.apply(patterns=["user:10:*"])
    await double.apply(patterns=["user:*:settings"])
    last = await double.apply("user:1:note")
    await eventually(lambda: cache.inspect().freshness.last == last)

    stats: Any = await tools.run("getInvalidationStats")

    assert stats["last_changes"] == [
        {"log_id": last, "keys": ["note"], "by_pattern": False},
        {"log_id": last - 1, "keys": [], "by_pattern": True},
        {"log_id": last - 4, "keys": ["profile"], "by_pattern": False},
    ]
    assert 0 <= stats["lag_seconds"] < 5
    assert 0 <= stats["watermark_age_seconds"] < 5
    assert stats["log_id"] == last
    assert stats["invalidations"] >= 5


async def test_results_are_small(
    tools: Tools, cache: Cache, pool: ConnectionPool, double: WorkerDouble
) -> None:
    await pool.warm()
    pool.openai_sync()
    for n in range(30):
        await double.apply(*(f"user:1:{n}:{m}" for m in range(50)))
    for tool in tools:
        arguments = {tool.argument[0]: "*"} if tool.argument else {}
        assert len(await tools.dispatch(tool.name, arguments)) < 1500, tool.name


# --- attacks ----------------------------------------------------------------------------------------


HOSTILE = (
    "*", "user:*", "user:1*", "user:10:*", "user:?:*", "[a-z]*", "**", "?*", "\\*", "\\", "*\\", "[", "[^",
    "]", "{*}", "../*", "*:profile", "\\:*", "u*", "{unstale:0}:*", "*{unstale:0}:log", "%2a", "＊",
    "\u202e*",
    "user:é:*", "user:1:*", "user:1:../user:10:*", "profile\nuser:10:profile", "profile user:10:profile",
)  # fmt: skip


@pytest.mark.parametrize("user", USERS)
async def test_no_argument_reaches_another_user(cache: Cache, double: WorkerDouble, user: str) -> None:
    tools = Tools(cache, user_id=user)
    protected = set(await double.redis.keys("{unstale:0}:*"))
    await fill(cache)
    for said in HOSTILE:
        for name, arguments in (
            ("invalidateCache", {"pattern": said}),
            ("refreshCache", {"key": said}),
            ("clearUserCache", {}),
        ):
            await tools.dispatch(name, arguments)
            assert await left(double) >= all_keys(without=user), (name, said)
    assert set(await double.redis.keys("{unstale:0}:*")) >= protected
    for other in USERS:
        expected = None if other == user else "profile"
        assert await cache.get(f"user:{other}:profile") == expected


@pytest.mark.parametrize("user_id", ["", "1:profile", None, " 1", True])
async def test_tools_for_nobody_cannot_be_made(cache: Cache, user_id: object) -> None:
    with pytest.raises(ValueError, match="user id"):
        Tools(cache, user_id=user_id)


async def test_the_user_cannot_be_chosen_by_an_argument(tools: Tools) -> None:
    for arguments in ({"user_id": "10"}, {"pattern": "*", "user_id": "10"}, {"key": "*"}, {}):
        with pytest.raises(ToolError, match="takes exactly the argument 'pattern'"):
            await tools.run("invalidateCache", arguments)
    with pytest.raises(ToolError, match="takes no arguments"):
        await tools.run("clearUserCache", {"user_id": "10"})


# --- dispatching ------------------------------------------------------------------------------------


async def test_the_clients_own_message_is_answered(tools: Tools, cache: Cache) -> None:
    await fill(cache)
    message = ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "clearUserCache", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "invalidateCache", "arguments": "{no"}},
                {"id": "c", "type": "function", "function": {"name": "dropDatabase", "arguments": "{}"}},
            ],
        }
    )  # fmt: skip
    answers = await tools.answer(message.tool_calls)  # type: ignore[arg-type]  # all are functions
    assert [each["tool_call_id"] for each in answers] == ["a", "b", "c"]
    assert {each["role"] for each in answers} == {"tool"}
    contents = [json.loads(each["content"]) for each in answers]
    assert contents[0] == {"removed": 3}
    assert contents[1] == {"error": "The arguments are not valid JSON."}
    assert contents[2]["error"].startswith(
        "There is no tool 'dropDatabase'. There are: getConnectionPoolStats,"
    )
    assert await tools.answer(None) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("[]", "JSON object"),
        ('"*"', "JSON object"),
        ('{"pattern": 42}', "has to be a string"),
        ('{"pattern": "user:2:*"}', "Only the current user's keys"),
        ("", "takes exactly"),
    ],
)
async def test_wrong_arguments_are_sentences(tools: Tools, arguments: str, sentence: str) -> None:
    assert sentence in json.loads(await tools.dispatch("invalidateCache", arguments))["error"]


async def test_a_redis_that_is_away_is_a_sentence(cache: Cache, valkey: EmbeddedValkey) -> None:
    tools = Tools(cache, user_id=1)
    await valkey.stop()
    for name, arguments in (("invalidateCache", {"pattern": "*"}), ("clearUserCache", {})):
        with pytest.raises(ToolError, match="Redis did not confirm"):
            await tools.run(name, arguments)
    result = await tools.run("refreshCache", {"key": "profile"})
    assert result["confirmed"] is False
    assert (await tools.run("getInvalidationStats"))["status"] == "unavailable"
    assert (await tools.run("getRedisCacheStats"))["connected"] is False


async def test_a_closed_cache_is_a_sentence(cache: Cache) -> None:
    tools = Tools(cache, user_id=1)
    await cache.close()
    with pytest.raises(ToolError, match="shutting down"):
        await tools.run("clearUserCache")


async def test_what_nobody_expected_is_a_sentence_and_logged(
    tools: Tools, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> dict[str, object]:
        raise KeyError("sb_secret")

    monkeypatch.setattr(pool, "get_stats", broken)
    said = await tools.dispatch("getConnectionPoolStats")
    assert "failed unexpectedly" in said
    assert "sb_secret" not in said
    assert "getConnectionPoolStats failed" in caplog.text


async def test_the_lazy_cache_will_do(double: WorkerDouble, valkey: EmbeddedValkey) -> None:
    async with RedisCache.from_env(env_file=None, redis_url=valkey.url) as cache:
        await cache.set("user:1:note", 1, ttl=60)
        tools = Tools(cache, user_id=1)
        assert await tools.run("clearUserCache") == {"removed": 1}
        assert (await tools.run("getInvalidationStats"))["status"] in ("healthy", "detached")


async def test_calls_at_once_do_not_mix(tools: Tools, cache: Cache) -> None:
    await fill(cache)
    results = await asyncio.gather(*(tools.run("getRedisCacheStats") for _ in range(20)))
    assert all(result["connected"] for result in results)
