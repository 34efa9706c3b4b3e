"""Encode values as the JSON bytes that both tiers hold, and decode them."""

from functools import partial
from typing import Any, Final, NoReturn, cast

import orjson
from pydantic import BaseModel

from unstale.protocol import models
from unstale.protocol.models import Model
from unstale.protocol.names import LEASE, SOFT_LEASE, TAG, TAGGED
from unstale.protocol.plain_values import dumps

loads: Final = orjson.loads

MAX_KEY_BYTES: Final = 1024
"""Longest key in UTF-8; keys are sent in messages of at most 64 KiB."""

NOTHING: Final = b"null"
"""The JSON of None: "not found" is a value."""

UNPUBLISHED_TTL: Final = 60.0
"""Seconds that an owned value lives in a near cache if no ``[ttl]`` pattern names its key. The process that
filled it may have another ``default_ttl`` than the reader."""

_MARKER: Final = b"\x00"
_SPACE: Final = 0x20
_BITS: Final = 64


def check_key(key: str, *, own: str) -> str:
    """Return ``key``; raises ValueError if it is empty, over 1 KiB, not UTF-8, or begins with ``own``."""
    if not isinstance(key, str):
        raise TypeError(f"a cache key is a str, and this one is a {type(key).__name__}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"cache key {key!r} contains a lone surrogate, which Redis cannot store") from None
    if not 0 < size <= MAX_KEY_BYTES:
        raise ValueError(f"a cache key is 1 to {MAX_KEY_BYTES} bytes long, and {key[:60]!r}… has {size}")
    if key.startswith((own, TAG)):
        reserved = own if key.startswith(own) else TAG
        raise ValueError(
            f"cache key {key!r} begins with {reserved!r}, which unstale reserves; use another key"
        )
    return key


def encode(key: str, value: object, model: "Model | None" = None) -> bytes:
    """Return the JSON of ``value``, from which readers with ``model`` get an equal value.

    Raises TypeError that names the key and the place in the value if the value has no JSON form, or if its
    model would read it back different. Without ``model`` this holds for each pydantic model in the value,
    read back as its own class. Raises pydantic's ValidationError if ``model`` does not accept the value. The
    fingerprint of the model stands before the JSON (see `models.stamp`).
    """
    if model is not None and value is not None:
        data = _faithful(key, value, model)
        return data if data == NOTHING else models.stamp(model) + data
    data, place = _plain(key, value, round_trip=False)
    if place is not None:
        again, still = _plain(key, value, round_trip=True)
        if still is None:
            data = again
        elif place or still:
            raise TypeError(_changed(key, place or still))
    return models.stamp(type(value)) + data if isinstance(value, BaseModel) and data != NOTHING else data


def _plain(key: str, value: object, *, round_trip: bool) -> tuple[bytes, str | None]:
    """Return the JSON of a value, and the place of a model in it that its own class would read different.

    The place is '' if the class would not read it at all, which its readers notice.
    """
    found: list[tuple[BaseModel, object]] = []
    try:
        data = dumps(value, lambda item, plain: found.append((item, plain)), round_trip=round_trip)
    except TypeError as error:
        raise TypeError(
            f"the value for {key!r} is a {type(value).__name__} that is not JSON ({error}); "
            "store plain data or a pydantic model"
        ) from error
    place: str | None = None
    for item, plain in found:
        try:
            written = orjson.dumps(plain, option=orjson.OPT_NON_STR_KEYS)
            place = place or models.lost(item, models.validated(written, type(item)), type(item))
        except (ValueError, TypeError):
            place = place or ""
    return data, place


def _faithful(key: str, value: object, model: "Model") -> bytes:
    """Return JSON that ``model`` reads back equal; raises TypeError, or ValidationError.

    The plain form comes first, as programs without the model read it. If it does not do, then the form in
    which the model itself writes what it is to read again.
    """
    problem: Exception | None = None
    for form in (dumps, partial(models.dumps, model=model)):
        try:
            data = form(value, _ignore)
            back = None if data == NOTHING else models.validated(data, model)
            place = models.lost(value, back, model)
        except (ValueError, TypeError) as error:
            problem = problem or error
            continue
        if place is None:
            return data
        problem = problem or TypeError(_changed(key, place))
    assert problem is not None
    if isinstance(problem, TypeError) and not str(problem).startswith("the value for"):
        raise TypeError(
            f"the value for {key!r} is a {type(value).__name__} that is not JSON ({problem}); "
            "store plain data or a pydantic model"
        ) from problem
    raise problem


def _ignore(_model: BaseModel, _plain: object) -> None:
    """Leave models alone: the whole value is compared."""


def _changed(key: str, place: str) -> str:
    return (
        f"the value for {key!r} would be read back different: {place} is lost or changed on the way "
        "through JSON. See its alias, exclude=, serializer, validator or type; or cache plain data "
        "(model_dump(mode='json')) and read it without model="
    )


def decode(data: bytes, model: "Model | None") -> Any:
    """Return the value as a new object, validated by ``model``; null is always None.

    Fields are found by name or alias. Raises ValueError (or pydantic's ValidationError, a subclass) if the
    bytes are not a valid value, or were stored with a model of another schema.
    """
    if model is None or data.startswith(NOTHING):
        return orjson.loads(data)
    if data[0] <= _SPACE:  # not for the values of a loader without a model, such as the worker's
        models.check_stamp(data, model)
    if isinstance(model, type) and issubclass(model, BaseModel):  # inline: a hit with a model runs this
        return model.model_validate_json(data, by_alias=True, by_name=True)
    return models.validated(data, model)


def is_value(data: bytes) -> bool:
    """Return True if the content of a key is a value, not a lease or a key of another type."""
    return bool(data) and not data.startswith(_MARKER)


def is_nothing(data: bytes) -> bool:
    """Return True if a value is None, with or without an appended lease."""
    return data.startswith(NOTHING)


def shorter_lived(value: bytes) -> bytes:
    """Return ``value`` with a space behind its JSON text: it lives shorter than its key's rule says.

    Readers then ask how long before they keep it in their near cache; see `hides_its_life`.
    """
    return value + b" "


def hides_its_life(data: bytes) -> bool:
    """Return True if a value may live shorter than its key's rule says: white space follows its JSON text.

    That is `shorter_lived`, a lease, or a value that another program wrote.
    """
    return data[-1] <= _SPACE


def lease_suffix(token: int) -> bytes:
    """Return ``token`` (64 bits) encoded as white space, to be appended to a value's JSON text as its lease.

    JSON parsers ignore it, so readers are not affected, but a compare-and-set sees it. Whatever removes or
    replaces the value removes the lease with it.
    """
    return b"\n" + format(token, f"0{_BITS}b").translate({ord("0"): " ", ord("1"): "\t"}).encode()


def is_lease(data: bytes) -> bool:
    """Return True if the content of a key is a lease instead of a value."""
    return data.startswith(_MARKER) and not data.startswith(TAGGED)


def is_soft_lease(data: bytes) -> bool:
    """Return True if the content of a key is a soft lease, which a missed ``get`` left."""
    return data.startswith(SOFT_LEASE) and not data.startswith(TAGGED)


def is_tagged(data: bytes) -> bool:
    """Return True if the content of a key is a value that was stored under tags, or a lease for one.

    Only Redis can tell whether it is valid.
    """
    return data.startswith(TAGGED) or (is_lease(data) and b"\n" in data)


def lease(token: str, *, soft: bool = False) -> bytes:
    """Return the lease for ``token``: a key's content while the holder may fill the key."""
    return (SOFT_LEASE if soft else LEASE) + token.encode()


def freeze(value: object) -> object:
    """Return the JSON value with `FrozenDict` for dict and tuple for list, so that callers can share it."""
    if isinstance(value, dict):
        return FrozenDict({name: freeze(item) for name, item in value.items()})
    if isinstance(value, list):
        return tuple(freeze(item) for item in value)
    return value


class FrozenDict(dict[str, Any]):
    """An immutable dict. ``.copy()`` returns a plain dict, whose nested values are still frozen.

    It is a real dict, so ``orjson.dumps``, ``**unpacking`` and ``==`` work on it.
    """

    __slots__ = ()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict with the same items."""
        return dict(self)

    def __copy__(self) -> "FrozenDict":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> dict[str, Any]:
        return cast(dict[str, Any], _thaw(self))

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a shared value cannot be changed; read without shared=True for a copy of your own")

    __setitem__ = __delitem__ = update = clear = _refuse
    __ior__ = setdefault = pop = popitem = _refuse


def _thaw(value: object) -> object:
    if isinstance(value, dict):
        return {name: _thaw(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_thaw(item) for item in value]
    return value
