"""Fill the blanks of SQL templates.

Values are never filled in: they are bound. The blanks take quoted identifiers, quoted literals, and the text
of the operator's own queries.
"""

import re
from string import Template

from unstale_worker.rules import TableName
from unstale_worker.rules.identifiers import quote_identifier
from unstale_worker.sql import statement


class _Sql(Template):
    """Template whose blanks are ``@{name}``: unlike ``$`` and ``%``, SQL does not use this."""

    delimiter = "@"


def fill(name: str, /, **blanks: str) -> str:
    """Return ``sql/<name>.sql`` with every blank filled; KeyError if a blank has no value."""
    return _Sql(statement(name)).substitute(blanks)


def literal(text: str) -> str:
    """Format ``text`` as an SQL string literal that does not depend on ``standard_conforming_strings``."""
    quoted = text.replace("'", "''")
    if "\\" not in quoted:
        return f"'{quoted}'"
    return "E'" + quoted.replace("\\", "\\\\") + "'"


def array_literal(names: tuple[str, ...] | None) -> str:
    """Format ``names`` as an SQL ``text[]`` expression, or ``null``."""
    if names is None:
        return "null::text[]"
    return f"array[{', '.join(map(literal, names))}]::text[]"


def table_literal(table: TableName) -> str:
    """Format a table as a literal for ``::regclass``, quoted only where SQL needs it."""
    return literal(table_text(table))


def table_text(table: TableName) -> str:
    """Format ``schema.table`` for ``::regclass``."""
    parts = (
        part if re.fullmatch(r"[a-z_][a-z0-9_$]*", part) else quote_identifier(part)
        for part in (table.schema, table.name)
    )
    return ".".join(parts)


def dollars(text: str) -> str:
    """Return a dollar quote that does not occur in ``text``."""
    number = 0
    while f"$unstale{number}" in text:
        number += 1
    return f"$unstale{number}$"


def qualified(schema: str, name: str) -> str:
    """Format ``"schema"."name"``, always quoted."""
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"
