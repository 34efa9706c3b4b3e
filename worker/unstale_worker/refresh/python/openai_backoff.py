"""Reads what OpenAI says about its rate limits."""

import re
import sys
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 600.0
"""Seconds a loader is paused for at most: a larger number is a mistake or a used-up quota."""
UNNAMED: Final = 5.0
"""Seconds to pause when a refusal says nothing about when to come back."""

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def pause_for(error: BaseException) -> float | None:
    """Seconds to leave the model alone after ``error``; None when it is no refusal for its rate.

    A used-up quota is none: waiting does not help against that.
    """
    openai = sys.modules.get("openai")  # a loader that met such an error has imported it
    if openai is None or not isinstance(error, openai.RateLimitError):
        return None
    if error.code == "insufficient_quota":
        return None
    return min(LONGEST, max(0.001, pause_of(error.response.headers, now=time.time())))


def pause_of(headers: Mapping[str, str], *, now: float) -> float:
    """Seconds that the headers of a refusal ask for; ``now`` in seconds since 1970.

    ``retry-after-ms`` and ``Retry-After`` count first. Otherwise the latest ``x-ratelimit-reset-*`` of what
    is used up (of everything, if nothing says so).
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
    """``6m0s``, ``20ms``, ``1.5s``; None for anything else."""
    if not text or not (parts := _PART.findall(text)) or "".join(map("".join, parts)) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
