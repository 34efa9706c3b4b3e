"""Reads a plan as ``EXPLAIN (FORMAT JSON, VERBOSE)`` prints it, and names in SQL text. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from unstale.companion.recording.reading import Equal, Table

NAME: Final = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_COLUMN: Final = rf"\(?({NAME})\.({NAME})\)?(?:::[\w ]+(?:\(\d+\))?)?"
_PARAMETER: Final = r"\(?\$(\d+)\)?(?:::[\w \[\]]+)?"
_BOUND: Final = re.compile(rf"{_COLUMN} = (?:ANY \(?)?{_PARAMETER}")
_BINDS: Final = re.compile(rf"{_PARAMETER} = {_COLUMN}")
_JOINED: Final = re.compile(rf"{_COLUMN} = {_COLUMN}")
_CALLED: Final = re.compile(rf"(?:({NAME})\s*\.\s*)?({NAME})\s*\(")
_INIT_PLAN: Final = re.compile(r"\(returns ([$\d,]+)\)")
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_STRING: Final = re.compile(r"'(?:[^']|'')*'")
_ALIAS: Final = (
    r"(?:\s+(?:as\s+)?(?!(?:from|where|join|left|right|inner|full|cross|natural|on|using|set|values|select"
    rf"|group|order|limit|union|loop|for|as|returning)\b){NAME})?"
)
_ITEM: Final = rf"(?:{NAME}\s*\.\s*)?{NAME}{_ALIAS}"
_FROM: Final = re.compile(
    rf"\b(?:from|join|into|update|using|table)\s+(?:only\s+|lateral\s+)?({_ITEM}(?:\s*,\s*{_ITEM})*)",
    re.IGNORECASE,
)
_FIRST: Final = re.compile(rf"\s*((?:{NAME}\s*\.\s*)?{NAME})")
_CONDITIONS: Final = ("Index Cond", "Recheck Cond", "Filter", "Hash Cond", "Merge Cond", "Join Filter")


@dataclass(slots=True)
class Plan:
    """The tables and functions that a plan names.

    Attributes:
        tables: The tables it scans.
        functions: Functions that it calls: schema or None, and name.
        equal: Its conditions that are equalities.
    """

    tables: dict[Table, None] = field(default_factory=dict)
    functions: set[tuple[str | None, str]] = field(default_factory=set)
    equal: dict[Equal, None] = field(default_factory=dict)


def read_plan(document: object) -> Plan:
    """Collect the tables, functions and equalities of a plan."""
    plan = Plan()
    nodes = list(nodes_of(document))
    aliases: dict[str, Table] = {}
    internal: set[int] = set()
    for node in nodes:
        if "Relation Name" in node and "Schema" in node:
            table = Table(node["Schema"], node["Relation Name"])
            plan.tables[table] = None
            aliases[node.get("Alias", table.name)] = table
        if "Function Name" in node:
            plan.functions.add((node.get("Schema"), node["Function Name"]))
        # Before Postgres 17 the result of a subquery looks like a parameter.
        if found := _INIT_PLAN.search(str(node.get("Subplan Name", ""))):
            internal |= {int(number) for number in re.findall(r"\d+", found[1])}
    for node in nodes:
        for text in texts_of(node):
            plan.functions |= called(text)
        for name in _CONDITIONS:
            for equal in _equalities(str(node.get(name, "")), aliases, internal):
                plan.equal[equal] = None
    return plan


def called(text: str) -> set[tuple[str | None, str]]:
    """Return the names before a parenthesis; more than functions, of which the catalog knows the rest."""
    return {
        (None if schema == "" else unquoted(schema), unquoted(name)) for schema, name in _CALLED.findall(text)
    }


def named_tables(body: str) -> list[str]:
    """Return the names that stand where PL/pgSQL names a table."""
    text = bare(body)
    found: dict[str, None] = {}
    for match in _FROM.finditer(text):
        for item in match[1].split(","):
            if name := _FIRST.match(item):
                found[name[1]] = None
    return list(found)


def bare(body: str) -> str:
    """Return the body of a function without its comments and strings."""
    return _STRING.sub("''", _COMMENT.sub(" ", body))


def nodes_of(part: object) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from nodes_of(value)
    elif isinstance(part, list):
        for value in part:
            yield from nodes_of(value)


def texts_of(node: dict[str, Any]) -> Iterator[str]:
    for value in node.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


def _equalities(text: str, aliases: dict[str, Table], internal: set[int]) -> Iterator[Equal]:
    found = [(match[1], match[2], match[3]) for match in _BOUND.finditer(text)]
    found += [(match[2], match[3], match[1]) for match in _BINDS.finditer(text)]
    for alias, column, number in found:
        table = aliases.get(unquoted(alias))
        if table is not None and int(number) not in internal:
            yield Equal(table, unquoted(column), parameter=int(number))
    for match in _JOINED.finditer(text):
        left, right = aliases.get(unquoted(match[1])), aliases.get(unquoted(match[3]))
        if left is not None and right is not None:
            yield Equal(left, unquoted(match[2]), right, unquoted(match[4]))


def unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
