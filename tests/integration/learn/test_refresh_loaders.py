"""What Python loaders of refreshes read is recorded in the process that calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

import refresh_loaders
from servers import Database
from unstale_worker.learn.report import learn, read_recording
from unstale_worker.refresh.python.loader_calls import LoaderCalls
from unstale_worker.rules import Rules
from workers import connected, settings_for

RULES = """
[[watch]]
table = "public.orders"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "refresh_loaders:greeting"
"""


async def test_a_refresh_loader_is_charged_with_what_it_reads(
    database: Database, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh_loaders.reset()
    monkeypatch.setenv("UNSTALE_LEARN", str(tmp_path))
    async with connected(database.dsn) as db:
        await db.execute("create table public.profiles (id bigint primary key, name text)")
        rules = Rules.parse(RULES)
        async with LoaderCalls(settings_for(database.dsn, redis_url), rules) as calls:
            await calls.call(rules.refreshes[0], "user:7:greeting")
        found = learn(rules, read_recording(tmp_path))
        assert [(each.keys, each.table) for each in found.missing] == [("user:*:greeting", "public.profiles")]
