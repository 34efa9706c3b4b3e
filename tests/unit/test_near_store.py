"""The near store: bounds, order of eviction, and TTL."""

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.near_cache.near_store import FROZEN_FACTOR, NearStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def near_store(*, entries: int = 10, size: int = 1_000) -> tuple[NearStore, Clock]:
    clock = Clock()
    near = NearStore(max_entries=entries, max_bytes=size, clock=clock)
    return near, clock


def test_a_value_is_served_until_it_expires() -> None:
    near, clock = near_store()
    near.put("a", b"1", expires=5.0)
    assert near.read("a") is not None
    clock.now = 5.0
    assert near.read("a") is None
    assert len(near) == 0
    assert near.size == 0


def test_the_least_recently_read_goes_first() -> None:
    near, _ = near_store(entries=2)
    near.put("a", b"1", expires=9.0)
    near.put("b", b"2", expires=9.0)
    near.read("a")
    near.put("c", b"3", expires=9.0)
    assert [near.read(key) is not None for key in "abc"] == [True, False, True]
    assert near.evictions == 1


def test_a_value_larger_than_the_cache_is_not_held_and_evicts_nobody() -> None:
    near, _ = near_store(size=10)
    near.put("a", b"1", expires=9.0)
    near.put("b", b"x" * 11, expires=9.0)
    assert near.read("a") is not None
    assert near.read("b") is None


def test_no_entries_means_off() -> None:
    near, _ = near_store(entries=0)
    near.put("a", b"1", expires=9.0)
    assert near.read("a") is None


def test_a_shared_object_is_counted_and_goes_with_its_entry() -> None:
    near, _ = near_store()
    near.put("a", b"[1]", expires=9.0)
    entry = near.read("a")
    assert entry is not None
    plain = near.size
    near.share("a", entry, (1,))
    assert near.size == plain + FROZEN_FACTOR * 3
    near.drop("a")
    assert near.size == 0
    near.share("a", entry, (1,))  # its entry is gone: nothing to count
    assert near.size == 0


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("user:*:profile", {"user:1:state"}),
        ("*", set()),
        ("x*", {"user:1:profile", "user:2:profile", "user:1:state"}),
    ],
)
def test_patterns_drop_what_they_match(pattern: str, left: set[str]) -> None:
    near, _ = near_store()
    for key in ("user:1:profile", "user:2:profile", "user:1:state"):
        near.put(key, b"1", expires=9.0)
    dropped = near.drop_matching([pattern])
    assert {key for key in ("user:1:profile", "user:2:profile", "user:1:state") if near.read(key)} == left
    assert dropped == 3 - len(left)


KEYS = st.sampled_from(["a", "bb", "ccc", "dddd", "é"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 12), st.integers(1, 5)),
        st.tuples(st.just("read"), KEYS),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("pass"), st.integers(1, 3)),
        st.tuples(st.just("clear")),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 4), st.integers(0, 30))
def test_it_behaves_like_a_plain_model(steps: list[tuple[object, ...]], entries: int, size: int) -> None:
    near, clock = near_store(entries=entries, size=size)
    model: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
    used: set[str] = set()

    def weight() -> int:
        return sum(len(key) + len(data) for key, (data, _) in model.items())

    for step in steps:
        match step:
            case ("put", str(key), int(length), int(life)):
                near.put(key, b"x" * length, expires=clock.now + life)
                model.pop(key, None)
                used.discard(key)
                if entries and len(key) + length <= size:
                    model[key] = (b"x" * length, clock.now + life)
                    while len(model) > entries or weight() > size:
                        oldest = next(iter(model))
                        if oldest in used:
                            used.discard(oldest)
                            model.move_to_end(oldest)
                        else:
                            del model[oldest]
            case ("read", str(key)):
                entry = near.read(key)
                wanted = model.get(key)
                if wanted is not None and clock.now >= wanted[1]:
                    del model[key]
                    used.discard(key)
                    wanted = None
                if wanted is not None:
                    used.add(key)
                assert (entry.data if entry else None) == (wanted[0] if wanted else None)
            case ("drop", str(key)):
                assert near.drop(key) == (model.pop(key, None) is not None)
                used.discard(key)
            case ("pass", int(seconds)):
                clock.now += seconds
            case _:
                near.clear()
                model.clear()
                used.clear()
        assert len(near) == len(model) <= entries
        assert near.size == weight() <= size


def test_a_pattern_drops_what_it_drops_in_redis() -> None:
    near, _ = near_store()
    keys = ("A!", "Ab", "é1", "other")
    for key in keys:
        near.put(key, b"1", expires=9.0)
    assert near.drop_matching(["A[a-é]", "é[0-9]", "nothing*"]) == 2  # 'b' is outside -61 to 97, '!' is not
    assert [key for key in keys if near.read(key)] == ["Ab", "other"]
