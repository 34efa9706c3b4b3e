"""The feed sends one sample a second, whatever the load, and holds a bounded amount for a bounded number."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest

from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.observe import http, http_guard
from unstale_worker.observe.http_guard import Guard
from unstale_worker.page import feed as feeds
from unstale_worker.page.feed import KEPT, Feed
from unstale_worker.page.redis_figures import RedisFigures
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker, settings_for
from workers.page_stage import LEADING, served


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Read server-sent events."""
    kind = ""
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            kind = text[7:]
        elif text.startswith("data: "):
            yield kind, json.loads(text[6:])


async def test_it_tells_rates_and_the_newest_invalidations_with_their_reasons(
    database: Database, redis_url: str
) -> None:
    async with (
        connected(database.dsn) as connection,
        aiohttp.ClientSession(read_bufsize=1 << 20) as session,
    ):
        await connection.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url) as worker:
            settings = settings_for(database.worker_dsn, redis_url, http_port=0)
            async with (
                serving_page(settings, Rules.parse(PROFILES), worker.status) as url,
                session.get(f"{url}/api/feed") as response,
            ):
                assert response.content_type == "text/event-stream"
                told = events(response)
                kind, history = await anext(told)
                assert kind == "history"
                async with connection.transaction():
                    await connection.execute('select unstale.because(\'{"request": "r-17"}\')')
                    await connection.execute("insert into profiles select generate_series(1, 400)")
                rates = 0.0
                async with asyncio.timeout(60):
                    async for _, now in told:
                        rates += now["sample"][history["fields"].index("keys")]
                        if now["redis"] and now["redis"]["newest"] and rates:
                            break
                (*_, entry) = now["redis"]["newest"]
                assert entry["kind"] == "changes"
                assert entry["changes"][0]["table"] == "public.profiles"
                assert entry["changes"][0]["operation"] == "insert"
                assert entry["because"] == {"request": "r-17"}
                assert entry["key_count"] == 800
                assert len(entry["keys"]) < 10
                assert now["worker"]["role"] == "leading"
                assert now["redis"]["same_rules"] is True
                # A log that begins anew, with lower numbers, is shown as well.
                async with redis_at(redis_url) as redis:
                    await redis.delete(Names().state, Names().log)
                    await eventually(lambda: worker.status().counters.recoveries > 1)
                    await connection.execute("delete from profiles where id = 7")
                    async with asyncio.timeout(60):
                        async for _, now in told:
                            newest = now["redis"]["newest"] if now["redis"] else []
                            if newest and newest[0]["changes"][0]["operation"] == "delete":
                                break
                    assert [key for key in newest[0]["keys"] if key == "user:7:profile"]
                await told.aclose()  # type: ignore[attr-defined]


async def test_what_is_kept_is_bounded_and_redis_is_asked_only_for_watchers(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def read(self: object) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {}

    monkeypatch.setattr(RedisFigures, "read", read)
    monkeypatch.setattr(feeds, "EVERY", 0.0)
    feed = Feed(settings_for(None, redis_url), Rules.parse(PROFILES), lambda: LEADING)
    async with feed.running():
        await eventually(lambda: len(feed._kept) == KEPT)
        assert asked == 0
        watchers = [feed.watch() for _ in range(5)]
        for watcher in watchers:
            first = await anext(watcher)
            assert first.startswith(b"event: history\n")
            assert first.count(b"[", 0) <= KEPT + 5
        await asyncio.gather(*(anext(watcher) for watcher in watchers))
        assert asked >= 1
        assert feed.watching == 5
        await asyncio.sleep(0.2)
        assert len(feed._kept) == KEPT
        for watcher in watchers:
            await watcher.aclose()
        assert feed.watching == 0


async def test_a_watcher_stays_and_one_too_many_is_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "Guard", partial(Guard, silent_seconds=2.5))
    monkeypatch.setattr(http_guard, "STREAMS_MOST", 2)
    async with served() as (session, url), contextlib.AsyncExitStack() as open_feeds:
        first = await open_feeds.enter_async_context(session.get(f"{url}/api/feed"))
        second = await open_feeds.enter_async_context(session.get(f"{url}/api/feed"))
        async with session.get(f"{url}/api/feed") as response:
            assert response.status == 503
        told = events(first)
        for _ in range(5):  # five seconds: longer than a silent connection may last
            _, now = await anext(told)
        assert "Redis" in now["problem"]
        first.close()
        second.close()

        async def free() -> bool:
            async with session.get(f"{url}/api/feed") as response:
                return response.status == 200

        await eventually(free)
