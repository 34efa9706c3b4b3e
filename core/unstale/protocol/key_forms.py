"""The spelling in which captures write the keys of a template. Pure: no I/O.

A change of the row with the uuid ``3F0C…`` removes ``user:3f0c…:profile``, because a column's value has one
text form. A value that is cached under another spelling of the same id would never be removed.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

from unstale.protocol.globs import escape_glob

MAX_FREE: Final = 2
"""Most placeholders of any text in a form: matching takes time that grows with the key to this power."""

_UUID: Final = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STRICT: Final = {"int": "(?:0|-?[1-9][0-9]*)", "uuid": _UUID, "bool": "(?:True|False)", "": ".*"}
"""By kind of column: the text that captures write."""
_LOOSE: Final = {
    "int": r"\s*[+-]?[0-9][0-9_]*(?:\.0*)?\s*",
    "uuid": r"\s*(?:urn:uuid:)?\{?[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\}?\s*",
    "bool": r"(?i:true|false|yes|no|on|off|t|f|y|n|1|0)",
    "": ".*",
}
"""By kind of column: every text that Python or Postgres read as such a value."""
_TRUE: Final = ("true", "yes", "on", "t", "y", "1")
KINDS: Final = {"int2": "int", "int4": "int", "int8": "int", "oid": "int", "uuid": "uuid", "bool": "bool"}
"""Kinds by the name of a type of Postgres. A column of any other type may hold any text."""


class KeyForm(NamedTuple):
    """A key template with the kinds of its columns.

    Attributes:
        pattern: The glob of the template.
        literals: The text before, between and after the placeholders: always one more than ``kinds``.
        kinds: ``int``, ``uuid`` or ``bool`` for each placeholder; '' for any text.
    """

    pattern: str
    literals: tuple[str, ...]
    kinds: tuple[str, ...]

    def right(self, key: str) -> str | None:
        """Return ``key`` as captures write it; None if no row can have it."""
        if _expression(self.literals, self.kinds, strict=True).fullmatch(key):
            return key
        found = _expression(self.literals, self.kinds, strict=False).fullmatch(key)
        if found is None:
            return None
        texts = map(_spelled, self.kinds, found.groups())
        return self.literals[0] + "".join(
            text + literal for text, literal in zip(texts, self.literals[1:], strict=True)
        )

    def right_beginning(self, glob: str) -> str | None:
        """Return ``glob`` with its first value as captures write it; None if it does not begin like a key."""
        if not self.kinds or not self.kinds[0]:
            return None
        start, following = escape_glob(self.literals[0]), escape_glob(self.literals[1])
        found = _beginning(start, self.kinds[0], following).match(glob)
        if found is None:
            return None
        return start + _spelled(self.kinds[0], found[1]) + glob[found.end(1) :]


def usable(forms: Sequence[KeyForm]) -> list[KeyForm]:
    """Return the forms that can tell a right key from a wrong one; those of one pattern go together."""
    vague = {form.pattern for form in forms if form.kinds.count("") > MAX_FREE or not any(form.kinds)}
    return sorted({form for form in forms if form.pattern not in vague})


def right_key(forms: Sequence[KeyForm], key: str) -> str | None:
    """Return ``key`` if it fits any of ``forms``, else its right spelling; None if no row can have it."""
    found = [right for form in forms if (right := form.right(key)) is not None]
    return key if key in found else found[0] if found else None


def _spelled(kind: str, text: str) -> str:
    text = text.strip() if kind else text
    if kind == "uuid":
        return str(UUID(text))
    if kind == "bool":
        return str(text.lower() in _TRUE)
    return str(int(text.partition(".")[0].replace("_", ""))) if kind == "int" else text


@lru_cache(maxsize=1024)
def _expression(literals: tuple[str, ...], kinds: tuple[str, ...], *, strict: bool) -> re.Pattern[str]:
    kinds_as = _STRICT if strict else _LOOSE
    values = (f"({kinds_as[kind]}){re.escape(text)}" for kind, text in zip(kinds, literals[1:], strict=True))
    return re.compile(re.escape(literals[0]) + "".join(values), re.DOTALL)


@lru_cache(maxsize=1024)
def _beginning(start: str, kind: str, following: str) -> re.Pattern[str]:
    behind = re.escape(following[:1]) + "|" if following else ""
    return re.compile(f"{re.escape(start)}({_LOOSE[kind]})(?:{behind}\\*|$)")
