"""The near store: bounds, order of eviction, and TTL."""

import gc
import sys
import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unstale.near_cache.near_store import ENTRY_BYTES, FROZEN_FACTOR, NearStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def cost(key: str, length: int) -> int:
    return ENTRY_BYTES + sys.getsizeof(key) + length


def near_store(*, entries: int = 10, size: int = 10_000) -> tuple[NearStore, Clock]:
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
    near, _ = near_store(size=cost("a", 10))
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


@given(STEPS, st.integers(0, 4), st.integers(0, 4 * cost("a", 0)))
def test_it_behaves_like_a_plain_model(steps: list[tuple[object, ...]], entries: int, size: int) -> None:
    near, clock = near_store(entries=entries, size=size)
    model: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
    used: set[str] = set()

    def weight() -> int:
        return sum(cost(key, len(data)) for key, (data, _) in model.items())

    for step in steps:
        match step:
            case ("put", str(key), int(length), int(life)):
                near.put(key, b"x" * length, expires=clock.now + life)
                model.pop(key, None)
                used.discard(key)
                if entries and cost(key, length) <= size:
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


@pytest.mark.parametrize("entries", [1_000, 10_922, 10_930, 21_850])
@pytest.mark.parametrize(
    ("key", "length"), [("user:{}:profile", 1), ("é:{}", 1), ("😀{}", 40), ("{}" + "k" * 200, 500)]
)
def test_the_size_is_what_it_takes(entries: int, key: str, length: int) -> None:
    """Within a few percent, also just before and after the dict grows; never less than it takes."""
    near = NearStore(max_entries=entries, max_bytes=sys.maxsize, clock=lambda: 0.0)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(entries):
            near.put(key.format(number), b"%d" % (number % 10) * length, expires=float(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken <= near.size <= 1.3 * taken


def test_a_bound_in_bytes_holds_for_many_small_values() -> None:
    near = NearStore(max_entries=10**9, max_bytes=2_000_000, clock=lambda: 0.0)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(20_000):
            near.put(f"user:{number}:flag", b"1", expires=float(number))
        assert tracemalloc.get_traced_memory()[0] - before <= 2_200_000
    finally:
        tracemalloc.stop()
    assert 5_000 < len(near) < 10_000
