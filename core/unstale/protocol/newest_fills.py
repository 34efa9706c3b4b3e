"""The newest fills of this process, so that `unstale why` can tell which agent filled a key again. Pure."""

import base64
import struct
import zlib
from collections import OrderedDict
from typing import Final

MOST_FILLS: Final = 128
"""Keys that are remembered: 1 kB in a report."""
LONGEST_AGO_MS: Final = 2**32 - 1

_RECORD: Final = struct.Struct("<II")


def key_number(key: str) -> int:
    """Return 32 bits that stand for a key, so that reports reveal no keys. One in 4 billion is mistaken."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))


class NewestFills:
    """The keys that were filled last, each with the moment of its newest fill.

    Example:
        >>> fills = NewestFills(2)
        >>> fills.add("user:42:profile", 5.0)
        >>> dict(decode_fills(fills.encode(now=6.5)))[key_number("user:42:profile")]
        1500
    """

    __slots__ = ("_at", "_most")

    def __init__(self, most: int = MOST_FILLS) -> None:
        self._most = most
        self._at: OrderedDict[int, float] = OrderedDict()

    def add(self, key: str, now: float) -> None:
        """Remember that ``key`` was filled at ``now``."""
        if not self._most:
            return
        number, known = key_number(key), self._at
        known[number] = now
        known.move_to_end(number)
        if len(known) > self._most:
            known.popitem(last=False)

    def encode(self, *, now: float) -> str:
        """Return the fills as text: of each key its number, and the milliseconds since."""
        records = (
            _RECORD.pack(number, max(0, min(round((now - at) * 1000), LONGEST_AGO_MS)))
            for number, at in self._at.items()
        )
        return base64.b64encode(b"".join(records)).decode()

    def __repr__(self) -> str:
        return f"<NewestFills {len(self._at)} of {self._most}>"


def decode_fills(text: str) -> list[tuple[int, int]]:
    """Return number and milliseconds of each fill; raises ValueError."""
    data = base64.b64decode(text.encode(), validate=True)
    try:
        return list(_RECORD.iter_unpack(data))
    except struct.error as error:
        raise ValueError(str(error)) from None
