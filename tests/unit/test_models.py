"""Values that come back as they went in: kinds of fields, and fingerprints of schemas."""

import dataclasses
import enum
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, cast
from uuid import UUID, uuid4

import asyncpg
import orjson
import pydantic
import pytest
from asyncpg.pgproto import pgproto
from pydantic import (
    AliasChoices,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    RootModel,
    SecretStr,
    TypeAdapter,
    computed_field,
)
from typing_extensions import TypedDict

from unstale.protocol import codec, models

T = TypeVar("T")


class Stored(BaseModel):
    settings: Json[dict[str, int]] = Field(default_factory=dict)
    payload: bytes = b"a"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    id: UUID = UUID(int=1)
    tags: frozenset[str] = frozenset()

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own idiom
    @property
    def first(self) -> str:
        return min(self.tags, default="")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Decimal]


class Box(BaseModel, Generic[T]):
    item: T


class Aliased(BaseModel):
    name: str = Field(validation_alias=AliasChoices("Name", "n"), serialization_alias="NAME")


class Mood(enum.StrEnum):
    HAPPY = "happy"


class Pair(NamedTuple):
    at: datetime
    price: Decimal


@pydantic.dataclasses.dataclass
class Account:
    id: int
    _secret: str = dataclasses.field(default="", repr=False, compare=False)
    children: "list[Account]" = dataclasses.field(default_factory=list)


class Person(TypedDict, total=False):
    id: UUID
    address: IPv4Network


AT = datetime(2024, 3, 31, 1, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "model"),
    [
        (Stored(settings='{"a": 1}', payload=b"ab"), Stored),
        ([Stored(settings='{"a": 1}')], list[Stored]),
        (Strict(tags=frozenset({"b", "a"})), Strict),
        (Open.model_validate({"price": Decimal("1.10")}), Open),
        (Box[Decimal](item=Decimal("1.10")), Box[Decimal]),
        (Box[list[Pair]](item=[Pair(AT, Decimal(1))]), Box[list[Pair]]),
        (Aliased(Name="Ada"), Aliased),
        (RootModel[dict[int, UUID]]({1: UUID(int=1)}), RootModel[dict[int, UUID]]),
        (Pair(AT, Decimal(2)), Pair),
        (Account(1, "s", [Account(2)]), Account),
        ({"id": UUID(int=1), "address": IPv4Network("10.0.0.0/8")}, Person),
        ({1: "a"}, dict[int, str]),
        ({UUID(int=1): {1, 2}}, dict[UUID, set[int]]),
        (b"text", bytes),
        (Mood.HAPPY, Mood),
        (AT, datetime),
        ([None, 1], list[int | None]),
        ((), tuple[()]),
    ],
    ids=lambda case: getattr(case, "__name__", type(case).__name__),
)
def test_it_comes_back_equal(value: Any, model: Any) -> None:
    for one in (model, TypeAdapter(model)):
        back = codec.decode(codec.encode("k", value, one), one)
        assert back == value
        assert type(back) is type(value)
    assert not isinstance(value, Account) or back._secret == "s"


class ById(BaseModel):
    id: int
    plan: str = Field("free", exclude=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]  # as `__eq__` makes it


@dataclasses.dataclass
class Derived:
    a: int
    b: int = dataclasses.field(default=0, init=False, compare=False)


class Feeling(BaseModel):
    mood: Mood | str


class Binary(BaseModel):
    name: str = ""
    key: bytes


class Nested(BaseModel):
    inner: list[Binary]


class Callback(BaseModel):
    done: Callable[[], None]


class Password(BaseModel):
    secret: SecretStr


@dataclasses.dataclass
class Login:
    name: str
    password: SecretStr


def _assigned() -> Feeling:
    feeling = Feeling(mood="x")
    feeling.mood = 5  # type: ignore[assignment]  # the mistake that is tested
    return feeling


def _changed() -> Derived:
    derived = Derived(1)
    derived.b = 7
    return derived


@pytest.mark.parametrize(
    ("value", "model", "place"),
    [
        (ById(id=1, plan="pro"), ById, r"ById\.plan"),
        (Feeling(mood=Mood.HAPPY), Feeling, r"Feeling\.mood"),
        (_assigned(), Feeling, r"mood"),
        (Binary(key=b"\xff\x00"), Binary, r"\.key: Binary inside"),
        ([Binary(key=b"a"), Binary(key=b"\xff")], list[Binary], r"\[1\]\.key"),
        ({"a": Callback(done=print)}, dict[str, Callback], r"\['a'\]\.done"),
        (Password(secret=SecretStr("hunter2")), Password, r"Password\.secret"),
        (Login("Ada", SecretStr("hunter2")), Login, r"\.password: SecretStr inside"),
        ([(1, {"x": float("inf")})], list[Any], r"\[0\]\[1\]\['x'\]: it holds NaN or an infinity"),
        ({"r": {"span": asyncpg.Range(1, 2)}}, dict[str, Any], r"\['r'\]\['span'\]: a range inside: .*lower"),
        (RootModel[int | None](None), RootModel[int | None], r"RootModel"),
        ({"big": 2**70}, dict[str, Any], r"\['big'\]"),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_or_it_is_refused_by_name(value: Any, model: Any, place: str) -> None:
    with pytest.raises((TypeError, pydantic.ValidationError)) as refused:
        codec.encode("user:42", value, model)
    assert re.search(place, str(refused.value))
    assert "hunter2" not in str(refused.value)


def test_a_dataclass_whose_field_cannot_be_given_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Derived\.b"):
        codec.encode("k", _changed(), Derived)


class Column(BaseModel):
    id: UUID
    price: Decimal
    took: timedelta
    address: IPv4Address
    net: IPv4Network
    at: datetime


class Record(Mapping[str, Any]):
    """A row such as `asyncpg.Record`, which only a server can make."""

    def __init__(self, **columns: Any) -> None:
        self._columns = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __iter__(self) -> Any:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def test_a_row_is_read_back_equal_with_a_model_and_as_text_without() -> None:
    row = Record(
        id=pgproto.UUID("00000000-0000-0000-0000-000000000007"), price=Decimal("1.50"),
        took=timedelta(hours=1), address=IPv4Address("10.0.0.1"), net=IPv4Network("10.0.0.0/8"), at=AT,
    )  # fmt: skip
    expected = Column(**dict(row))
    assert codec.decode(codec.encode("k", row, Column), Column) == expected
    assert codec.decode(codec.encode("k", [row], list[Column]), list[Column]) == [expected]
    assert codec.decode(codec.encode("k", row), None) == {
        "id": "00000000-0000-0000-0000-000000000007",
        "price": "1.50",
        "took": "PT1H",
        "address": "10.0.0.1",
        "net": "10.0.0.0/8",
        "at": "2024-03-31T01:30:00+02:00",
    }


def test_bytes_as_base64_are_kept() -> None:
    value = TypeAdapter(dict[str, Base64Bytes]).validate_python({"a": b"/wA="})
    assert codec.decode(codec.encode("k", value, dict[str, Base64Bytes]), dict[str, Base64Bytes]) == value


# --- fingerprints -------------------------------------------------------------------------------


def version(name: str = "Profile", **fields: Any) -> type[BaseModel]:
    return pydantic.create_model(name, **fields)


OLD = version(id=int, plan=(str, "free"))


@pytest.mark.parametrize(
    "changed",
    [
        version(id=int, plan=(str, "free"), theme=(str, "dark")),
        version(id=int),
        version(id=str, plan=(str, "free")),
        version(id=int, plan=(str | None, "free")),
        version(id=int, plan=(Annotated[str, Field(max_length=3)], "free")),
        pydantic.create_model(
            "Profile", __config__=ConfigDict(json_schema_extra={"version": 2}), id=int, plan=(str, "free")
        ),
    ],
)
def test_a_value_of_another_schema_is_not_read(changed: Any) -> None:
    data = codec.encode("k", {"id": 1}, OLD)
    with pytest.raises(models.OtherSchema):
        codec.decode(data, changed)
    with pytest.raises(models.OtherSchema):
        codec.decode(codec.encode("k", OLD(id=1)), changed)  # a model carries its own
    assert codec.decode(data, OLD) == OLD(id=1)
    assert codec.decode(data, None) == orjson.loads(data) == {"id": 1}  # other programs read plain JSON
    assert codec.decode(b'{"id":"1"}', changed).id in (1, "1")  # without a model: it is only validated


@pytest.mark.parametrize(
    "same",
    [
        version("Renamed", id=int, plan=(str, "free")),
        version(id=int, plan=(str, "pro")),
        version(id=(int, Field(alias="ID", description="An id", title="Id")), plan=(str, "free")),
        TypeAdapter[Any](cast(Any, OLD) | None),
        TypeAdapter[Any](cast(Any, Annotated[OLD, Field(description="with a comment")])),
    ],
)
def test_names_and_defaults_make_no_other_schema(same: Any) -> None:
    assert models.stamp(same) == models.stamp(OLD)


def test_a_default_made_when_the_class_is_does_not_count() -> None:
    one, other = (version(id=(UUID, uuid4()), at=(datetime, datetime.now(UTC))) for _ in range(2))
    assert models.stamp(one) == models.stamp(other)


def test_a_field_named_like_a_silent_part_counts() -> None:
    assert models.stamp(version(title=str, default=int)) != models.stamp(version(title=str, default=str))


def test_none_and_plain_values_have_no_fingerprint() -> None:
    assert codec.encode("k", None, OLD) == b"null"
    assert codec.encode("k", {"id": 1}) == b'{"id":1}'
    assert codec.encode("k", [OLD(id=1)]) == b'[{"id":1,"plan":"free"}]'


def test_types_without_a_json_schema_have_a_fingerprint() -> None:
    kind = version(call=(Callable[[], int] | None, None), a=int)
    assert codec.decode(codec.encode("k", {"a": 1}, kind), kind).model_dump() == {"a": 1, "call": None}
    assert models.stamp(kind) != models.stamp(version(call=(Callable[[], int] | None, None), a=str))


def test_every_process_computes_the_same_fingerprint() -> None:
    """Sets, hashes and addresses differ from process to process."""
    program = (
        "from typing import *; from unstale.protocol import models; from pydantic import *\n"
        "class A(BaseModel):\n"
        "    kinds: frozenset[Literal['a','b','c','d']] = frozenset('abcd')\n"
        "    call: Callable[[], int] | None = None\n"
        "print(models.stamp(A))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert runs != {b""}
