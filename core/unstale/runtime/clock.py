"""The clock for staleness, TTLs and leases."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

# time.monotonic() stands still while a Linux machine is suspended; staleness must not.
_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)

now: Final[Callable[[], float]] = (
    partial(time.clock_gettime, _BOOTTIME) if _BOOTTIME is not None else time.monotonic
)
"""Seconds since a fixed moment. It never goes back and, if the platform allows it, counts suspended time."""
