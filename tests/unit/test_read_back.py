"""A value is read back equal from its JSON, or it is refused before it is stored."""

import dataclasses
import enum
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Interface
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    TypeAdapter,
    computed_field,
    field_serializer,
    field_validator,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from unstale.protocol import codec


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    display_name: str
    current_plan: str = "free"


class Renamed(BaseModel):
    plan: str = Field("free", validation_alias="Plan", serialization_alias="thePlan")


class Outer(BaseModel):
    inner: list[Camel]


class Computed(BaseModel):
    a: int

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def twice(self) -> int:
        return 2 * self.a


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Cached(BaseModel):
    a: int
    _client: object = PrivateAttr(default_factory=object)


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    _hidden: int = 0


class Everything(BaseModel):
    id: UUID = UUID(int=7)
    price: Decimal = Decimal("1.10")
    took: timedelta = timedelta(days=1, microseconds=1)
    at: datetime = datetime(2024, 5, 17, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=2)))
    day: date = date.max
    clock: time = time(1, 2, tzinfo=UTC)
    address: IPv4Address = IPv4Address("127.0.0.1")
    color: Color = Color.RED
    pair: tuple[int, str] = (1, "a")
    tags: frozenset[str] = frozenset({"a", "b"})
    by_number: dict[int, UUID] = {1: UUID(int=1)}
    points: list[Point] = [Point(1, 2)]
    anything: Any = None


class Row(TypedDict):
    id: UUID
    meta: dict[str, Any]


@pytest.mark.parametrize(
    ("value", "model"),
    [
        (Camel(displayName="Ada", currentPlan="pro"), Camel),
        (Outer(inner=[Camel(displayName="Ada", currentPlan="pro")]), Outer),
        ([Camel(displayName="Ada", currentPlan="pro")], list[Camel]),
        (Renamed(Plan="pro"), Renamed),
        (Computed(a=2), Computed),
        (Owner(pet=Cat(lives=3)), Owner),
        (Everything(), Everything),
        (Point(1, 2), Point),
        ({1, 2}, set[int]),
        ((1, "a"), tuple[int, str]),
        ({"id": uuid4(), "meta": {"at": (1, date.max)}}, Row),
        (Everything(anything=[1, {"a": None}]), Everything),
        (Decimal("0.1"), Decimal),
        (timedelta(days=-1), timedelta),
    ],
)
def test_a_value_with_a_model_is_read_back_equal(value: Any, model: Any) -> None:
    back = codec.decode(codec.encode("k", value, model), model)
    if isinstance(value, dict):  # what is annotated as Any comes back as plain JSON
        assert back == {"id": value["id"], "meta": {"at": [1, "9999-12-31"]}}
    else:
        assert back == value


def test_private_attributes_do_not_count() -> None:
    assert codec.decode(codec.encode("k", Cached(a=1), Cached), Cached).a == 1


def test_a_row_with_column_names_fills_a_model_with_aliases() -> None:
    row = {"display_name": "Ada", "current_plan": "pro"}
    assert codec.decode(codec.encode("k", row, Camel), Camel).current_plan == "pro"


class Hidden(BaseModel):
    plan: str = Field("free", exclude=True)


class Password(BaseModel):
    password: SecretStr = SecretStr("")


class Doubled(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def double(cls, x: int) -> int:
        return 2 * x


class Masked(BaseModel):
    card: str

    @field_serializer("card")
    def mask(self, card: str) -> str:
        return "*" * len(card)


class Either(BaseModel):
    value: datetime | str


class Loose(BaseModel):
    item: Camel


class Fancy(Camel):
    extra_field: int = 1


class Crossed(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    a: int = Field(1, alias="b")
    b: int = Field(2, alias="c")


class Number(BaseModel):
    ratio: float | None = None


@pytest.mark.parametrize("given_model", [True, False])
@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Hidden(plan="pro"), r"Hidden\.plan"),
        (Password(password=SecretStr("x")), r"Password\.password"),
        (Doubled(x=2), r"Doubled\.x"),
        (Masked(card="1234"), r"Masked\.card"),
        (Either(value="2024-05-17T00:00:00"), r"Either\.value"),
        (Loose(item=Fancy(displayName="Ada")), r"Loose\.item"),
        (Crossed(b=5, c=6), r"Crossed\.a"),
        (Number(ratio=float("nan")), "NaN"),
        (Number(ratio=float("-inf")), "NaN or an infinity"),
    ],
)
def test_a_model_that_would_be_read_back_different_is_refused(
    value: BaseModel, place: str, given_model: bool
) -> None:
    with pytest.raises(TypeError, match=rf"the value for 'user:42'.*{place}") as refused:
        codec.encode("user:42", value, type(value) if given_model else None)
    assert "1234" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "model", "place"),
    [
        ([Hidden(plan="pro")], list[Hidden], r"\[0\]\.plan"),
        ({"a": Masked(card="12")}, dict[str, Masked], r"\['a'\]\.card"),
        ({"a": str(UUID(int=1))}, dict[str, str | UUID], r"\['a'\]"),
        ((Masked(card="12"), 1), tuple[Masked, int], r"\[0\]\.card"),
    ],
)
def test_the_place_of_the_difference_is_named(value: Any, model: Any, place: str) -> None:
    for one in (model, TypeAdapter(model)):
        with pytest.raises(TypeError, match=place):
            codec.encode("k", value, one)


def test_a_model_inside_plain_data_is_compared_too() -> None:
    with pytest.raises(TypeError, match=r"Hidden\.plan"):
        codec.encode("k", {"a": [Hidden(plan="pro")]})


def test_a_default_that_differs_each_time_is_no_difference() -> None:
    class Stamped(BaseModel):
        name: str
        seen: UUID = Field(default_factory=uuid4)

    assert orjson.loads(codec.encode("k", {"name": "Ada"}, Stamped)) == {"name": "Ada"}


@pytest.mark.parametrize("value", [float("nan"), [1, float("inf")], {"a": {"b": (None, -float("inf"))}}])
def test_numbers_that_json_lacks_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="NaN or an infinity"):
        codec.encode("k", value)
    assert codec.encode("k", [None, {"a": None}]) == b'[null,{"a":null}]'


class Text(str):
    pass


class Whole(int):
    pass


class Fraction(float):
    pass


class Moment(datetime):
    pass


class Wrapped(enum.Enum):
    ID = UUID(int=1)
    PRICE = Decimal("1.5")


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (pgproto.UUID("00000000-0000-0000-0000-000000000007"), "00000000-0000-0000-0000-000000000007"),
        (Decimal("10.50"), "10.50"),
        (timedelta(days=1, hours=2), "P1DT2H"),
        (IPv4Address("10.0.0.1"), "10.0.0.1"),
        (IPv4Network("10.0.0.0/8"), "10.0.0.0/8"),
        (IPv6Interface("::1/64"), "::1/64"),
        (date(2024, 5, 17), "2024-05-17"),
        (time(1, 2, tzinfo=UTC), "01:02:00+00:00"),
        (Moment(2024, 5, 17, tzinfo=UTC), "2024-05-17T00:00:00+00:00"),
        (Wrapped.ID, "00000000-0000-0000-0000-000000000001"),
        (Wrapped.PRICE, "1.5"),
        (Text("a"), "a"),
        (Whole(3), 3),
        (Fraction(1.5), 1.5),
        (Pair(1, "b"), [1, "b"]),
        (asyncpg.Point(1.0, 2.0), [1.0, 2.0]),
        (PurePosixPath("/a"), "/a"),
        (MappingProxyType({"a": Decimal(1)}), {"a": "1"}),
        (OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), {"x": 1, "_hidden": 2}),
        ({"b", "a", "c"}, ["a", "b", "c"]),
    ],
)
def test_types_of_a_database_become_json(value: object, plain: object) -> None:
    assert orjson.loads(codec.encode("k", {"inside": [value]})) == {"inside": [plain]}


@pytest.mark.parametrize("value", [b"\x00", bytearray(b"a"), memoryview(b"a")])
def test_bytes_are_refused_with_a_remedy(value: object) -> None:
    with pytest.raises(TypeError, match=rf"{type(value).__name__} inside: .*base64"):
        codec.encode("k", {"a": value})


@pytest.mark.parametrize("value", [asyncpg.Range(1, 2), 1 + 2j, object(), {1: "a"}])
def test_types_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="that is not JSON"):
        codec.encode("k", value)


def test_a_row_with_two_columns_of_one_name_is_refused() -> None:
    class Joined:
        def keys(self) -> list[str]:
            return ["id", "name", "id"]

        def __getitem__(self, name: str) -> int:
            return 1

    with pytest.raises(TypeError, match="two columns 'id' inside"):
        codec.encode("k", Joined())


@given(
    st.builds(
        Everything,
        id=st.uuids(),
        price=st.decimals(allow_nan=False, allow_infinity=False),
        took=st.timedeltas(min_value=timedelta(days=-999), max_value=timedelta(days=999)),
        at=st.datetimes(timezones=st.just(UTC)),
        day=st.dates(),
        by_number=st.dictionaries(st.integers(-5, 5), st.uuids(), max_size=3),
        tags=st.frozensets(st.text(max_size=3), max_size=3),
    )
)
def test_any_model_is_read_back_equal_or_refused(value: Everything) -> None:
    try:
        data = codec.encode("k", value, Everything)
    except TypeError:
        return
    assert codec.decode(data, Everything) == value
