"""Names of tables and columns, as written in a rules file."""

import re
from dataclasses import dataclass
from typing import Final

MAX_NAME_BYTES: Final = 63
"""Postgres truncates longer identifiers (NAMEDATALEN - 1)."""

PLAIN: Final = r"[^\W\d][\w$]*"
QUOTED: Final = r'"(?:[^"\x00]|"")+"'
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PART: Final = re.compile(f"({PLAIN})|({QUOTED})")


class NameMistake(ValueError):
    """A name, template or query cannot be used.

    Attributes:
        problem: The mistake, without a full stop.
        remedy: The expected form, as a sentence.
    """

    def __init__(self, problem: str, *, remedy: str) -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}. {remedy}")


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table, by its names in the catalog (not folded to lower case)."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "TableName":
        """Read ``table``, ``schema.table`` or ``"My Schema"."Table"``; raises `NameMistake`."""
        parts: list[str] = []
        at = 0
        while match := _PART.match(text, at):
            parts.append(unquote(match[0]))
            at = match.end()
            if text[at : at + 1] != ".":
                break
            at += 1
        if not parts or at != len(text) or text.endswith(".") or len(parts) > 2:
            raise NameMistake(
                "not a table name",
                remedy='Write schema.table; other characters need double quotes: public."My Table".',
            )
        for part in parts:
            check_name(part)
        return cls("public", parts[0]) if len(parts) == 1 else cls(parts[0], parts[1])

    def __str__(self) -> str:
        return f"{display(self.schema)}.{display(self.name)}"


@dataclass(frozen=True, slots=True, order=True)
class ColumnName:
    """A column of a table, by their names in the catalog."""

    table: TableName
    name: str

    @classmethod
    def parse(cls, text: str) -> "ColumnName":
        """Read ``table.column`` or ``schema.table.column``; raises `NameMistake`."""
        found = re.fullmatch(f"(.+)\\.({PLAIN}|{QUOTED})", text, re.DOTALL)
        if found is None:
            raise NameMistake("not a column of a table", remedy="Write schema.table.column.")
        name = unquote(found[2])
        check_name(name)
        return cls(TableName.parse(found[1]), name)


def unquote(part: str) -> str:
    """Return the name that a plain or double-quoted identifier denotes."""
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def display(name: str) -> str:
    """Format ``name`` for a rules file, quoted only if necessary."""
    return name if re.fullmatch(PLAIN, name) else quote_identifier(name)


def quote_identifier(name: str) -> str:
    """Format ``name`` for SQL, always quoted."""
    return '"' + name.replace('"', '""') + '"'


def check_name(name: str) -> None:
    """Raise `NameMistake` if Postgres would truncate ``name`` or it contains control characters."""
    if not name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES or _CONTROL.search(name):
        remedy = "A name has 1 to 63 bytes and no control characters."
        raise NameMistake("not a valid Postgres name", remedy=remedy)
