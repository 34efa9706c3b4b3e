"""Key templates: from ``user:{id}:profile`` and column values to keys."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from unstale.protocol.globs import escape_glob
from unstale.protocol.names import TAG
from unstale.protocol.tags import is_record
from unstale_worker.rules.identifiers import PLAIN, QUOTED, NameMistake, check_name, unquote

MAX_VALUE_BYTES: Final = 512
"""A longer value (in UTF-8) is not put into a key: the template's pattern is invalidated instead."""

MAX_TEXT_BYTES: Final = 1024
"""Maximum bytes of literal text in a template. Together with 16 values of 512 bytes, a key fits a message."""

MAX_PLACEHOLDERS: Final = 16

PLACEHOLDER: Final = re.compile(r"\{(" + PLAIN + "|" + QUOTED + r")\}")
"""``{column}``; or ``{"Any Column"}`` if the name has characters besides letters, digits, ``_``, ``$``."""

_BRACE: Final = re.compile(r"\{\{|\}\}|" + PLACEHOLDER.pattern + r"|[{}]")
_UNUSABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURELY_SHORT: Final = MAX_VALUE_BYTES // 4  # characters; UTF-8 needs at most 4 bytes for each

Values = Sequence[str | None]


def usable(value: str) -> bool:
    """Return True if ``value`` may be part of a key: at most 512 bytes, no control characters."""
    if len(value) > MAX_VALUE_BYTES or _UNUSABLE.search(value):
        return False
    return len(value) <= _SURELY_SHORT or len(value.encode()) <= MAX_VALUE_BYTES


@dataclass(frozen=True, slots=True)
class Template:
    """A key with placeholders for column values; created by `parse`, pure and hashable.

    Attributes:
        text: The template as written.
        literals: The text before, between and after the placeholders: always one more than ``columns``.
        columns: The columns of the placeholders in order; a column may occur twice.
        pattern: The Redis glob that matches every key of this template.

    Example:
        >>> template = Template.parse("user:{id}:profile")
        >>> keys: dict[str, int] = {}
        >>> template.expand([["42", None]], keys=keys, patterns=set(), causes=[7, 8])
        >>> keys, template.pattern
        ({'user:42:profile': 7}, 'user:*:profile')
    """

    text: str
    literals: tuple[str, ...]
    columns: tuple[str, ...]
    pattern: str

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Parse a template; raise `NameMistake` with the expected form."""
        if not text:
            raise NameMistake("empty", remedy="Write a key, such as user:{id}:profile.")
        if _UNUSABLE.search(text):
            raise NameMistake("contains a control character", remedy="Use printable text only.")
        literals = [""]
        columns: list[str] = []
        at = 0
        for match in _BRACE.finditer(text):
            literals[-1] += text[at : match.start()]
            at = match.end()
            if match[0] in ("{{", "}}"):
                literals[-1] += match[0][0]
            elif match[1] is None:
                raise _brace_mistake(text[match.start() :])
            else:
                columns.append(unquote(match[1]))
                check_name(columns[-1])
                literals.append("")
        literals[-1] += text[at:]
        if not any(literals):
            raise NameMistake(
                "its pattern would be *, which matches every key of the server",
                remedy="Add text to the placeholders, such as user:{id}.",
            )
        if len("".join(literals).encode()) > MAX_TEXT_BYTES or len(columns) > MAX_PLACEHOLDERS:
            raise NameMistake(
                "too long",
                remedy=f"At most {MAX_TEXT_BYTES} bytes of text and {MAX_PLACEHOLDERS} placeholders.",
            )
        middle = [part for part in literals[1:-1] if part]  # adjacent placeholders need one star
        parts = [literals[0], *middle, literals[-1]] if columns else literals
        return cls(text, tuple(literals), tuple(columns), "*".join(map(escape_glob, parts)))

    @classmethod
    def parse_tag(cls, text: str) -> "Template":
        """Parse the template of a tag: the keys that it makes are those of the tags' records."""
        plain = cls.parse(text)
        literals = (TAG + plain.literals[0], *plain.literals[1:])
        return cls(TAG + text, literals, plain.columns, TAG + plain.pattern)

    @classmethod
    def published(cls, text: str) -> "Template":
        """Parse the ``text`` of a template of keys or tags, as a worker publishes it."""
        return cls.parse_tag(text.removeprefix(TAG)) if text.startswith(TAG) else cls.parse(text)

    @property
    def is_tag(self) -> bool:
        """True for the template of a tag."""
        return is_record(self.literals[0])

    def expand(
        self, values: Sequence[Values], *, keys: dict[str, int], patterns: set[str], causes: Sequence[int]
    ) -> None:
        """Add the keys of all rows, each with the number of the change that concerns it last.

        A null adds no key. A value that is not `usable` adds the pattern.

        Args:
            values: One sequence per placeholder, in the order of ``columns``; all have the same length.
            keys: Receives the keys.
            patterns: Receives the pattern if a value is not usable.
            causes: The number of the change of each row.
        """
        if not self.columns:
            keys[self.literals[0]] = causes[-1]
        elif len(self.columns) == 1:
            self._expand_one(values[0], keys, patterns, causes)
        else:
            self._expand_many(values, keys, patterns, causes)

    def _expand_one(
        self, values: Values, keys: dict[str, int], patterns: set[str], causes: Sequence[int]
    ) -> None:
        # Measured: 4-6 M keys/s if all values are plain, 0.8 M with a check of each value.
        present = _plain(values)
        if present is None:
            wanted = {value: cause for value, cause in zip(values, causes, strict=True) if value is not None}
            present = [value for value in wanted if usable(value)]
            if len(present) < len(wanted):
                patterns.add(self.pattern)
            causes = [wanted[value] for value in present]
        before, after = self.literals
        made = [before + value + after for value in present]
        if causes and causes.count(causes[0]) == len(causes):  # half the time
            keys.update(dict.fromkeys(made, causes[0]))
        else:
            keys.update(zip(made, causes, strict=True))

    def _expand_many(
        self,
        values: Sequence[Values],
        keys: dict[str, int],
        patterns: set[str],
        causes: Sequence[int],
    ) -> None:
        form = "{}".join(part.replace("{", "{{").replace("}", "}}") for part in self.literals).format
        plain = [_plain(column) for column in values]
        if all(column is not None for column in plain):
            keys.update(zip(map(form, *values), causes, strict=True))
            return
        for cause, row in zip(causes, zip(*values, strict=True), strict=True):
            if None in row:
                continue
            if all(usable(value) for value in row if value is not None):
                keys[form(*row)] = cause
            else:
                patterns.add(self.pattern)


def _plain(values: Values) -> Sequence[str] | None:
    """Return ``values`` if all are certainly usable, else None; checked in a few passes at C speed."""
    try:
        joined = "".join(values)  # type: ignore[arg-type]  # raises for a null, which is the check for nulls
    except TypeError:
        return None
    if not joined.isprintable() and _UNUSABLE.search(joined):
        return None
    if max(map(len, values), default=0) > _SURELY_SHORT:  # type: ignore[arg-type]  # no nulls here
        return None
    return values  # type: ignore[return-value]  # no nulls here


def _brace_mistake(rest: str) -> NameMistake:
    inside = re.match(r"\{\s*([^{}]*?)\s*\}", rest)
    if inside and re.fullmatch(f"{PLAIN}|{QUOTED}", inside[1]):
        return NameMistake("spaces in a placeholder", remedy=f"Write {{{inside[1]}}}.")
    if inside and inside[1]:
        quoted = inside[1].replace('"', '""')
        return NameMistake(
            "a placeholder may contain only a column name",
            remedy=f'Write {{column}}, or {{"{quoted}"}} if that is the name of the column.',
        )
    return NameMistake(
        "a brace without a placeholder", remedy="Write {column}; a literal brace is written {{ or }}."
    )


def columns_of(templates: Iterable[Template]) -> tuple[str, ...]:
    """Return the columns that ``templates`` need, sorted and unique."""
    return tuple(sorted({column for template in templates for column in template.columns}))
