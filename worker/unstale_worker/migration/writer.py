"""Writes the next migration: the SQL that makes the database capture what the rules ask for."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from unstale.errors import ConfigurationError
from unstale_worker.migration.folder import Done, Folder, record
from unstale_worker.migration.query import create_query, drop_query, query_hash
from unstale_worker.rules import PythonLoader, RowLoader, Rules, SqlLoader, TableName, TableNeeds, Watch
from unstale_worker.rules.query_tables import tables_of
from unstale_worker.sql.text import array_literal, dollars, fill, literal, table_literal

NAME: Final = "unstale_watches"
Asking = dict[str, tuple[Watch, tuple[TableName, ...]]]
"""Each query by its hash: a rule that states it, and the tables it reads."""
_FORMAT: Final = 1  # raise it when a release has to write everything anew


@dataclass(frozen=True, slots=True)
class Result:
    """What `write_migration` did.

    Attributes:
        path: The new file, or None when the earlier ones already say what the rules say.
        base: unstale's own migrations that were copied because the folder lacked them.
        watched: Tables the new file watches, because they are new or watched differently.
        unwatched: Tables it stops watching.
        opened: Tables that queries and loaders read and that it opens to the worker's role.
        closed: Tables that none of them reads any more.
        queries: Hashes of the queries that it makes functions of, for a worker that reads over HTTPS.
        dropped: Hashes of those that it drops.
        doubts: What the queries' texts could not tell, as sentences; a rule's ``reads`` settles it.
    """

    path: Path | None
    base: tuple[Path, ...]
    watched: tuple[TableName, ...]
    unwatched: tuple[TableName, ...]
    opened: tuple[TableName, ...]
    closed: tuple[TableName, ...]
    queries: tuple[str, ...]
    dropped: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """Nothing was written, because nothing changed."""
        return self.path is None and not self.base


def write_migration(
    rules: Rules,
    folder: Path,
    *,
    base: Path | None = None,
    name: str | None = None,
    now: datetime | None = None,
    everything: bool = False,
) -> Result:
    """Write what the rules need beyond the files that ``folder`` has already; needs no database.

    Args:
        rules: The rules.
        folder: The user's ``supabase/migrations``; made if it is missing.
        base: unstale's own migrations; those that ``folder`` lacks are copied, unchanged, to come first.
        name: Name of the new file after its digits; ``unstale_watches`` by default.
        now: The time its digits say, unless a file in the folder is later.
        everything: Write every watch again, whatever earlier files say (a database has lost some).

    Raises:
        ConfigurationError: The name or an existing header cannot be used, or a file cannot be written.
    """
    what = f"{_checked(name or NAME)}.sql"
    now = now or datetime.now(UTC)
    target = Folder(folder)
    done = Done() if everything else target.done()
    asking, doubts = _asking(rules)
    loading, loading_doubts = _loading(rules)
    doubts += loading_doubts
    reading = loading.union(*(tables for _, tables in asking.values()))
    needs = {TableName(*table): need for table, need in rules.tables.items()}
    wanted = Done(needs, reading, set(asking), _hash(needs, reading, set(asking)))
    copied = tuple(_copy_base(base, target, now)) if base else ()
    if done == wanted or (done.hash is None and not needs):
        return Result(None, copied, (), (), (), (), (), (), tuple(doubts))
    result = Result(
        target.path / f"{target.next_version(now=now)}_{what}",
        copied,
        tuple(table for table in needs if done.watched.get(table) != needs[table]),
        tuple(sorted(done.watched.keys() - needs.keys())),
        tuple(sorted(wanted.reads - done.reads)),
        tuple(sorted(done.reads - wanted.reads)),
        tuple(hash for hash in asking if hash not in done.queries),
        tuple(sorted(done.queries - wanted.queries)),
        tuple(doubts),
    )
    assert result.path is not None
    version, _, _ = result.path.name.partition("_")
    file = Path(rules.file).name
    target.add(version, what, _text(result, needs, asking, file=file, state_hash=str(wanted.hash)))
    return result


def _asking(rules: Rules) -> tuple[Asking, list[str]]:
    """The rules' queries and the tables they read, and what their texts could not tell."""
    asking: Asking = {}
    doubts: list[str] = []
    for watch in rules.watches:
        if watch.query is None:
            continue
        tables = watch.reads
        if tables is None:
            found = tables_of(watch.query)
            tables = tuple(found.tables)
            doubts.extend(
                f"Query on {watch.table} (line {watch.line}): {doubt}; state its tables with reads = [...]."
                for doubt in found.doubts
            )
        _, before = asking.get(query_hash(watch), (watch, ()))
        asking[query_hash(watch)] = (watch, tuple(dict.fromkeys((*before, *tables))))
    return asking, doubts


def _loading(rules: Rules) -> tuple[set[TableName], list[str]]:
    """The tables that the worker's own loaders read, and what their queries' texts could not tell."""
    tables: set[TableName] = set()
    doubts: list[str] = []
    for spec in rules.refreshes:
        match spec.loader:
            case RowLoader(table):
                tables.add(table)
            case SqlLoader(query, None):
                found = tables_of(query)
                tables.update(found.tables)
                doubts += [
                    f"Refresh of {spec.template.text} (line {spec.line}): {doubt}; state its tables with "
                    "reads = [...]."
                    for doubt in found.doubts
                ]
            case SqlLoader(_, stated):
                tables.update(stated or ())
            case PythonLoader():
                pass  # it comes with its own connections
    return tables, doubts


def _copy_base(base: Path, target: Folder, now: datetime) -> list[Path]:
    """Copy what is missing, in order; digits that would come too early for a push are replaced."""
    copied: list[Path] = []
    for path in sorted(base.glob("*.sql")):
        version, _, what = path.name.partition("_")
        if not target.has(what):
            digits = target.next_version(now=now, wish=version)
            copied.append(target.add(digits, what, path.read_text(encoding="utf-8")))
    return copied


def _text(
    result: Result, needs: Mapping[TableName, TableNeeds], asking: Asking, *, file: str, state_hash: str
) -> str:
    parts = [
        fill(
            "migration_header", file=file, what=_what(result), hash=state_hash, record=_record(result, needs)
        )
    ]
    for table in result.unwatched:
        names = {"schema": literal(table.schema), "name": literal(table.name)}
        parts.append(fill("migration_unwatch", table=table_literal(table), **names))
    for table in result.closed:
        parts.append(fill("migration_unread", table=table_literal(table), quote=dollars(str(table))))
    for table in result.watched:
        columns = array_literal(needs[table].columns)
        if needs[table].keys:
            keys = array_literal(needs[table].keys)
            parts.append(fill("migration_watch", table=table_literal(table), keys=keys, columns=columns))
        else:
            parts.append(fill("migration_watch_any", table=table_literal(table), columns=columns))
    for table in result.opened:
        parts.append(fill("migration_read", table=table_literal(table), quote=dollars(str(table))))
    parts.extend(drop_query(hash) for hash in result.dropped)
    for hash in result.queries:
        watch, tables = asking[hash]
        parts.append(create_query(watch, reads=tables))
    if result.doubts:
        parts.append("\n" + "\n".join(f"-- {doubt}" for doubt in result.doubts) + "\n")
    return "".join(parts)


def _what(result: Result) -> str:
    counts = {
        "watches": result.watched,
        "stops watching": result.unwatched,
        "opens to the worker": result.opened,
        "closes to the worker": result.closed,
    }
    said = ", ".join(f"{verb} {len(tables)}" for verb, tables in counts.items() if tables)
    queries = f" Functions of {len(result.queries)} queries." if result.queries else ""
    return f"{said or 'touches none'} of your tables.{queries}"


def _record(result: Result, needs: Mapping[TableName, TableNeeds]) -> str:
    lines = [record("watches", t.schema, t.name, needs[t].keys, needs[t].columns) for t in result.watched]
    lines += [record("unwatches", t.schema, t.name) for t in result.unwatched]
    lines += [record("reads", t.schema, t.name) for t in result.opened]
    lines += [record("unreads", t.schema, t.name) for t in result.closed]
    lines += [record("asks", hash) for hash in result.queries]
    lines += [record("unasks", hash) for hash in result.dropped]
    return "\n".join(lines)


def _hash(needs: Mapping[TableName, TableNeeds], reading: set[TableName], queries: set[str]) -> str:
    """Of what a migration does; TTLs and the text of templates are no business of the database."""
    watches = [[t.schema, t.name, needs[t].keys, needs[t].columns] for t in sorted(needs)]
    state = [_FORMAT, watches, [[t.schema, t.name] for t in sorted(reading)], *sorted(queries)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ConfigurationError(f"{name!r} is no name for a migration; use letters, digits, '_' and '-'")
    return name
