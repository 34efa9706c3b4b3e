"""Tags inside one process: near copies, reads in flight, events, the decorator and caches in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

import unstale.sync
from unstale import Cache, Invalidated
from unstale.errors import ConfigurationError
from unstale.near_cache.local_state import LocalState
from unstale.protocol.globs import escape_glob
from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import MAX_TAGS, check_tags, record
from unstale.testing import in_memory
from unstale_worker.doctor.findings import Severity
from unstale_worker.doctor.run import _rules as checked_rules

NOBODY = "redis://127.0.0.1:1/0"


def local(entries: int = 10) -> LocalState:
    return LocalState(max_entries=entries, max_bytes=1_000_000, clock=lambda: 0.0)


def kept(state: LocalState, key: str, *tags: str) -> None:
    read = state.in_flight.open(key, frozenset(tags))
    state.keep(read, b"1", seconds=9.0, trusted_until=9.0)
    state.in_flight.close(read)


def test_a_record_drops_exactly_the_values_with_its_tag() -> None:
    state = local()
    for key, tags in {"a": ("x", "y"), "b": ("y",), "c": (), "x": ()}.items():
        kept(state, key, *tags)
    whole = state.near.size
    assert state.drop([record("x")]) == 1
    assert [key for key in "abcx" if state.near.peek(key)] == ["b", "c", "x"]
    kept(state, "a", "x", "y")
    assert state.near.size == whole
    assert state.drop([], [record(escape_glob("y") + "*")]) == 2
    assert [key for key in "abcx" if state.near.peek(key)] == ["c", "x"]
    assert state.drop([record("y")]) == 0


def test_what_leaves_the_near_cache_leaves_the_index() -> None:
    """By eviction, a new value, a drop or a flush: nothing of a tag is kept that no value has."""
    state = local(entries=2)
    for number in range(50):
        kept(state, f"key:{number}", f"tag:{number}", "shared")
    assert len(state.near._by_tag) == 3
    kept(state, "key:49", "other")
    assert state.drop([record("shared")]) == 1
    assert state.near.peek("key:49") is not None
    state.drop(["key:49"])
    assert not state.near._by_tag
    kept(state, "a", "x")
    state.flush()
    assert not state.near._by_tag


@pytest.mark.parametrize("pattern", [False, True])
def test_a_tag_marks_the_reads_that_name_it(pattern: bool) -> None:
    state, woken = local(), list[str]()
    reads = {name: state.in_flight.open("key", frozenset(name)) for name in ("xy", "y", "")}
    for name, read in reads.items():
        read.on_invalidated = lambda name=name: woken.append(name)
    state.drop([] if pattern else [record("x")], [record("[x]")] if pattern else [])
    assert [name for name, read in reads.items() if not read.valid] == woken == ["xy"]
    state.keep(reads["xy"], b"1", seconds=9.0, trusted_until=9.0)
    assert state.near.peek("key") is None
    for read in reads.values():
        state.in_flight.close(read)
    assert not state.in_flight._tagged


def test_tags_are_checked() -> None:
    assert check_tags(["b", "a", "b"]) == ("a", "b")
    assert check_tags(tag for tag in "ba") == ("a", "b")
    wrong: list[tuple[object, type[Exception], str]] = [
        ("user:42", TypeError, "expected a list"),
        ([1], TypeError, "a tag is a str"),
        ([""], ValueError, "1 to 1000 bytes"),
        (["ö" * 501], ValueError, "1 to 1000 bytes"),
        (["\ud800"], ValueError, "lone surrogate"),
        (map(str, range(MAX_TAGS + 1)), ValueError, "at most 16 tags"),
    ]
    for tags, error, problem in wrong:
        with pytest.raises(error, match=problem):
            check_tags(tags)  # type: ignore[arg-type]


def test_doctor_points_from_globs_in_keys_to_tags(tmp_path: Path) -> None:
    path = tmp_path / "unstale.toml"
    path.write_text('[[watch]]\ntable = "t"\nkeys = ["search:{user_id}:*"]\ntags = ["x:*"]\n')
    _, findings = checked_rules(path)
    assert [finding.severity for finding in findings] == [Severity.OK, Severity.WARNING]
    assert findings[1].finding.startswith("search:{user_id}:* (line 1): a star in keys is part of the key")
    assert "docs/values.md" in findings[1].remedy


def test_a_rule_owns_tags_and_keys_apart() -> None:
    rules = PublishedRules("r", ("*:memories", record("user:*")))
    assert rules.owns("user:1:memories")
    assert rules.owns(record("user:1"))
    assert not rules.owns(record("team:1:memories"))


async def test_a_cached_function_has_tags_of_its_arguments() -> None:
    cache = Cache.from_env(env_file=None, redis_url=NOBODY)
    found = 0

    @cache.cached(
        "search:{user_id}:{text}", tags=["user:{user_id}:memories", "model"], ttl=60, ignore=["team"]
    )
    async def search(user_id: int | None, text: str, team: str = "a") -> int:
        nonlocal found
        found += 1
        return found

    assert search.tags(42, "cats") == ("user:42:memories", "model")
    with pytest.raises(ValueError, match="user_id is None"):
        search.tags(None, "cats")
    with in_memory() as caches:
        caches.own(tags=["user:*:memories"])
        assert [await search(1, "a"), await search(1, "b"), await search(2, "a"), await search(1, "a")] == [
            1, 2, 3, 1,
        ]  # fmt: skip
        async with cache.subscribe("user:*") as events:
            caches.change(tags=["user:1:memories"])
            event = await anext(events)
            assert isinstance(event, Invalidated)
            assert (event.keys, event.tags) == ((), ("user:1:memories",))
        assert [await search(1, "a"), await search(2, "a")] == [4, 3]
        await cache.invalidate_tag("model")
        assert caches.invalidated_tag("model")
        assert not caches.invalidated("*")
        assert [await search(1, "a"), await search(2, "a")] == [5, 6]
        assert await cache.set("owned", 1, tags=["user:1:memories"]) is False
        assert await cache.get("owned", tags=["user:1:memories"]) is None
        assert await cache.set("owned", 1, tags=["user:1:memories"]) is True
        await cache.invalidate_tags(["user:1:memories", "other"])
        assert await cache.get("owned") is None


@pytest.mark.parametrize(
    ("tags", "problem"),
    [("user", "must be a list"), (["{other}"], "must be a plain parameter"), (["{"], "tag '{'")],
)
def test_a_template_of_a_tag_that_does_not_fit_is_refused(tags: list[str], problem: str) -> None:
    cache = Cache.from_env(env_file=None, redis_url=NOBODY)
    decorate: Callable[..., object] = cache.cached("a:{user_id}", tags=tags)
    with pytest.raises(ConfigurationError, match=problem):

        @decorate
        async def load(user_id: int) -> int:
            return user_id


def test_the_cache_for_threads_knows_tags() -> None:
    cache = unstale.sync.Cache.from_env(env_file=None, redis_url=NOBODY)
    with in_memory():
        assert cache.get_or_load("a", lambda: 1, tags=["x"]) == 1
        assert cache.get_or_load("a", lambda: 2, tags=["x"]) == 1
        assert cache.get("a", tags=["x", "y"]) is None
        assert cache.get_or_load("a", lambda: 2, tags=["x", "y"]) == 2
        assert cache.get_many(["a", "b"], lambda keys: dict.fromkeys(keys, 3), tags=["x"]) == {"a": 2, "b": 3}
        cache.invalidate_tag("x")
        assert cache.get("a") is cache.get("b") is None
        cache.invalidate_tags(["x", "y"])
