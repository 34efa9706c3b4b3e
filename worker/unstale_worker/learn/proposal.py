"""Proposes the ``[[watch]]`` that would have invalidated a key. Pure."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from unstale.companion.recording.reading import Equal, Observation, Table, segments
from unstale_worker.rules import TableName
from unstale_worker.rules.identifiers import display, quote_identifier


@dataclass(frozen=True, slots=True)
class Proposal:
    """One rule.

    Attributes:
        table: The table to watch.
        key: The template of the keys, or their shape if no columns were found for it.
        query: The fan-out query; None if the row itself fills the template.
        complete: False if a person has to name the columns.
        everything: True if the query returns every key, as no join leads from the row to its keys.
        tag: True if ``key`` is the template of a tag.
    """

    table: TableName
    key: str
    query: str | None = None
    complete: bool = True
    everything: bool = False
    tag: bool = False


def propose(observation: Observation, table: Table) -> Proposal:
    """Return the rule for ``table`` that the conditions of the statement suggest.

    It names a tag of the value, if one can be made from a row: a key often has parts that no row has.
    """
    for tag in observation.tags:
        proposal = _propose(observation.of_tag(tag), table)
        if proposal.complete and not proposal.everything:
            return replace(proposal, tag=True)
    return _propose(observation, table)


def _propose(observation: Observation, table: Table) -> Proposal:
    name = TableName(table.schema, table.name)
    parts = segments(observation.key)
    shape = segments(observation.shape)
    varying = [at for at in range(0, len(shape), 2) if shape[at] == "*"]
    if not varying:
        return Proposal(name, observation.key)
    equal = observation.reading.equal
    for owner, path in _paths(equal, table):
        columns = _columns(equal, owner, observation, varying)
        if columns is not None:
            template = _template(parts, columns)
            return Proposal(name, template, _query(owner, path, columns.values()) if path else None)
    for owner in observation.reading.tables:
        columns = _columns(equal, owner, observation, varying)
        if columns is not None:
            query = _select(columns.values(), f"from {_sql(owner)}")
            return Proposal(name, _template(parts, columns), query, everything=True)
    return Proposal(name, observation.shape, complete=False)


def toml(proposals: Iterable[Proposal]) -> str:
    """Return the rules as text for ``unstale.toml``; keys of the same table and query share a block."""
    blocks: dict[tuple[TableName, str | None, bool, bool, bool], dict[str, None]] = {}
    for each in proposals:
        identity = (each.table, each.query, each.complete, each.everything, each.tag)
        blocks.setdefault(identity, {})[each.key] = None
    return "\n".join("".join(_block(*identity, keys)) for identity, keys in blocks.items())


def _block(
    table: TableName, query: str | None, complete: bool, everything: bool, tags: bool, keys: Iterable[str]
) -> Iterator[str]:
    mark = ""
    if not complete:
        yield "# Name the columns of a row that stand in its keys, or add a query: docs/rules.md\n"
        mark = "# "
    if everything:
        yield "# No join leads from a row to its keys, so this query invalidates every key. Narrow it down.\n"
    yield f"{mark}[[watch]]\n"
    yield f"{mark}table = {_string(str(table))}\n"
    yield f"{mark}{'tags' if tags else 'keys'}  = [{', '.join(map(_string, keys))}]\n"
    if query is not None:
        yield f"{mark}query = {_string(query)}\n"


def _paths(equal: Iterable[Equal], start: Table) -> Iterator[tuple[Table, tuple[Equal, ...]]]:
    """Yield each table that joins lead to from ``start``, the nearest first, with the joins on the way."""
    joins = [each for each in equal if each.other is not None]
    queue: deque[tuple[Table, tuple[Equal, ...]]] = deque([(start, ())])
    seen = {start}
    while queue:
        table, path = queue.popleft()
        yield table, path
        for join in joins:
            for step in (join, _turned(join)):
                if step.table == table and step.other is not None and step.other not in seen:
                    seen.add(step.other)
                    queue.append((step.other, (*path, step)))


def _turned(join: Equal) -> Equal:
    assert join.other is not None
    assert join.other_column is not None
    return Equal(join.other, join.other_column, join.table, join.column)


def _columns(
    equal: Iterable[Equal], table: Table, observation: Observation, varying: list[int]
) -> dict[int, str] | None:
    """Return the column of ``table`` for each varying segment of the key, or None if one has none."""
    bound: dict[int, str] = {}
    for (owner, column), number in _bound(equal).items():
        if owner == table:
            bound.setdefault(number, column)
    found = {at: bound.get(observation.holes.get(at, 0)) for at in varying}
    columns = {at: column for at, column in found.items() if column is not None}
    return columns if len(columns) == len(found) else None


def _bound(equal: Iterable[Equal]) -> dict[tuple[Table, str], int]:
    """Return the parameter that each column equals, directly or by joins."""
    bound = {(each.table, each.column): each.parameter for each in equal if each.parameter is not None}
    joins = [each for each in equal if each.other is not None]
    for _ in joins:
        for join in (*joins, *map(_turned, joins)):
            assert join.other is not None
            assert join.other_column is not None
            number = bound.get((join.other, join.other_column))
            if number is not None:
                bound.setdefault((join.table, join.column), number)
    return bound


def _template(parts: list[str], columns: dict[int, str]) -> str:
    holes = {at: f"{{{display(column)}}}" for at, column in columns.items()}
    return "".join(holes.get(at, part) for at, part in enumerate(parts))


def _query(owner: Table, path: tuple[Equal, ...], columns: Iterable[str]) -> str:
    """Return the query from a changed row along the joins to the table that has the key's columns."""
    first, *rest = path
    assert first.other is not None
    sources = f"from {_sql(first.other)}"
    for step in rest:
        assert step.other is not None
        left, right = (
            f"{_sql(step.table)}.{_name(step.column)}",
            f"{_sql(step.other)}.{_name(step.other_column)}",
        )
        sources += f" join {_sql(step.other)} on {left} = {right}"
    condition = f"{_sql(first.other)}.{_name(first.other_column)} = {{{display(first.column)}}}"
    selected = columns if not rest else [f"{_sql(owner)}.{_name(column)}" for column in columns]
    if not rest:
        condition = f"{_name(first.other_column)} = {{{display(first.column)}}}"
        return _select(selected, f"{sources} where {condition}")
    return f"select {', '.join(selected)} {sources} where {condition}"


def _select(columns: Iterable[str], rest: str) -> str:
    return f"select {', '.join(map(_name, dict.fromkeys(columns)))} {rest}"


def _sql(table: Table) -> str:
    return f"{_name(table.schema)}.{_name(table.name)}"


def _name(name: str | None) -> str:
    assert name is not None
    return name if name.isidentifier() and name.islower() and name.isascii() else quote_identifier(name)


def _string(text: str) -> str:
    """Return a TOML string: a literal one if the text has double quotes or backslashes."""
    if ('"' in text or "\\" in text) and "'" not in text:
        return f"'{text}'"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
