"""Fills the blanks of those SQL files that have some, with everything quoted.

Values never go through here: they are bound. What is filled in is identifiers and literals that were quoted
first, and the text of the operator's own queries.
"""

import re
from string import Template

from unstale_worker.rules import TableName
from unstale_worker.rules.identifiers import quote_identifier
from unstale_worker.sql import statement


class _Sql(Template):
    """``@{name}`` is a blank: SQL itself has no use for that, while it is full of ``$`` and ``%``."""

    delimiter = "@"


def fill(name: str, /, **blanks: str) -> str:
    """``sql/<name>.sql`` with every blank filled; a blank without a value is a KeyError."""
    return _Sql(statement(name)).substitute(blanks)


def literal(text: str) -> str:
    """``text`` as an SQL string literal, whatever ``standard_conforming_strings`` says."""
    quoted = text.replace("'", "''")
    if "\\" not in quoted:
        return f"'{quoted}'"
    return "E'" + quoted.replace("\\", "\\\\") + "'"


def array_literal(names: tuple[str, ...] | None) -> str:
    """``names`` as an SQL ``text[]`` expression, or ``null``."""
    if names is None:
        return "null::text[]"
    return f"array[{', '.join(map(literal, names))}]::text[]"


def table_literal(table: TableName) -> str:
    """A literal that ``::regclass`` reads: parts in quotes only where SQL needs them."""
    return literal(table_text(table))


def table_text(table: TableName) -> str:
    """``schema.table`` as ``::regclass`` reads it."""
    parts = (
        part if re.fullmatch(r"[a-z_][a-z0-9_$]*", part) else quote_identifier(part)
        for part in (table.schema, table.name)
    )
    return ".".join(parts)


def dollars(text: str) -> str:
    """A dollar quote that ``text`` does not end."""
    number = 0
    while f"$unstale{number}" in text:
        number += 1
    return f"$unstale{number}$"


def qualified(schema: str, name: str) -> str:
    """``"schema"."name"``, always quoted."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"
