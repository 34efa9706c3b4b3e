"""Derive from the text of a query which columns it returns and which tables it reads.

This is not an SQL parser. Where the text is not conclusive, the result says so. Postgres checks the query
itself when the worker (or ``unstale doctor``) prepares it.
"""

from dataclasses import dataclass, field
from typing import Final

from unstale_worker.rules.identifiers import TableName
from unstale_worker.rules.query import Query, SqlToken

_ENDS_FROM: Final = frozenset(
    {
        "where",
        "group",
        "having",
        "window",
        "union",
        "intersect",
        "except",
        "order",
        "limit",
        "offset",
        "fetch",
        "for",
    }
)
_ENDS_LIST: Final = _ENDS_FROM | {"from", "into"}
_FROM_ARGUMENT: Final = frozenset({"extract", "substring", "trim", "overlay", "position"})
_SELF_CONTAINED: Final = frozenset(
    {"unnest", "generate_series", "generate_subscripts", "regexp_split_to_table", "string_to_table"}
    | {f"json{b}_{what}" for b in ("", "b") for what in ("array_elements", "array_elements_text", "each")}
    | {f"json{b}_{what}" for b in ("", "b") for what in ("each_text", "object_keys", "to_recordset")}
)


@dataclass(frozen=True, slots=True)
class QueryTables:
    """The tables that a query reads.

    Attributes:
        tables: Tables and views that it names, sorted.
        doubts: Reasons why it may read more, as sentences; empty if the list is complete (except for what
            views read).
    """

    tables: tuple[TableName, ...]
    doubts: tuple[str, ...]


@dataclass(slots=True)
class _Level:
    """One level of parentheses."""

    argument: bool = False  # arguments of a function that takes FROM, such as extract(... from ...)
    in_from: bool = False
    item: bool = False  # the next token begins a table
    query: bool = False  # contains a select


def tables_of(query: Query) -> QueryTables:
    """Return the tables that ``query`` names after FROM, JOIN and TABLE, without common table expressions."""
    tokens = query.tokens
    local = _common_tables(tokens)
    scan = _Scan(tokens, local)
    scan.run()
    return QueryTables(tuple(sorted(scan.tables)), tuple(scan.doubts))


@dataclass(slots=True)
class _Scan:
    tokens: tuple[SqlToken, ...]
    local: frozenset[str]
    tables: set[TableName] = field(default_factory=set)
    doubts: dict[str, None] = field(default_factory=dict)

    def run(self) -> None:
        levels = [_Level()]
        at = 0
        while at < len(self.tokens):
            token, level = self.tokens[at], levels[-1]
            word, before = token.word, self.tokens[at - 1].word if at else ""
            at += 1
            if word == "(":
                # A parenthesis in the place of a table encloses a query or a join.
                levels.append(_Level(argument=before in _FROM_ARGUMENT, in_from=level.item, item=level.item))
                level.item = False
            elif word == ")":
                if len(levels) > 1:
                    levels.pop()
            elif word in ("select", "values", "with"):
                level.query, level.item, level.in_from = True, False, False
            elif word == "from" and before != "distinct" and not (level.argument and not level.query):
                level.in_from, level.item = True, True
            elif word == "join" or (word == "," and level.in_from) or self._table_command(at - 1):
                level.item = True
            elif word in _ENDS_FROM:
                level.in_from = level.item = False
            elif level.item and word in ("only", "lateral", "rows"):
                pass
            elif level.item:
                level.item = False
                at = self._table(at - 1)

    def _table_command(self, at: int) -> bool:
        """Return True if ``table`` at ``at`` is the command that returns a whole table."""
        before = self.tokens[at - 1].word if at else "("
        return self.tokens[at].word == "table" and before in ("(", "union", "all", "except", "intersect")

    def _table(self, at: int) -> int:
        """Read a possibly qualified name at ``at``; return the position after it."""
        parts: list[str] = []
        while at < len(self.tokens):
            name = self.tokens[at].name
            if name is None:
                break
            parts.append(name)
            at += 1
            if at >= len(self.tokens) or self.tokens[at].text != ".":
                break
            at += 1
        if not parts:
            self.doubts["it names a table in a form that unstale cannot parse"] = None
            return at + 1
        if at < len(self.tokens) and self.tokens[at].text == "(":
            if parts[-1] not in _SELF_CONTAINED:
                self.doubts[f"the function {'.'.join(parts)} may read other tables"] = None
        elif len(parts) > 1 or parts[0] not in self.local:
            self.tables.add(TableName(parts[-2] if len(parts) > 1 else "public", parts[-1]))
        return at


def _common_tables(tokens: tuple[SqlToken, ...]) -> frozenset[str]:
    """Return the names that WITH defines: ``name [(columns)] as [[not] materialized] (``."""
    if not any(token.word == "with" for token in tokens):
        return frozenset()
    found: set[str] = set()
    for at, token in enumerate(tokens):
        before = tokens[at - 1].word if at else ""
        if token.name is None or before not in ("with", "recursive", ","):
            continue
        end = at + 1
        if end < len(tokens) and tokens[end].text == "(":
            while end < len(tokens) and tokens[end].text != ")":
                end += 1
            end += 1
        rest = [following.word for following in tokens[end : end + 4]]
        if rest[:1] == ["as"] and next((w for w in rest[1:] if w not in ("not", "materialized")), "") == "(":
            found.add(token.name)
    return frozenset(found)


def outputs(query: Query) -> frozenset[str] | None:
    """Return the names of the columns that ``query`` returns, or None if the text is not conclusive."""
    names: set[str] = set()
    for item in _select_list(query.tokens):
        name = _output(item)
        if name is None:
            return None
        names.add(name)
    return frozenset(names) or None


def _select_list(tokens: tuple[SqlToken, ...]) -> list[list[SqlToken]]:
    """Return the items of the outermost select list; empty if it cannot be found."""
    depth = 0
    items: list[list[SqlToken]] = []
    for at, token in enumerate(tokens):
        word = token.word
        if depth == 0 and not items:
            if word == "select":
                items.append([])
            elif word in ("(", "with", "values", "table") and at == 0 and word != "with":
                return []
        elif depth == 0 and (
            word in _ENDS_LIST and not (word == "from" and tokens[at - 1].word == "distinct")
        ):
            break
        elif depth == 0 and word == ",":
            items.append([])
        elif items:
            items[-1].append(token)
        depth += (word == "(") - (word == ")")
    return [_without_distinct(item) if not at else item for at, item in enumerate(items)]


def _without_distinct(item: list[SqlToken]) -> list[SqlToken]:
    words = [token.word for token in item]
    if words[:2] == ["distinct", "on"]:
        depth = 0
        for at, word in enumerate(words[2:], start=2):
            depth += (word == "(") - (word == ")")
            if not depth:
                return item[at + 1 :]
    return item[1:] if words[:1] in (["distinct"], ["all"]) else item


def _output(item: list[SqlToken]) -> str | None:
    """Return the column name of ``a``, ``t.a``, ``{a}``, or of anything with ``as a``."""
    if len(item) >= 2 and item[-2].word == "as":
        return item[-1].name
    if len(item) == 1 and item[0].kind == "hole":
        text = item[0].text[1:-1]
        return text[1:-1].replace('""', '"') if text.startswith('"') else text
    dotted = all(token.text == "." if at % 2 else token.name is not None for at, token in enumerate(item))
    return item[-1].name if dotted and len(item) % 2 else None
