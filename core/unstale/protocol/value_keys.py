"""``UNSTALE_VALUE_KEYS``: the keys that values are encrypted with, as text. Pure."""

import base64
import binascii
import re
from typing import Final

KEY_BYTES: Final = 32
"""Length of a key, for AES-256."""

_URL_SAFE: Final = str.maketrans("-_", "+/")
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def parse_keys(text: str) -> dict[str, bytes]:
    """Return the keys of ``ID:BASE64, ID:BASE64, …`` in their order; the first one writes.

    Raises ValueError with a sentence that names the entry by its place, and no part of a key.

    Example:
        >>> list(parse_keys("2026b:" + 43 * "A" + "=, 2026a:" + 43 * "B" + "="))
        ['2026b', '2026a']
    """
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(text.replace(",", " ").split(), 1):
        name, colon, encoded = entry.partition(":")
        if not colon or not _ID.fullmatch(name):
            raise ValueError(
                f"entry {number} must be ID:BASE64, with an ID of 1 to 32 letters, digits, '_', '.' or '-'"
            )
        try:
            key = base64.b64decode(encoded.translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"entry {number} is no base64; `openssl rand -base64 32` makes a key") from None
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"entry {number} has {len(key)} bytes and must have {KEY_BYTES}; "
                "`openssl rand -base64 32` makes a key"
            )
        if name in keys:
            raise ValueError(f"entry {number} has an ID that stands there twice")
        keys[name] = key
    if not keys:
        raise ValueError("there is no key; write ID:BASE64, or leave it out")
    return keys


def parse_scopes(text: str) -> tuple[re.Pattern[str], ...]:
    """Return an expression for each key template, such as ``user:{user}:*``; raises ValueError.

    Example:
        >>> parse_scopes("user:{user}:* search:{user}:*")[0].fullmatch("user:42:profile")["user"]
        '42'
    """
    return tuple(map(_scope, text.replace(",", " ").split()))


def _scope(text: str) -> re.Pattern[str]:
    before, found, behind = text.partition("{user}")
    literal = before and "*" not in before and "{" not in before + behind and not behind.startswith("*")
    if not found or not literal:
        raise ValueError(f"{text!r} must have {{user}} once between texts, as in 'user:{{user}}:*'")
    rest = "".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", behind))
    name = f"[^{re.escape(behind[0])}]+" if behind else ".+"
    return re.compile(f"{re.escape(before)}(?P<user>{name}){rest}", re.DOTALL)
