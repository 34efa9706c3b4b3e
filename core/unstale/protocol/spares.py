"""Spare values: the copy of a key's last value, beside it in Redis, for a loader that fails or is slow.

The copy lives for the value's TTL and the bound; a change may only bring its end nearer. So Redis knows how
long ago it stopped to be current: the bound less what is left of its life. The content is the bound in
milliseconds, a line feed, and the value as it was stored. Pure: no I/O.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spare:
    """A spare value.

    Attributes:
        data: The value, as it was stored.
        age: Seconds since it was current at the latest, as far as the worker has applied changes; 0: it still
            is.
    """

    data: bytes
    age: float


def decode_spare(content: bytes | None, life: float) -> Spare | None:
    """Return the spare value with ``life`` seconds left; None if there is none, or none that can be read."""
    bound, separator, data = (content or b"").partition(b"\n")
    if not separator or not bound.isdigit() or not math.isfinite(life):
        return None
    return Spare(data, max(0.0, int(bound) / 1000 - life))
