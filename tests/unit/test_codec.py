"""Codec: values to bytes and back, copies, models, frozen objects, and refused values."""

import copy
import pickle
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from unstale import FrozenDict
from unstale.protocol import codec
from unstale.protocol.names import LEASE, SOFT_LEASE

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Profile(BaseModel):
    name: str
    since: datetime


@given(JSON)
def test_json_comes_back_as_it_was(value: object) -> None:
    assert codec.decode(codec.encode("k", value), None) == value


@given(JSON)
def test_no_value_looks_like_a_lease(value: object) -> None:
    data = codec.encode("k", value)
    assert codec.is_value(data)
    assert not codec.is_soft_lease(data)


def test_leases_are_told_apart() -> None:
    assert codec.lease("abc") == LEASE + b"abc"
    assert not codec.is_value(codec.lease("abc"))
    assert not codec.is_soft_lease(codec.lease("abc"))
    assert codec.is_soft_lease(codec.lease("abc", soft=True))
    assert codec.lease("abc", soft=True) == SOFT_LEASE + b"abc"


def test_a_model_goes_in_and_comes_out() -> None:
    profile = Profile(name="Ada", since=datetime(2024, 5, 17, tzinfo=UTC))
    data = codec.encode("k", profile)
    assert codec.decode(data, Profile) == profile
    assert codec.decode(b"null", Profile) is None
    assert codec.decode(codec.encode("k", [profile]), None) == [
        {"name": "Ada", "since": "2024-05-17T00:00:00Z"}
    ]


def test_dates_and_uuids_are_written_as_text() -> None:
    value = {"at": datetime(2024, 5, 17, tzinfo=UTC), "id": UUID(int=1)}
    assert orjson.loads(codec.encode("k", value)) == {
        "at": "2024-05-17T00:00:00+00:00",
        "id": "00000000-0000-0000-0000-000000000001",
    }


@pytest.mark.parametrize("value", [object(), {"a": object()}, {1: "a"}, b"bytes", 2**70])
def test_what_is_not_json_is_refused_by_key_and_type(value: object) -> None:
    with pytest.raises(TypeError, match=rf"'user:42:profile' is a {type(value).__name__} that is not JSON"):
        codec.encode("user:42:profile", value)


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "1 to 1024 bytes"),
        ("é" * 513, "1 to 1024 bytes"),
        ("a\ud800", "lone surrogate"),
        ("{unstale:0}:state", "unstale reserves"),
    ],
)
def test_unusable_keys_are_refused(key: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        codec.check_key(key, own="{unstale:0}")


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="this one is a bytes"):
        codec.check_key(b"user", own="{unstale:0}")  # type: ignore[arg-type]  # the mistake that is tested


@given(JSON)
def test_frozen_values_are_equal_json(value: object) -> None:
    frozen = codec.freeze(value)
    assert orjson.loads(orjson.dumps(frozen)) == value
    if isinstance(frozen, FrozenDict):
        assert copy.deepcopy(frozen) == value


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.__setitem__("a", 1),
        lambda value: value.__delitem__("tags"),
        lambda value: value.update(a=1),
        lambda value: value.setdefault("a", 1),
        lambda value: value.pop("tags"),
        lambda value: value.popitem(),
        lambda value: value.clear(),
        lambda value: value.__ior__({"a": 1}),
    ],
)
def test_a_frozen_dict_cannot_be_changed(change: object) -> None:
    frozen = codec.freeze({"tags": ["a", {"deep": [1]}]})
    assert isinstance(frozen, FrozenDict)
    with pytest.raises(TypeError, match=r"without shared=True"):
        change(frozen)  # type: ignore[operator]  # parametrized lambdas
    assert frozen == {"tags": ("a", {"deep": (1,)})}


def test_copies_of_a_frozen_dict_can_be_changed() -> None:
    frozen = FrozenDict({"a": codec.freeze({"b": [1]})})
    assert copy.copy(frozen) is frozen
    deep = copy.deepcopy(frozen)
    deep["a"]["b"].append(2)
    shallow = frozen.copy()
    shallow["c"] = 3
    assert frozen == {"a": {"b": (1,)}}
    assert pickle.loads(pickle.dumps(frozen)) == frozen
