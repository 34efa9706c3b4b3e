"""Parse the ``[refresh."..."]`` tables of a rules file and record every mistake."""

import re
from collections.abc import Iterator
from typing import Final

from unstale.protocol.names import TAG
from unstale_worker.rules.budget import BUDGET_FIELDS, parse_budgets, parse_over_budget
from unstale_worker.rules.field_checks import DURATION_REMEDY, FieldChecker, seconds_of
from unstale_worker.rules.identifiers import NameMistake, TableName, check_name
from unstale_worker.rules.plan import Watch
from unstale_worker.rules.query import Query
from unstale_worker.rules.reads import READ_FIELDS, durations
from unstale_worker.rules.refresh import (
    SEPARATOR,
    Loader,
    PythonLoader,
    Rate,
    RefreshSpec,
    RowLoader,
    SqlLoader,
    inseparable,
    overlap,
)
from unstale_worker.rules.template import Template
from unstale_worker.rules.toml_lines import Path

MAX_TIMEOUT: Final = 3600.0
"""Maximum seconds for one load."""
MAX_CONCURRENCY: Final = 10_000

_OPTIONS: Final = (
    "debounce",
    "only_if_cached",
    "serve_stale",
    "timeout",
    "concurrency",
    "rate",
    "ttl",
    *READ_FIELDS,
)
_OF_ROW: Final = ("table", "key", "columns")
_OF_SQL: Final = ("query", "reads")
_OF_PYTHON: Final = ("inputs", *BUDGET_FIELDS)
_FIELDS: Final = ("loader", *_OF_ROW, *_OF_SQL, *_OF_PYTHON, *_OPTIONS)
_PYTHON: Final = re.compile(r"((?:[^\W\d]\w*\.)*[^\W\d]\w*):((?:[^\W\d]\w*\.)*[^\W\d]\w*)")
_RATE: Final = re.compile(r"([1-9]\d{0,8})/(s|m|h|d)")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EXAMPLE: Final = 'Write [refresh."user:{user_id}:greeting"] and below it loader = "package.module:function".'


class RefreshParser:
    """Parser from tables to refreshes; mistakes go to ``checker``.

    Args:
        checker: The document.
        watches: Its watches. A refresh is a mistake if none of them invalidates its keys.
    """

    def __init__(self, checker: FieldChecker, watches: tuple[Watch, ...]) -> None:
        self._checker = checker
        templates = dict.fromkeys(template for watch in watches for template in watch.keys)
        self._watched = tuple(template for template in templates if not template.is_tag)
        self._tags = frozenset(template.pattern for template in templates if template.is_tag)

    def run(self, tables: object) -> Iterator[RefreshSpec]:
        """Yield the refreshes in file order: the first that matches a key counts."""
        check = self._checker
        if not isinstance(tables, dict):
            check.mistake(("refresh",), tables, "must be tables named by a pattern", _EXAMPLE)
            return
        seen: dict[str, int] = {}
        for name, block in tables.items():
            path: Path = ("refresh", name)
            if not isinstance(block, dict):
                check.mistake(path, block, "must be a table named by a pattern", _EXAMPLE)
                continue
            before = len(check.errors)
            template = self._template(path, name)
            spec = self._spec(path, block, template) if template is not None else None
            if template is not None and template.pattern in seen:
                problem = f"the same keys as on line {seen[template.pattern]}"
                check.mistake(path, name, problem, "Remove one of them.")
            if template is not None:
                seen[template.pattern] = check.line(path)
            if spec is not None and len(check.errors) == before:
                yield spec

    def _template(self, path: Path, name: str) -> Template | None:
        """Parse the template in the table's name."""
        check = self._checker
        template = check.read(path, name, Template.parse)
        if template is None:
            return None
        if "*" in "".join(template.literals):
            remedy = "Name the segments instead: user:{user_id}:greeting."
            check.mistake(path, name, "a glob is not allowed here", remedy)
        elif pair := inseparable(template):
            problem = f"a key does not tell where {{{pair[0]}}} ends and {{{pair[1]}}} begins"
            remedy = f"Put {SEPARATOR!r} between them, in the keys of the [[watch]] and of the agent, too."
            check.mistake(path, name, problem, remedy)
        elif TAG + template.pattern in self._tags or template.is_tag:
            remedy = "Only keys are refreshed: name in keys of the [[watch]] the key to refresh."
            check.mistake(path, name, "a tag", remedy)
        elif not any(overlap(template, watched) for watched in self._watched):
            shown = ", ".join(watched.text for watched in self._watched[:5]) or "none"
            remedy = f"Watched templates: {shown}. Only keys that a [[watch]] invalidates are refreshed."
            check.mistake(path, name, "no [[watch]] invalidates such a key", remedy)
        else:
            return template
        return None

    def _spec(self, path: Path, block: dict[str, object], template: Template) -> RefreshSpec | None:
        check = self._checker
        for name in block:
            if name not in _FIELDS:
                check.unknown((*path, name), block[name], _FIELDS)
        loader = self._loader(path, block, template)
        debounce = self._duration(path, block, "debounce", default=0.0, zero=True)
        serve_stale = self._duration(path, block, "serve_stale", default=0.0, zero=True)
        timeout = self._duration(path, block, "timeout", default=30.0)
        if timeout > MAX_TIMEOUT:
            check.mistake((*path, "timeout"), block["timeout"], "more than an hour", "Write at most 1h.")
        ttl = self._duration(path, block, "ttl", default=0.0)
        concurrency = block.get("concurrency", 8)
        if (
            isinstance(concurrency, bool)
            or not isinstance(concurrency, int)
            or not 1 <= concurrency <= MAX_CONCURRENCY
        ):
            remedy = f"Write a whole number from 1 to {MAX_CONCURRENCY}."
            check.mistake((*path, "concurrency"), concurrency, "not a valid number of loads", remedy)
            concurrency = 1
        only_if_cached = check.flag(block, path, "only_if_cached", default=True)
        rate = check.read((*path, "rate"), block["rate"], _rate) if "rate" in block else None
        soft_timeout, stale_if_error = durations(check, path, block)
        inputs = self._inputs(path, block, template, keeps=bool(serve_stale or stale_if_error))
        budgets = parse_budgets(check, path, block, template.columns)
        over_budget = parse_over_budget(check, path, block, serves_stale=serve_stale > 0)
        if block.get("loader") in ("row", "sql") and "budget" in block:
            remedy = "Remove it: rate and concurrency limit a query."
            check.mistake((*path, "budget"), block["budget"], "only a Python loader has a budget", remedy)
        if loader is None:
            return None
        return RefreshSpec(
            template,
            loader,
            inputs=inputs,
            budgets=budgets,
            over_budget=over_budget,
            debounce=debounce,
            only_if_cached=only_if_cached,
            serve_stale=serve_stale,
            timeout=timeout,
            concurrency=concurrency,
            rate=rate,
            ttl=ttl or None,
            soft_timeout=soft_timeout,
            stale_if_error=stale_if_error,
            line=check.line(path),
        )

    def _duration(
        self, path: Path, block: dict[str, object], name: str, *, default: float, zero: bool = False
    ) -> float:
        if name not in block:
            return default
        seconds = seconds_of(block[name], zero=zero)
        if seconds is None:
            remedy = DURATION_REMEDY.replace('"30s"', '"250ms", "30s"')
            self._checker.mistake((*path, name), block[name], "not a duration", remedy)
            return default
        return seconds

    def _inputs(
        self, path: Path, block: dict[str, object], template: Template, *, keeps: bool
    ) -> Query | None:
        check = self._checker
        if "inputs" not in block:
            return None
        query = check.one(block, path, "inputs", Query.parse, "", required=False)
        if query is not None and (unknown := [c for c in query.columns if c not in template.columns]):
            names = ", ".join(dict.fromkeys(template.columns)) or "none"
            problem = f"names {', '.join(unknown)}, which is not a placeholder of the key"
            check.mistake((*path, "inputs"), query.text, problem, f"Placeholders of the key: {names}.")
        if block.get("loader") in ("row", "sql"):
            remedy = "Remove it: a query is as cheap as the loader."
            check.mistake((*path, "inputs"), block["inputs"], "only a Python loader has inputs", remedy)
        elif not keeps:
            remedy = "Add serve_stale or stale_if_error: what they keep is stored again."
            check.mistake((*path, "inputs"), block["inputs"], "no old value is kept", remedy)
        return query

    # --- loaders --------------------------------------------------------------------------------

    def _loader(self, path: Path, block: dict[str, object], template: Template) -> Loader | None:
        check = self._checker
        kind = check.one(block, path, "loader", _kind, _EXAMPLE)
        if kind is None:
            return None
        allowed = {"row": _OF_ROW, "sql": _OF_SQL}.get(kind, ())
        for name in (*_OF_ROW, *_OF_SQL):
            if name in block and name not in allowed:
                owner = "row" if name in _OF_ROW else "sql"
                remedy = f"Remove it, or write loader = {owner!r}."
                check.mistake((*path, name), block[name], f"only the loader {owner!r} has this field", remedy)
        if kind == "row":
            return self._row(path, block, template)
        if kind == "sql":
            return self._sql(path, block, template)
        module, _, function = kind.partition(":")
        return PythonLoader(module, function)

    def _row(self, path: Path, block: dict[str, object], template: Template) -> RowLoader | None:
        check = self._checker
        table = check.one(block, path, "table", TableName.parse, 'Write table = "public.profiles".')
        columns = check.many(block, path, "columns", _name, "", required=False)
        key = self._key(path, block, template)
        return RowLoader(table, key, columns) if table is not None and key else None

    def _key(self, path: Path, block: dict[str, object], template: Template) -> tuple[tuple[str, str], ...]:
        """Parse ``key = "id"`` for a single placeholder, or ``key = { id = "user_id" }``."""
        check, fields = self._checker, dict.fromkeys(template.columns)
        value = block.get("key")
        shown = ", ".join(f'{each} = "{each}"' for each in fields)
        if not fields:
            remedy = 'Write loader = "sql" for a key without placeholders.'
            check.mistake(path, template.text, "the loader 'row' needs a placeholder to find the row", remedy)
        elif "key" not in block:
            check.missing(path, block, "key", 'Write key = "id": the column that the placeholder equals.')
        elif isinstance(value, str) and len(fields) == 1:
            column = check.read((*path, "key"), value, _name)
            return () if column is None else ((column, template.columns[0]),)
        elif not isinstance(value, dict) or not value:
            remedy = f"Write key = {{ {shown} }}: each column and the placeholder that it equals."
            check.mistake((*path, "key"), value, "must map columns to placeholders", remedy)
        else:
            pairs: list[tuple[str, str]] = []
            for column, placeholder in value.items():
                if placeholder not in fields:
                    remedy = f"Placeholders of the key: {', '.join(fields)}."
                    check.mistake((*path, "key", column), placeholder, "not a placeholder", remedy)
                elif check.read((*path, "key", column), column, _name) is not None:
                    pairs.append((column, str(placeholder)))
            unused = [name for name in fields if name not in value.values()]
            if unused and len(pairs) == len(value):
                remedy = "Name a column for every placeholder; together they identify the row."
                check.mistake((*path, "key"), value, f"no column for {', '.join(unused)}", remedy)
            return tuple(pairs)
        return ()

    def _sql(self, path: Path, block: dict[str, object], template: Template) -> SqlLoader | None:
        check = self._checker
        example = 'Write query = "select ... where id = {user_id}".'
        query = check.one(block, path, "query", Query.parse, example)
        reads = check.many(block, path, "reads", TableName.parse, "", required=False)
        if query is None:
            return None
        if unknown := [name for name in query.columns if name not in template.columns]:
            names = ", ".join(dict.fromkeys(template.columns)) or "none"
            problem = f"names {', '.join(unknown)}, which is not a placeholder of the key"
            check.mistake((*path, "query"), query.text, problem, f"Placeholders of the key: {names}.")
            return None
        return SqlLoader(query, reads)


def _kind(text: str) -> str:
    if text in ("row", "sql") or _PYTHON.fullmatch(text):
        return text
    raise NameMistake("not a loader", remedy='Write "row", "sql", or "package.module:function".')


def _name(name: str) -> str:
    check_name(name)
    return name


def _rate(text: str) -> Rate:
    match = _RATE.fullmatch(text)
    if match is None:
        raise NameMistake("not a rate", remedy='Write "10/s", "600/m", "1000/h" or "50000/d".')
    return Rate(int(match[1]), _UNITS[match[2]])
