"""Durations as texts: ``"1h30m"``. Pure."""

import re
from typing import Final

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
