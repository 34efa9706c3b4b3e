"""Pauses that OpenAI asks for when its rate limit is reached."""

import re
import sys
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 600.0
"""Seconds for which a loader pauses at most: a larger number is a mistake or a used-up quota."""
UNNAMED: Final = 5.0
"""Seconds to pause when the refusal does not say for how long."""

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def pause_for(error: BaseException) -> float | None:
    """Return the seconds to pause after ``error``, or None if it is not a reached rate limit.

    A used-up quota is not: waiting does not help against that.
    """
    openai = sys.modules.get("openai")  # a loader that met such an error has imported it
    if openai is None or not isinstance(error, openai.RateLimitError):
        return None
    if error.code == "insufficient_quota":
        return None
    return min(LONGEST, max(0.001, pause_of(error.response.headers, now=time.time())))


def pause_of(headers: Mapping[str, str], *, now: float) -> float:
    """Return the seconds that the headers of a refusal ask for; ``now`` in seconds since 1970.

    ``retry-after-ms`` comes first, then ``Retry-After``. Without them the latest ``x-ratelimit-reset-*`` of
    what is used up counts, or of everything if nothing is said to be used up.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    after = headers.get("retry-after")
    if (seconds := _number(after)) is not None:
        return seconds
    if after:
        try:
            return max(0.0, parsedate_to_datetime(after).timestamp() - now)
        except ValueError:
            pass
    resets = {
        kind: seconds
        for kind in ("requests", "tokens")
        if (seconds := _duration(headers.get(f"x-ratelimit-reset-{kind}"))) is not None
    }
    used_up = [
        seconds
        for kind, seconds in resets.items()
        if _number(headers.get(f"x-ratelimit-remaining-{kind}")) == 0
    ]
    return max(used_up or resets.values(), default=UNNAMED)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e9 else None


def _duration(text: str | None) -> float | None:
    """Return the seconds of ``6m0s``, ``20ms`` or ``1.5s``; None for anything else."""
    if not text or not (parts := _PART.findall(text)) or "".join(map("".join, parts)) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
