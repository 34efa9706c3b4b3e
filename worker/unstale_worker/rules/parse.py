"""Checks the data of a rules file and makes watches of it, noting every mistake."""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from unstale.errors import RuleError
from unstale_worker.rules.document import Document, Path
from unstale_worker.rules.identifiers import NameMistake, TableName, check_name
from unstale_worker.rules.plan import Watch
from unstale_worker.rules.query import Query
from unstale_worker.rules.select import outputs
from unstale_worker.rules.template import Template, columns_of

MAX_TTL_SECONDS: Final = 3650 * 86400.0

_WATCH_FIELDS: Final = ("table", "keys", "columns", "query", "reads")
_TOP_FIELDS: Final = ("watch", "ttl")
_DURATION: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_DURATION_REMEDY: Final = 'Write "30s", "2m", "1h30m", "7d" or a whole number of seconds, at most ten years.'

T = TypeVar("T")


class Parser:
    """Turns one document into watches and TTLs; ``errors`` holds every mistake found on the way.

    Args:
        document: The parsed TOML.
        file: The file as the user named it, for the errors.
        base: Where the rules stand in the document: ``()``, or ``("tool", "unstale")``.
    """

    def __init__(self, document: Document, *, file: str, base: Path = ()) -> None:
        self.errors: list[RuleError] = []
        self._document = document
        self._file = file
        self._base = base

    def run(self) -> tuple[tuple[Watch, ...], tuple[tuple[str, float], ...]]:
        """The watches and the TTLs; to be used only if ``errors`` is empty afterwards."""
        data: object = self._document.data
        for name in self._base:
            data = data.get(name) if isinstance(data, dict) else None
        if not isinstance(data, dict):
            self._mistake((), data, "not a table", "Write [[watch]] blocks and a [ttl] table.")
            return (), ()
        for name in data:
            if name not in _TOP_FIELDS:
                self._unknown((name,), data[name], _TOP_FIELDS)
        watches = tuple(self._watches(data.get("watch", [])))
        return watches, tuple(self._ttl(data.get("ttl", {}), watches))

    # --- [[watch]] ------------------------------------------------------------------------------

    def _watches(self, blocks: object) -> Iterator[Watch]:
        if not isinstance(blocks, list):
            self._mistake(("watch",), blocks, "not a list of rules", "Write each rule as a [[watch]] block.")
            return
        seen: dict[object, int] = {}
        for number, block in enumerate(blocks):
            path: Path = ("watch", number)
            if not isinstance(block, dict):
                self._mistake(path, block, "not a rule", "Write each rule as a [[watch]] block.")
                continue
            watch = self._watch(path, block)
            if watch is None:
                continue
            same = (watch.table, watch.keys, watch.columns, watch.query)
            if same in seen:
                self._mistake(
                    path, str(watch.table), f"the same rule as on line {seen[same]}", "Remove one of them."
                )
            seen[same] = watch.line
            yield watch

    def _watch(self, path: Path, block: dict[str, object]) -> Watch | None:
        before = len(self.errors)
        for name in block:
            if name not in _WATCH_FIELDS:
                self._unknown((*path, name), block[name], _WATCH_FIELDS)
        table = self._one(block, path, "table", TableName.parse, 'Write table = "public.profiles".')
        keys = self._many(block, path, "keys", Template.parse, 'Write keys = ["user:{id}:profile"].')
        columns = self._many(block, path, "columns", _column, "", required=False)
        query = self._one(block, path, "query", Query.parse, "", required=False)
        reads = self._many(block, path, "reads", TableName.parse, "", required=False)
        if reads is not None and "query" not in block:
            self._mistake(
                (*path, "reads"), block["reads"], "belongs to a query", "Add query, or remove reads."
            )
        if len(self.errors) > before or table is None or keys is None:
            return None
        return Watch(table, keys, columns, query, reads, _row_columns(keys, query), self._line(path))

    def _one(
        self,
        block: dict[str, object],
        path: Path,
        name: str,
        read: Callable[[str], T],
        example: str,
        *,
        required: bool = True,
    ) -> T | None:
        if name not in block:
            if required:
                self._mistake(path, block, f"{name} is missing", example)
            return None
        return self._read((*path, name), block[name], read)

    def _many(
        self,
        block: dict[str, object],
        path: Path,
        name: str,
        read: Callable[[str], T],
        example: str,
        *,
        required: bool = True,
    ) -> tuple[T, ...] | None:
        if name not in block:
            if required:
                self._mistake(path, block, f"{name} is missing", example)
            return None
        values = block[name]
        if not isinstance(values, list) or not values:
            self._mistake((*path, name), values, "not a list with something in it", 'Write ["...", "..."].')
            return None
        found: dict[T, None] = {}
        for number, value in enumerate(values):
            item = self._read((*path, name, number), value, read)
            if item is None:
                continue
            if item in found:
                self._mistake((*path, name, number), value, "listed twice", "Remove one of them.")
            found[item] = None
        return tuple(found)

    def _read(self, path: Path, value: object, read: Callable[[str], T]) -> T | None:
        if not isinstance(value, str):
            self._mistake(path, value, "not a string", "Put it in quotes.")
            return None
        try:
            return read(value)
        except NameMistake as mistake:
            self._mistake(path, value, mistake.problem, mistake.remedy)
            return None

    # --- [ttl] ----------------------------------------------------------------------------------

    def _ttl(self, table: object, watches: tuple[Watch, ...]) -> Iterator[tuple[str, float]]:
        if not isinstance(table, dict):
            self._mistake(("ttl",), table, "not a table", 'Write [ttl] and below it "user:*:profile" = "1h".')
            return
        templates = {
            template.text: template for watch in watches for template in watch.keys if template.columns
        }
        for pattern, value in table.items():
            path: Path = ("ttl", pattern)
            if isinstance(value, dict):
                self._mistake(
                    path, value, "not a duration", "A pattern with dots or colons needs double quotes."
                )
            elif problem := _pattern_problem(pattern):
                self._mistake(path, pattern, problem, 'Write a Redis glob, such as "user:*:profile".')
            elif pattern in templates:
                remedy = f'Write it as a pattern: "{templates[pattern].pattern}".'
                self._mistake(path, pattern, "a template with placeholders", remedy)
            elif (seconds := _seconds(value)) is None:
                self._mistake(path, value, "not a duration", _DURATION_REMEDY)
            else:
                yield pattern, seconds

    # --- mistakes -------------------------------------------------------------------------------

    def _unknown(self, path: Path, value: object, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known)}."
        self._mistake(path, value, "unknown field", remedy)

    def _mistake(self, path: Path, value: object, problem: str, remedy: str) -> None:
        field = _field(path) or _field(self._base) or "file"
        self.errors.append(
            RuleError(
                file=self._file,
                line=self._line(path),
                field=field,
                value=value,
                problem=problem,
                remedy=remedy,
            )
        )

    def _line(self, path: Path) -> int:
        return self._document.line(self._base + path)


def _field(path: Path) -> str:
    """``watch[0].keys[1]``, counting from 0; a name with other characters in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f'."{part}"' if text else f'"{part}"'
    return text


def _column(name: str) -> str:
    check_name(name)
    return name


def _row_columns(keys: tuple[Template, ...], query: Query | None) -> tuple[str, ...]:
    """What the changed row itself must give.

    With a query that is what the query names, and what its select list certainly does not return. When
    the select list cannot be read (``select *``), the templates are taken to be filled by the query.
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
        return "holds a control character"
    bare = re.sub(r"\\.", "", pattern, flags=re.DOTALL)
    return "a bracket that is not closed" if re.search(r"\[[^\]]*\Z", bare) else None


def _seconds(value: object) -> float | None:
    """Seconds of ``"1h30m"`` or of a whole number; None for anything else, zero and more than ten years."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    elif isinstance(value, int) and not isinstance(value, bool):
        total = float(min(value, 2**53))
    else:
        return None
    return total if 0 < total <= MAX_TTL_SECONDS else None
