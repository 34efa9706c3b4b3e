"""Durations: seconds, a timedelta, or a text such as ``"1h30m"``. Pure."""

import re
from datetime import timedelta
from typing import Final, overload

Duration = float | str | timedelta
"""Seconds as a number, a timedelta, or a text such as ``"1h30m"``."""

MAX_SECONDS: Final = 10 * 365 * 86_400
"""Longest duration: ten years."""

_DURATION: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?:(\d{1,9})ms)?")


def seconds_of(text: str) -> float | None:
    """Return the seconds of a text like ``"1h30m"`` or ``"250ms"``; None for any other text."""
    match = _DURATION.fullmatch(text) if text else None
    if match is None:
        return None
    days, hours, minutes, seconds, thousandths = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + thousandths / 1000


@overload
def in_seconds(duration: Duration, *, name: str, least: float, most: float = ...) -> float: ...


@overload
def in_seconds(duration: Duration | None, *, name: str, least: float, most: float = ...) -> float | None: ...


def in_seconds(
    duration: Duration | None, *, name: str, least: float, most: float = MAX_SECONDS
) -> float | None:
    """Return the seconds of the option ``name``; None stays None.

    Raises ValueError for less than ``least`` or more than ``most`` seconds, and for a text of another form;
    TypeError for another type.
    """
    if duration is None:
        return None
    seconds: float | None
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds = seconds_of(duration)
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        seconds = float(duration)
    else:
        raise TypeError(f"{name} is {duration!r}: expected {_expected(least, most)}")
    if seconds is None or not least <= seconds <= most:
        raise ValueError(f"{name} is {duration!r}: expected {_expected(least, most)}")
    return seconds


def _expected(least: float, most: float) -> str:
    return f"seconds from {least:g} to {most:.10g}, a timedelta, or a text such as '1h30m'"
