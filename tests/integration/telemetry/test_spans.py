"""Spans lead from the transaction that changed a row to the first fresh read in each process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from servers import Database, eventually
from unstale import Cache
from unstale.reading.read_path import ReadPath
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker
from workers.refresh_stage import due, filled

KEY = "user:42:profile"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EXPORTER = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Collect spans; a process has one provider for all its life."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def linked(span: ReadableSpan) -> list[str]:
    return [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links]


def has_heard_more(cache: Cache, before: int) -> bool:
    return cache.counters().invalidations > before


async def test_the_first_fresh_read_of_each_process_is_linked_to_the_change(
    database: Database, redis_url: str, spans: InMemorySpanExporter
) -> None:
    first, second = (Cache.from_env(env_file=None, redis_url=redis_url, otel=True) for _ in range(2))
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url), first, second:
            await eventually(lambda: first.attached and second.attached)
            for cache in (first, second):
                assert await cache.get_or_load(KEY, lambda: "old") == "old"
            assert named(spans, "unstale.read") == []
            for annotation, links in (
                ({"traceparent": f"00-{TRACE}-{SPAN}-01"}, [f"{TRACE}-{SPAN}"]),
                ({"traceparent": "00-nonsense"}, []),
                ({"traceparent": 7}, []),
                ({"request": "r-17"}, []),
            ):
                spans.clear()
                heard = [cache.counters().invalidations for cache in (first, second)]
                async with db.transaction():
                    await db.execute("select unstale.because($1)", json.dumps(annotation))
                    await db.execute(
                        "insert into profiles (id) values (42) on conflict (id) do update set name = 'x'"
                    )
                for cache, before in zip((first, second), heard, strict=True):
                    await eventually(partial(has_heard_more, cache, before))
                for _ in range(2):  # the second read of each is a hit in memory
                    for cache in (first, second):
                        assert await cache.get_or_load(KEY, lambda: "new") == "new"
                one, other = named(spans, "unstale.read")
                assert [linked(one), linked(other)] == [links, links]
                assert one.attributes is not None
                assert other.attributes is not None
                assert one.attributes["unstale.key"] == KEY
                assert [one.attributes["unstale.origin"], other.attributes["unstale.origin"]] == [
                    "loader",
                    "redis",
                ]
                (load,) = named(spans, "unstale.load")
                assert load.parent is not None
                assert one.context is not None
                assert load.parent.span_id == one.context.span_id


async def test_a_loader_that_fails_is_recorded(redis_url: str, spans: InMemorySpanExporter) -> None:
    def fails() -> str:
        raise LookupError("no such user")

    async with Cache.from_env(env_file=None, redis_url=redis_url, otel=True) as cache:
        with pytest.raises(LookupError):
            await cache.get_or_load(KEY, fails)
    (load,) = named(spans, "unstale.load")
    assert not load.status.is_ok
    assert load.events[0].name == "exception"


async def test_a_worker_makes_a_span_of_each_refresh(
    database: Database, redis_url: str, spans: InMemorySpanExporter
) -> None:
    rules = PROFILES + '[refresh."user:{user_id}:profile"]\nloader = "row"\n'
    rules += 'table = "public.profiles"\nkey = "id"\n'
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles (id, name) values (42, 'Ada')")
        async with running_worker(database.dsn, redis_url, rules=rules, otel=True):
            await due(redis, KEY)
            await filled(redis, KEY)
    (span, *_) = named(spans, "unstale.refresh")
    assert span.attributes is not None
    assert span.attributes["unstale.key"] == KEY
    assert span.attributes["unstale.refresh"] == "user:{user_id}:profile"


async def test_without_the_setting_the_read_path_is_the_plain_one(redis_url: str) -> None:
    async with Cache.from_env(env_file=None, redis_url=redis_url) as cache:
        assert type(cache._parts.path) is ReadPath
        assert cache._parts.local._listener is cache._parts.subscriptions
