"""Base class of all settings: checked when made, frozen, and read from the environment only by `from_env`."""

import re
from collections.abc import Iterator
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from unstale.errors import SettingError
from unstale.protocol.durations import MAX_SECONDS, seconds_of
from unstale.settings.environment import DOTENV, read_environment
from unstale.settings.expected import sentence


def _in_seconds(value: object) -> object:
    """Return the seconds of a timedelta or of a text like "1h30m"; numbers are left to pydantic."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    seconds = seconds_of(value)
    if seconds is None:
        raise ValueError("expected seconds, or a text such as '1h30m'")
    return seconds


AnyDuration = Annotated[float, BeforeValidator(_in_seconds)]
Seconds = Annotated[AnyDuration, Field(gt=0, le=86_400)]
LongSeconds = Annotated[AnyDuration, Field(gt=0, le=MAX_SECONDS)]
Count = Annotated[int, Field(ge=1)]


_NUMBER = re.compile(r"\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*|\s*")


class Variables(tuple[str, ...]):
    """Environment variables of a field that has no ``UNSTALE_`` name; the first that is set counts."""

    def __new__(cls, *names: str) -> "Variables":
        return super().__new__(cls, names)


class Settings(BaseModel):
    """Base class; an argument beats the environment, which beats ``.env``.

    The constructor takes arguments and defaults only. Raises `SettingError` for a value out of bounds, and
    TypeError for a name that is no setting of the class. Secrets print as ``**********``.

    Attributes:
        reader: Who reads these settings, for error messages.
        how: How to set one of them, for error messages; ``{field}`` and ``{variable}`` are replaced.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    reader: ClassVar[str] = ""
    how: ClassVar[str] = ""

    def __init__(self, **arguments: Any) -> None:
        for name in arguments:
            if name not in type(self).model_fields:
                raise TypeError(_unknown(type(self), name))
        try:
            super().__init__(**arguments)
        except ValidationError as error:
            raise SettingError("\n".join(_sentence(type(self), item) for item in error.errors())) from None

    @classmethod
    def from_env(cls, *, env_file: str | Path | None = DOTENV, **arguments: Any) -> Self:
        """Read the environment and ``env_file`` (None: no file); ``arguments`` beat both.

        Example:
            >>> AgentSettings.from_env(redis_url="redis://127.0.0.1:6380/0").max_silence
            5.0
        """
        return cls(**{**cls._given(read_environment(env_file)), **arguments})

    @classmethod
    def _given(cls, environment: dict[str, str]) -> dict[str, str]:
        """Return the values of this class' fields that the environment sets, by field name."""
        return {
            field: environment[name]
            for field in cls.model_fields
            for name in reversed(cls.variables(field))
            if name in environment
        }

    @classmethod
    def variables(cls, field: str) -> Variables:
        """Return the environment variables of ``field``, the one to use first."""
        named = [item for item in cls.model_fields[field].metadata if isinstance(item, Variables)]
        return named[0] if named else Variables(f"UNSTALE_{field.upper()}")

    @classmethod
    def classes(cls) -> Iterator[type["Settings"]]:
        """Iterate over all classes of settings below this one, each before its own subclasses."""
        for child in cls.__subclasses__():
            yield child
            yield from child.classes()


def _unknown(cls: type[Settings], name: str) -> str:
    """Say what to write instead of the argument ``name``, which ``cls`` does not have."""
    problem = f"{cls.__name__} has no setting {name!r}"
    others = [other for other in Settings.classes() if other.how and name in other.model_fields]
    if others:
        other = min(others, key=lambda other: len(other.model_fields))  # the worker has those of pools, too
        how = other.how.format(field=name, variable=other.variables(name)[0])
        return f"{problem}: it is a setting of {other.reader}; {how}"
    near = [field for field in cls.model_fields if field.startswith(name)]
    near = near or get_close_matches(name, cls.model_fields, n=1, cutoff=0.6)
    meant = " or ".join(map(repr, near[:3]))
    return f"{problem}; {f'did you mean {meant}?' if near else 'docs/settings.md lists them all'}"


def _sentence(cls: type[Settings], item: Any) -> str:
    where = ".".join(map(str, item["loc"]))
    if (field := cls.model_fields.get(where)) is not None:
        where = cls.variables(where)[0]
        if item["type"] != "value_error" or "such as '1h30m'" in item["msg"]:  # else it says what to do
            return sentence(where, field, item["input"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
