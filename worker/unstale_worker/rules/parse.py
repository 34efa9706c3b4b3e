"""Check the data of a rules file and build its watches, TTLs and refreshes."""

import re
from collections.abc import Iterator
from typing import Final

from unstale.protocol.names import TAG
from unstale_worker.rules.field_checks import DURATION_REMEDY, FieldChecker, seconds_of
from unstale_worker.rules.identifiers import ColumnName, NameMistake, TableName, check_name
from unstale_worker.rules.parse_refresh import RefreshParser
from unstale_worker.rules.plan import Watch
from unstale_worker.rules.query import Query
from unstale_worker.rules.query_tables import outputs
from unstale_worker.rules.reads import ReadSpec, parse_reads
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.rules.template import Template, columns_of
from unstale_worker.rules.toml_lines import Path

_WATCH_FIELDS: Final = ("table", "keys", "tags", "columns", "query", "reads", "purge")
_TOP_FIELDS: Final = ("watch", "ttl", "refresh", "reads", "learn")
_LEARN_FIELDS: Final = ("ignore_tables", "ignore_columns", "ignore_keys")


class RulesParser(FieldChecker):
    """Parser from one document to watches, TTLs and refreshes; every mistake goes to ``errors``.

    Attributes:
        ignored_tables: Tables that `unstale learn` does not ask a rule for, once `run` has returned.
        ignored_columns: Columns that it asks no rule for.
        ignored_keys: Globs of the keys that it does not look at.
        reads: Options of reads, by template.
    """

    ignored_tables: tuple[TableName, ...] = ()
    ignored_columns: tuple[ColumnName, ...] = ()
    ignored_keys: tuple[str, ...] = ()

    reads: tuple[ReadSpec, ...] = ()

    def run(
        self,
    ) -> tuple[tuple[Watch, ...], tuple[tuple[str, float], ...], tuple[RefreshSpec, ...]]:
        """Return watches, TTLs and refreshes; use them only if ``errors`` is empty afterwards."""
        data: object = self.document.data
        for name in self.base:
            data = data.get(name) if isinstance(data, dict) else None
        if not isinstance(data, dict):
            self.mistake((), data, "must be a table", "Write [[watch]] blocks and a [ttl] table.")
            return (), (), ()
        for name in data:
            if name not in _TOP_FIELDS:
                self.unknown((name,), data[name], _TOP_FIELDS)
        self._learn(data.get("learn", {}))
        watches = tuple(self._watches(data.get("watch", [])))
        ttl = tuple(self._ttl(data.get("ttl", {}), watches))
        refreshes = tuple(RefreshParser(self, watches).run(data.get("refresh", {})))
        watched = [template for watch in watches for template in watch.keys]
        self.reads = tuple(parse_reads(self, data.get("reads", {}), refreshes, watched))
        return watches, ttl, refreshes

    # --- [learn] --------------------------------------------------------------------------------

    def _learn(self, block: object) -> None:
        path: Path = ("learn",)
        if not isinstance(block, dict):
            self.mistake(path, block, "must be a table", 'Write [learn] and below it ignore_tables = ["t"].')
            return
        for name in block:
            if name not in _LEARN_FIELDS:
                self.unknown((*path, name), block[name], _LEARN_FIELDS)
        tables = self.many(block, path, "ignore_tables", TableName.parse, "", required=False)
        self.ignored_tables = tables or ()
        columns = self.many(block, path, "ignore_columns", ColumnName.parse, "", required=False)
        self.ignored_columns = columns or ()
        self.ignored_keys = self.many(block, path, "ignore_keys", _glob, "", required=False) or ()

    # --- [[watch]] ------------------------------------------------------------------------------

    def _watches(self, blocks: object) -> Iterator[Watch]:
        if not isinstance(blocks, list):
            self.mistake(
                ("watch",), blocks, "must be a list of rules", "Write each rule as a [[watch]] block."
            )
            return
        seen: dict[object, int] = {}
        for number, block in enumerate(blocks):
            path: Path = ("watch", number)
            if not isinstance(block, dict):
                self.mistake(path, block, "must be a table", "Write each rule as a [[watch]] block.")
                continue
            watch = self._watch(path, block)
            if watch is None:
                continue
            same = (watch.table, watch.keys, watch.columns, watch.query)
            if same in seen:
                self.mistake(
                    path, str(watch.table), f"the same rule as on line {seen[same]}", "Remove one of them."
                )
            seen[same] = watch.line
            yield watch

    def _watch(self, path: Path, block: dict[str, object]) -> Watch | None:
        before = len(self.errors)
        for name in block:
            if name not in _WATCH_FIELDS:
                self.unknown((*path, name), block[name], _WATCH_FIELDS)
        table = self.one(block, path, "table", TableName.parse, 'Write table = "public.profiles".')
        example = 'Write keys = ["user:{id}:profile"], or tags.'
        alone = "tags" not in block and not self.meant(path, "tags")
        keys = self.many(block, path, "keys", _key, example, required=alone)
        tags = self.many(block, path, "tags", Template.parse_tag, "", required=False)
        columns = self.many(block, path, "columns", _column, "", required=False)
        query = self.one(block, path, "query", Query.parse, "", required=False)
        reads = self.many(block, path, "reads", TableName.parse, "", required=False)
        if reads is not None and "query" not in block:
            self.mistake((*path, "reads"), block["reads"], "needs a query", "Add query, or remove reads.")
        purge = self.flag(block, path, "purge", default=False)
        if purge and tags:
            problem = (
                "cannot be purged: what is stored under a tag becomes invalid, but stays in Redis for a while"
            )
            self.mistake((*path, "tags"), block["tags"], problem, "Name the keys, or write purge = false.")
        keys = (*(keys or ()), *(tags or ()))
        if len(self.errors) > before or table is None or not keys:
            return None
        return Watch(table, keys, columns, query, reads, _row_columns(keys, query), self.line(path), purge)

    # --- [ttl] ----------------------------------------------------------------------------------

    def _ttl(self, table: object, watches: tuple[Watch, ...]) -> Iterator[tuple[str, float]]:
        if not isinstance(table, dict):
            self.mistake(
                ("ttl",), table, "must be a table", 'Write [ttl] and below it "user:*:profile" = "1h".'
            )
            return
        templates = {
            template.text: template
            for watch in watches
            for template in watch.keys
            if template.columns and not template.is_tag
        }
        for pattern, value in table.items():
            path: Path = ("ttl", pattern)
            if isinstance(value, dict):
                self.mistake(
                    path, value, "not a duration", "A pattern with dots or colons needs double quotes."
                )
            elif problem := _pattern_problem(pattern):
                self.mistake(path, pattern, problem, 'Write a Redis glob, such as "user:*:profile".')
            elif pattern in templates:
                remedy = f'Write it as a pattern: "{templates[pattern].pattern}".'
                self.mistake(path, pattern, "a template with placeholders is not a pattern", remedy)
            elif (seconds := seconds_of(value)) is None:
                self.mistake(path, value, "not a duration", DURATION_REMEDY)
            else:
                yield pattern, seconds


def _key(text: str) -> Template:
    template = Template.parse(text)
    if template.is_tag:
        raise NameMistake(
            f"begins with {TAG}, which unstale reserves", remedy="Write the tag in tags = [...]."
        )
    return template


def _column(name: str) -> str:
    check_name(name)
    return name


def _glob(pattern: str) -> str:
    if problem := _pattern_problem(pattern):
        raise NameMistake(problem, remedy='Write a Redis glob, such as "user:*:profile".')
    return pattern


def _row_columns(keys: tuple[Template, ...], query: Query | None) -> tuple[str, ...]:
    """Return the columns that the changed row itself must provide.

    With a query, these are the columns that the query names, and the columns of the templates that its
    select list certainly does not return. If the select list cannot be derived (``select *``), the query is
    assumed to fill the templates.
    """
    if query is None:
        return columns_of(keys)
    returned = outputs(query)
    missing = set() if returned is None else set(columns_of(keys)) - returned
    return tuple(sorted(missing | set(query.columns)))


def _pattern_problem(pattern: str) -> str | None:
    if not pattern:
        return "empty"
    if re.search("[\x00-\x1f\x7f]", pattern):
        return "contains a control character"
    bare = re.sub(r"\\.", "", pattern, flags=re.DOTALL)
    return "a bracket is not closed" if re.search(r"\[[^\]]*\Z", bare) else None
