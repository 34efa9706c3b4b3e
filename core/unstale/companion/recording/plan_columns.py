"""Reads from a plan which columns of its tables a statement needs. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from unstale.companion.recording.plan_text import NAME, bare, nodes_of, texts_of, unquoted
from unstale.companion.recording.reading import Table

_CAST: Final = re.compile(
    rf"::(?:{NAME}\.)?{NAME}(?: (?:varying|precision|with(?:out)? time zone))?(?:\([\d,]+\))?"
)
_REFERENCE: Final = re.compile(rf"(?<![\w$\".])(?:({NAME})\.)?({NAME})(?!\s*\(|[\w$\".])")


def read_columns(document: object, columns: Mapping[Table, Collection[str]]) -> dict[Table, set[str]]:
    """Return the columns that the nodes of a plan name, of the tables whose ``columns`` are known.

    A scan that returns all columns of its table is left out: Postgres plans it for ``select *``, and also
    where it costs less than to return those that are needed. The nodes above it name the ones they need.
    """
    nodes = list(nodes_of(document))
    aliases = {
        node.get("Alias", node["Relation Name"]): Table(node["Schema"], node["Relation Name"])
        for node in nodes
        if "Relation Name" in node and "Schema" in node
    }
    only = next(iter(aliases.values())) if len(aliases) == 1 else None
    found: dict[Table, set[str]] = {}
    for node in nodes:
        own = aliases.get(str(node.get("Alias", "")))
        outputs = [text for text in node.get("Output", ()) if isinstance(text, str)]
        named = set(_named(outputs, aliases, only, columns))
        if own is not None and named >= {(own, column) for column in columns.get(own, ())}:
            named = set()
        conditions = {name: value for name, value in node.items() if name != "Output"}
        for table, column in named | set(_named(texts_of(conditions), aliases, None, columns)):
            found.setdefault(table, set()).add(column)
    return found


def _named(
    texts: Iterable[str],
    aliases: Mapping[str, Table],
    only: Table | None,
    columns: Mapping[Table, Collection[str]],
) -> Iterator[tuple[Table, str]]:
    """Yield each column that ``texts`` name; without an alias it is one of the ``only`` table."""
    for text in texts:
        for alias, name in _REFERENCE.findall(_CAST.sub("", bare(text))):
            table = aliases.get(unquoted(alias)) if alias else only
            if table is not None and unquoted(name) in columns.get(table, ()):
                yield table, unquoted(name)
