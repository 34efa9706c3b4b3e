"""Page 6: refresh. A value made by a model call is always available; the code is in docs/refresh.md."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest

from servers import Database, eventually
from services.api_double import StandIn
from unstale import Cache, ConnectionPool
from workers import running_worker

PAGE = Path(__file__).parents[2] / "docs" / "refresh.md"


def blocks(language: str) -> list[str]:
    """The page's code in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def greetings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's greetings.py, where the worker and the agent can import it."""
    (tmp_path / "greetings.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("greetings")
    del sys.modules["greetings"]


async def test_nobody_waits_for_the_model_twice(
    db: asyncpg.Connection, database: Database, redis_url: str, greetings: ModuleType
) -> None:
    async with (
        StandIn() as model,
        running_worker(database.dsn, redis_url, rules=blocks("toml")[0], **model.settings),
        Cache.from_env(env_file=None, redis_url=redis_url) as cache,
        ConnectionPool.from_env(env_file=None, database_url=database.dsn, **model.settings) as pool,
    ):
        await eventually(lambda: cache.attached)
        # The first reader waits for the model.
        assert await greetings.greet(cache, pool, 42) == "You said: Greet Ada in one sentence."

        # Her name changes. The model is slow today: readers get the greeting for the old name meanwhile.
        model.gate.clear()
        async with cache.subscribe("user:42:*") as events:
            await db.execute("update profiles set name = 'Ada Lovelace' where id = 42")
            await anext(events)
        assert await greetings.greet(cache, pool, 42) == "You said: Greet Ada in one sentence."
        await eventually(lambda: model.waiting == 1)  # the worker has asked; no reader did

        # It answers, and everybody has the new one.
        model.gate.set()

        async def new() -> bool:
            return "Lovelace" in await greetings.greet(cache, pool, 42)

        await eventually(new)
        assert model.requests["/v1/chat/completions"] == 2


def test_it_takes_twenty_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_pages_other_rules_are_rules() -> None:
    from unstale_worker.rules import Rules

    watches = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:profile", "user:{id}:friends"]\n'
    assert len(Rules.parse(watches + blocks("toml")[1]).refreshes) == 2
