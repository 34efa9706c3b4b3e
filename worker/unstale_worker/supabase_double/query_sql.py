"""Write the SQL of a REST request. Pure: values become literals, names are quoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unstale_worker.supabase_double.query_text import Column, Embed, Filter, Query, read_list
from unstale_worker.supabase_double.relations import Relation, Relations
from unstale_worker.supabase_double.rest_errors import Failure

_COMPARED = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "match": "~", "imatch": "~*",
    "cs": "@>", "cd": "<@", "ov": "&&", "sl": "<<", "sr": ">>", "nxr": "&<", "nxl": "&>", "adj": "-|-",
    "isdistinct": "is distinct from",
}  # fmt: skip
_SEARCHED = {
    "fts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}
_IS = {"null": "null", "not_null": "not null", "true": "true", "false": "false", "unknown": "unknown"}


def name(text: str) -> str:
    """Quote an identifier."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a value, whose type its place decides."""
    if "\0" in text:
        raise Failure(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00')
    return "'" + text.replace("'", "''") + "'"


def column(alias: str, item: Column) -> str:
    """Return a column with its path into JSON."""
    text = f"{alias}.{name(item.name)}"
    if item.path:
        text = f"to_jsonb({text})"
        for operator, key in zip(item.path[::2], item.path[1::2], strict=True):
            text += operator + (key if key.lstrip("-").isdigit() else literal(key))
    return f"({text})::{item.cast}" if item.cast else text


def condition(alias: str, item: Filter) -> str:
    """Return one condition."""
    if item.column is None:
        listed = f" {item.operator} ".join(condition(alias, part) for part in item.parts)
        text = f"({listed})"
    else:
        text = _comparison(column(alias, item.column), item)
    return f"not {text}" if item.negated else text


def _comparison(left: str, item: Filter) -> str:
    if item.operator in _COMPARED:
        if item.modifier in ("any", "all"):
            values = "array[" + ", ".join(literal(value) for value in read_list(item.value)) + "]"
            return f"({left} {_COMPARED[item.operator]} {item.modifier} ({values}))"
        return f"({left} {_COMPARED[item.operator]} {literal(item.value)})"
    if item.operator in ("like", "ilike"):
        return f"({left} {item.operator} {literal(item.value.replace('*', '%'))})"
    if item.operator == "is" and item.value.lower() in _IS:
        return f"({left} is {_IS[item.value.lower()]})"
    if item.operator == "in":
        listed = ", ".join(map(literal, read_list(item.value)))
        return f"({left} in ({listed}))" if listed else "false"
    if item.operator in _SEARCHED:
        language = f"{literal(item.modifier)}, " if item.modifier else ""
        return f"({left} @@ {_SEARCHED[item.operator]}({language}{literal(item.value)}))"
    raise Failure(400, "PGRST100", f"unstale dev does not know the filter {item.operator!r}")


@dataclass(slots=True)
class Writer:
    """Writes one request; aliases count through all its levels."""

    relations: Relations
    _aliases: int = 0

    def alias(self) -> str:
        """Return an alias that no other level has."""
        self._aliases += 1
        return f"t{self._aliases}"

    def rows(
        self, source: str, alias: str, place: tuple[str, str], items: Sequence[Column | Embed], query: Query,
        *, joined: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Return the query of one level: `items` of `source`, which is a relation or a CTE."""
        where = [*joined, *(condition(alias, each) for each in query.filters)]
        grouped, shown = list[str](), list[str]()
        aggregated = any(isinstance(item, Column) and item.aggregate for item in items)
        for item in items:
            if isinstance(item, Column):
                text = self._column(alias, item)
                shown.append(text)
                if aggregated and not item.aggregate:
                    grouped.append(column(alias, item))
            else:
                shown += self._embedded(
                    alias,
                    place,
                    item,
                    query.embeds.get(item.alias) or query.embeds.get(item.table) or Query(),
                    where,
                )
        lines = ["select", ", ".join(shown) or "1", "from", source, "as", alias]
        if where:
            lines += ["where", " and ".join(where)]
        if grouped:
            lines += ["group by", ", ".join(grouped)]
        if query.order:
            lines += ["order by", ", ".join(self._order(alias, *each) for each in query.order)]
        if query.limit is not None:
            lines += ["limit", str(query.limit)]
        if query.offset is not None:
            lines += ["offset", str(query.offset)]
        return " ".join(lines)

    def _column(self, alias: str, item: Column) -> str:
        if item.aggregate:
            inside = f"{alias}.*" if item.name == "*" else column(alias, Column(item.name, item.path))
            text = (
                "count(*)" if (item.aggregate, item.name) == ("count", "*") else f"{item.aggregate}({inside})"
            )
            text = f"({text})::{item.cast}" if item.cast else text
            return f"{text} as {name(item.alias or item.aggregate)}"
        if item.name == "*":
            return f"{alias}.*"
        return f"{column(alias, item)} as {name(item.alias or (item.path[-1] if item.path else item.name))}"

    def _order(self, alias: str, item: Column, direction: str, nulls: str) -> str:
        words = {"nullsfirst": " nulls first", "nullslast": " nulls last", "": ""}
        return f"{column(alias, item)} {direction}{words[nulls]}"

    def _embedded(
        self, outer: str, place: tuple[str, str], item: Embed, query: Query, where: list[str]
    ) -> list[str]:
        relation = self.relations.find(*place, item.table, item.hint)
        alias, joined, source, target = self._join(outer, relation)
        if item.inner:
            conditions = [*joined, *(condition(alias, each) for each in query.filters)]
            where.append(f"exists (select from {source} as {alias} where {' and '.join(conditions)})")
        if item.spread:
            shown = []
            for each in item.items:
                if not isinstance(each, Column) or each.name == "*":
                    raise Failure(400, "PGRST100", "unstale dev spreads named columns only")
                inside = self.rows(source, alias, target, [each], query, joined=joined)
                shown.append(f"({inside}) as {name(each.alias or each.name)}")
            return shown
        inside = self.rows(source, alias, target, item.items, query, joined=joined)
        whole = "row_to_json(one)" if relation.to_one else "coalesce(json_agg(one), '[]'::json)"
        return [" ".join(["(select", whole, "from (", inside, ") as one) as", name(item.alias)])]

    def _join(self, outer: str, relation: Relation) -> tuple[str, list[str], str, tuple[str, str]]:
        """Return alias, conditions, source and place of the embedded table."""
        last = relation.steps[-1]
        alias, source = self.alias(), f"{name(last.schema)}.{name(last.table)}"
        if len(relation.steps) == 1:
            return alias, _pairs(outer, last.left, alias, last.right), source, (last.schema, last.table)
        first, middle = relation.steps[0], self.alias()
        near = _pairs(outer, first.left, middle, first.right) + _pairs(middle, last.left, alias, last.right)
        junction = f"{name(first.schema)}.{name(first.table)}"
        joined = f"exists (select from {junction} as {middle} where {' and '.join(near)})"
        return alias, [joined], source, (last.schema, last.table)


def _pairs(left: str, columns: Sequence[str], right: str, others: Sequence[str]) -> list[str]:
    pairs = zip(columns, others, strict=True)
    return [f"{left}.{name(column)} = {right}.{name(other)}" for column, other in pairs]
