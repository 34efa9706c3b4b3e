"""Read the parameters of a REST request: columns, embedded tables, filters and order. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from unstale_worker.supabase_double.rest_errors import Failure


@dataclass(frozen=True, slots=True)
class Column:
    """One selected column, with its path into JSON."""

    name: str
    path: tuple[str, ...] = ()
    """Operators and keys in turn: ``("->", "a", "->>", "b")``."""
    alias: str = ""
    cast: str = ""
    aggregate: str = ""


@dataclass(frozen=True, slots=True)
class Embed:
    """A table whose rows are embedded in those of another one."""

    table: str
    alias: str
    hint: str = ""
    inner: bool = False
    spread: bool = False
    items: tuple[Column | Embed, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition; `column` is empty for ``and`` and ``or``, whose conditions are `parts`."""

    column: Column | None
    operator: str
    value: str = ""
    negated: bool = False
    modifier: str = ""
    parts: tuple[Filter, ...] = ()


@dataclass(slots=True)
class Query:
    """The parameters of one level: the table itself, or an embedded one."""

    filters: list[Filter] = field(default_factory=list)
    order: list[tuple[Column, str, str]] = field(default_factory=list)
    limit: int | None = None
    offset: int | None = None
    embeds: dict[str, Query] = field(default_factory=dict)


_ITEM = re.compile(
    r"(?:(?P<alias>[\w $\"]+?):(?!:))?(?P<spread>\.\.\.)?"
    r"(?P<name>\*|\"[^\"]+\"|[^:!(),.\-]+(?:-(?!>)[^:!(),.\-]+)*)"
    r"(?P<path>(?:->>?[^-:,()]+)*)(?P<aggregate>\.(?:count|sum|avg|min|max)\(\))?(?P<hints>(?:![\w]+)*)"
    r"(?:::(?P<cast>[\w ]+))?$"
)
_AGGREGATES = ("count", "sum", "avg", "min", "max")
_RESERVED = (
    "select",
    "order",
    "limit",
    "offset",
    "columns",
    "on_conflict",
    "apikey",
    "and",
    "or",
    "not.and",
    "not.or",
)


def parts(text: str) -> Iterator[str]:
    """Yield the parts between commas that are outside parentheses and quotes."""
    depth, quoted, start = 0, False, 0
    for at, character in enumerate(text):
        if character == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif not quoted and character in "({":
            depth += 1
        elif not quoted and character in ")}":
            depth -= 1
        elif character == "," and not depth and not quoted:
            yield text[start:at].strip()
            start = at + 1
    if text[start:].strip():
        yield text[start:].strip()


def read_select(text: str) -> tuple[Column | Embed, ...]:
    """Read the value of ``select``; empty means all columns."""
    return tuple(_item(part) for part in parts(re.sub(r"\s+", "", text) if '"' not in text else text)) or (
        Column("*"),
    )


def _item(text: str) -> Column | Embed:
    head, inside = text, None
    if text.endswith(")") and not re.search(r"\.(?:count|sum|avg|min|max)\(\)$", text):
        at = text.index("(")
        head, inside = text[:at], text[at + 1 : -1]
    match = _ITEM.fullmatch(head)
    if match is None:
        raise Failure(400, "PGRST100", f'"failed to parse select parameter ({text})" (line 1, column 1)')
    alias, name = (match["alias"] or "").strip('"'), match["name"].strip('"')
    if inside is None or (name in _AGGREGATES and not inside):
        aggregate = (match["aggregate"] or "").removeprefix(".").removesuffix("()")
        if inside is not None:
            name, aggregate = "*", name
        return Column(name, read_path(match["path"]), alias, match["cast"] or "", aggregate)
    hints = [hint for hint in match["hints"].split("!") if hint]
    joins = [hint for hint in hints if hint not in ("inner", "left")]
    return Embed(
        name,
        alias or name,
        joins[0] if joins else "",
        "inner" in hints,
        bool(match["spread"]),
        read_select(inside),
    )


def read_path(text: str) -> tuple[str, ...]:
    """Read ``->a->>b``."""
    return tuple(part for part in re.split(r"(->>|->)", text) if part)


def read_column(text: str) -> Column:
    """Read a column of a filter or an order."""
    at = text.find("->")
    return Column(text.strip('"')) if at < 0 else Column(text[:at].strip('"'), read_path(text[at:]))


def read_query(parameters: Sequence[tuple[str, str]]) -> Query:
    """Read filters, order and limits of all levels; raises `Failure`."""
    query = Query()
    for name, value in parameters:
        level, last = query, name
        head, _, tail = name.rpartition(".")
        if head and head not in ("not",) and "->" not in name:
            if head.endswith(".not"):
                head, tail = head.removesuffix(".not"), f"not.{tail}"
            for step in head.split("."):
                level = level.embeds.setdefault(step, Query())
            last = tail
        if last in ("limit", "offset"):
            if not value.isdigit():
                raise Failure(400, "PGRST100", f"{name}={value}: expected a number")
            setattr(level, last, int(value))
        elif last == "order":
            level.order += [_order(part) for part in parts(value)]
        elif last in ("and", "or", "not.and", "not.or"):
            level.filters.append(_logic(last, value))
        elif last not in _RESERVED:
            level.filters.append(_filter(last, value))
    return query


def _order(text: str) -> tuple[Column, str, str]:
    words = text.split(".")
    direction = next((word for word in words[1:] if word in ("asc", "desc")), "asc")
    nulls = next((word for word in words[1:] if word in ("nullsfirst", "nullslast")), "")
    return read_column(words[0]), direction, nulls


def _logic(name: str, value: str) -> Filter:
    inside = value.strip()
    if not (inside.startswith("(") and inside.endswith(")")):
        raise Failure(400, "PGRST100", f'"failed to parse logic tree ({value})" (line 1, column 1)')
    return Filter(
        None, name.removeprefix("not."), negated=name.startswith("not."),
        parts=tuple(_condition(part) for part in parts(inside[1:-1])),
    )  # fmt: skip


def _condition(text: str) -> Filter:
    if (match := re.match(r"((?:not\.)?(?:and|or))(\(.*\))$", text, re.DOTALL)) is not None:
        return _logic(match[1], match[2])
    column, _, rest = text.partition(".")
    if column.startswith('"'):
        end = text.index('"', 1)
        column, rest = text[1:end], text[end + 2 :]
    return _filter(column, rest)


def _filter(column: str, text: str) -> Filter:
    negated = text.startswith("not.")
    operator, dot, value = text.removeprefix("not.").partition(".")
    match = re.fullmatch(r"(\w+)(?:\((\w+)\))?", operator)
    if match is None or not dot:
        raise Failure(400, "PGRST100", f'"failed to parse filter ({text})" (line 1, column 1)')
    return Filter(read_column(column), match[1], value, negated, match[2] or "")


def read_list(text: str) -> list[str]:
    """Read ``(a,b,"c,d")``."""
    found = []
    for part in parts(text.strip()[1:-1]):
        quoted = len(part) > 1 and part[0] == part[-1] == '"'
        found.append(re.sub(r"\\(.)", r"\1", part[1:-1]) if quoted else part)
    return found
