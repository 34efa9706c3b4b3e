"""`@cache.cached`: keys made of arguments, models made of annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, TypeAdapter

from unstale import Cache, ConfigurationError
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble, attached_cache


class Profile(BaseModel):
    name: str
    age: int = 0


@dataclass
class Setting:
    name: str


async def test_an_argument_that_is_no_part_of_the_key_is_refused_unless_named(cache: Cache) -> None:
    async def profile(database: str, user_id: int) -> str:
        return database

    with pytest.raises(ConfigurationError, match="database is not part of the key"):
        cache.cached("user:{user_id}:profile")(profile)
    with pytest.raises(ConfigurationError, match="ignore names 'databas'"):
        cache.cached("user:{user_id}:profile", ignore=["databas"])(profile)
    cached = cache.cached("user:{user_id}:profile", ignore=["database"])(profile)
    assert await cached("one", 42) == "one"
    assert await cached("two", 42) == "one"
    assert cached.key("three", user_id=42) == "user:42:profile"


async def test_a_call_is_a_read_through_both_tiers(cache: Cache, double: WorkerDouble) -> None:
    calls: list[int] = []

    @cache.cached("user:{user_id}:profile", ttl=60)
    async def profile(user_id: int) -> dict[str, Any]:
        """What it says."""
        calls.append(user_id)
        return {"n": len(calls)}

    assert await profile(42) == {"n": 1}
    assert await profile(user_id=42) == {"n": 1}
    assert await profile(7) == {"n": 2}
    assert calls == [42, 7]
    assert profile.key(42) == "user:42:profile"
    assert profile.__doc__ == "What it says."
    assert vars(profile)["__name__"] == "profile"
    assert orjson.loads(await double.redis.get("user:42:profile") or b"") == {"n": 1}
    assert await double.redis.pttl("user:42:profile") <= 60_000

    async with cache.subscribe("user:42:*") as events:
        await double.apply("user:42:profile")
        await anext(events)
    assert await profile(42) == {"n": 3}
    assert await profile.fresh(42) == {"n": 4}
    await profile.invalidate(42)
    assert await profile(42) == {"n": 5}


async def test_annotations_are_validated_into(cache: Cache) -> None:
    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int) -> Profile | None:
        return Profile(name="Ada") if user_id else None

    @cache.cached("user:{user_id}:settings")
    async def settings(user_id: int) -> list[Setting]:
        return [Setting("a"), Setting("b")]

    for _ in range(2):
        assert await profile(42) == Profile(name="Ada")
        assert await profile(0) is None
        assert await settings(42) == [Setting("a"), Setting("b")]


async def test_a_cached_value_of_an_older_model_is_loaded_again(
    cache: Cache, valkey: EmbeddedValkey, double: WorkerDouble
) -> None:
    await double.redis.set("user:42:profile", b'{"title":"x"}', ex=60)
    calls = 0

    @cache.cached("user:{user_id}:profile", model=TypeAdapter(list[Profile]))
    async def profiles(user_id: int) -> Any:
        nonlocal calls
        calls += 1
        return [{"name": "Ada"}]

    assert await profiles(42) == [Profile(name="Ada")]
    async with attached_cache(valkey.url) as other:
        adapter = TypeAdapter(list[Profile])
        assert await other.get("user:42:profile", model=adapter) == [Profile(name="Ada")]
    assert calls == 1


async def test_methods_keep_their_self(cache: Cache) -> None:
    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache.cached("user:{user_id}:settings")
        async def settings(self, user_id: int) -> dict[str, Any]:
            return {"by": self.name}

    service = Service("one")
    assert await service.settings(42) == {"by": "one"}
    assert await Service("two").settings(42) == {"by": "one"}  # the same key
    assert service.settings.key(42) == "user:42:settings"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("user:{id}:profile", "no parameter 'id'; it has: user_id"),
        ("user:{user_id.name}", "must be a plain parameter name"),
        ("user:{user_id:03d}", "must be a plain parameter name"),
        ("user:{}", "must be a plain parameter name"),
        ("user:{user_id", "expected '}'"),
        ("user", "user_id is not part of the key"),
        ("user:{user_id}{user_id}", "nothing stands between {user_id} and {user_id}"),
    ],
)
async def test_a_template_that_does_not_fit_is_refused_where_it_stands(
    cache: Cache, template: str, sentence: str
) -> None:
    async def profile(user_id: int) -> None: ...

    with pytest.raises(ConfigurationError, match=sentence):
        cache.cached(template)(profile)


async def test_what_is_no_coroutine_function_is_refused(cache: Cache) -> None:
    with pytest.raises(ConfigurationError, match="async def"):
        cache.cached("user:{user_id}")(lambda user_id: None)  # type: ignore[arg-type,return-value]


async def test_wrong_arguments_are_the_functions_own_errors(cache: Cache) -> None:
    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int | None) -> None: ...

    with pytest.raises(TypeError, match="user_id"):
        await profile()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="user_id is None"):
        await profile(None)


async def test_different_arguments_never_have_the_same_key(cache: Cache) -> None:
    """Else one caller would be answered with what was found for another."""

    @cache.cached("found:{tenant}:in::{text}")
    async def found(tenant: str, text: str) -> str:
        return f"{text} of {tenant}"

    assert await found("a", "b:in::c") == "b:in::c of a"
    with pytest.raises(ValueError, match=r"tenant .* holds ':in::'"):
        await found("a:in::b", "c")
    assert found.key("a:in", "b") == "found:a:in:in::b"
    for tenant in ("a:in:", "a:in::", "a:in:in::", ":in::"):
        with pytest.raises(ValueError, match="tenant"):
            found.key(tenant, "x")

    @cache.cached("{text}:::{more}")
    async def overlapping(text: str, more: str) -> str:
        return text

    assert overlapping.key("a", ":b") == "a::::b"
    with pytest.raises(ValueError, match="text"):
        overlapping.key("a:", "b")


async def test_an_annotation_that_pydantic_cannot_read_is_named(cache: Cache) -> None:
    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="return annotation"):
        await profile(1)
