"""Durations in calls and settings: seconds, a timedelta, or a text."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

import unstale.sync
from unstale import AgentSettings, Cache, SettingError
from unstale.protocol.durations import in_seconds
from unstale.settings import PoolSettings, WorkerSettings
from unstale.testing import in_memory

NOBODY = "redis://127.0.0.1:1/0"
KEY = "k:1"
SAME = [90, 90.0, timedelta(seconds=90), "90s", "1m30s", "90000ms"]
READ_OPTIONS = ("ttl", "negative_ttl", "max_staleness", "soft_timeout", "stale_if_error")

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def cache() -> Cache:
    """A cache at module level, whose Redis does not exist."""
    return Cache.from_env(env_file=None, redis_url=NOBODY)


def load_many(keys: list[str]) -> dict[str, int]:
    return dict.fromkeys(keys, 1)


def calls(cache: Cache) -> dict[str, tuple[Call, tuple[str, ...]]]:
    """Every call of a cache that takes durations, and their names."""

    async def cached(**options: Any) -> Any:
        @cache.cached("k:{n}", **options)
        async def one(n: int) -> int:
            return n

        return await one(1)

    async def lock(**options: Any) -> None:
        async with cache.lock("l", **options):
            pass

    async def extend(**options: Any) -> None:
        async with cache.lock("l") as held:
            await held.extend(**options)

    return {
        "get_or_load": (partial(cache.get_or_load, KEY, lambda: 1), READ_OPTIONS),
        "get_many": (partial(cache.get_many, [KEY], load_many), READ_OPTIONS),
        "get_many of what is cached": (partial(cache.get_many, [KEY]), READ_OPTIONS),
        "get": (partial(cache.get, KEY), ("max_staleness",)),
        "set": (partial(cache.set, KEY, 1), ("ttl",)),
        "cached": (cached, tuple(name for name in READ_OPTIONS if name != "max_staleness")),
        "lock": (lock, ("ttl", "timeout")),
        "extend": (extend, ("ttl",)),
        "wait_for": (partial(cache.wait_for, "1:1:1:0/1"), ("timeout",)),
    }


@pytest.mark.parametrize("duration", SAME, ids=repr)
async def test_a_value_lives_as_long_however_that_is_written(cache: Cache, duration: Any) -> None:
    for name in ("get_or_load", "get_many", "set", "cached"):
        with in_memory() as caches:
            await calls(cache)[name][0](ttl=duration)
            caches.clock.advance(89)
            assert await cache.get(KEY) == 1, name
            caches.clock.advance(2)
            assert await cache.get(KEY) is None, name


@pytest.mark.parametrize("duration", SAME, ids=repr)
async def test_every_call_takes_every_form(cache: Cache, duration: Any) -> None:
    with in_memory():
        for call, options in calls(cache).values():
            for option in options:
                await call(**{option: duration})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("soon", ValueError),
        ("", ValueError),
        ("1 h", ValueError),
        (timedelta(seconds=-1), ValueError),
        (float("nan"), ValueError),
        (-1, ValueError),
        (1e12, ValueError),
        (timedelta.max, ValueError),
        (True, TypeError),
        (b"1h", TypeError),
        ([1], TypeError),
    ],
    ids=repr,
)
async def test_anything_else_is_refused_by_the_name_of_the_option(
    cache: Cache, wrong: Any, error: type[Exception]
) -> None:
    with in_memory():
        for call, options in calls(cache).values():
            for option in options:
                with pytest.raises(error, match=rf"^{option} is .*expected seconds from .*'1h30m'"):
                    await call(**{option: wrong})


def test_blocking_calls_take_them_as_well() -> None:
    with in_memory() as caches, unstale.sync.Cache.from_env(env_file=None, redis_url=NOBODY) as cache:
        assert cache.set(KEY, 1, "1m30s")
        caches.clock.advance(89)
        assert cache.get(KEY, max_staleness=timedelta(minutes=1)) in (1, None)
        caches.clock.advance(2)
        assert cache.get(KEY) is None
        with cache.lock("l", ttl="1m", timeout=timedelta(seconds=1)) as held:
            held.extend("2m")
        with pytest.raises(ValueError, match=r"^ttl is 'soon'"):
            cache.cached("k:{n}", ttl="soon")


@pytest.mark.parametrize("duration", SAME, ids=repr)
def test_settings_take_every_form(duration: Any) -> None:
    settings = AgentSettings(redis_url=NOBODY, default_ttl=duration, detached_ttl=duration)
    assert settings.default_ttl == settings.detached_ttl == 90


def test_a_setting_that_is_no_duration_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^UNSTALE_DEFAULT_TTL is .*'1h30m'"):
        Cache.from_env(env_file=None, redis_url=NOBODY, default_ttl="soon")


def test_bounds_belong_to_the_option() -> None:
    assert in_seconds(None, name="ttl", least=0) is None
    assert in_seconds(0, name="stale_if_error", least=0) == 0
    with pytest.raises(ValueError, match=r"^ttl is '1d1s': expected seconds from 0\.001 to 86400"):
        in_seconds("1d1s", name="ttl", least=0.001, most=86_400)


SHARES = {"ttl_jitter", "audit_share"}
"""Settings that are numbers and no durations."""


@pytest.mark.parametrize("kind", [AgentSettings, WorkerSettings, PoolSettings])
def test_every_setting_that_is_a_duration_takes_every_form(kind: type[BaseModel]) -> None:
    durations = {
        name: 1.0 if field.default is None else field.default
        for name, field in kind.model_fields.items()
        if "float" in str(field.annotation) and name not in SHARES
    }
    assert len(durations) > 3
    for name, seconds in durations.items():
        forms = [timedelta(seconds=seconds)] + ([f"{seconds * 1000:.0f}ms"] if seconds >= 0.001 else [])
        for form in forms:
            assert getattr(kind(**{name: form}), name) == seconds, name
