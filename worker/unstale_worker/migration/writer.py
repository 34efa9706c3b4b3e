"""Write the next migration: SQL that makes the database capture the changes that the rules need."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from unstale.errors import ConfigurationError
from unstale_worker.migration.folder import CaptureState, Folder, record
from unstale_worker.migration.query_function import create_query, drop_query, query_hash
from unstale_worker.rules import PythonLoader, RowLoader, Rules, SqlLoader, TableName, TableNeeds, Watch
from unstale_worker.rules.query_tables import tables_of
from unstale_worker.sql.text import array_literal, dollars, fill, literal, table_literal

NAME: Final = "unstale_watches"
QueriesByHash = dict[str, tuple[Watch, tuple[TableName, ...]]]
"""Each query by its hash: a rule with that query, and the tables it reads."""
_FORMAT: Final = 1  # increase it if a release must write everything again


@dataclass(frozen=True, slots=True)
class WrittenMigration:
    """Result of `write_migration`.

    Attributes:
        path: The new file, or None if the earlier files already match the rules.
        base: unstale's own migrations that were copied because the folder lacked their present text.
        renewed: True if the folder had an earlier text of one, so that every watch is written again: a
            capture is generated when its table is watched.
        watched: Tables that the new file watches, because they are new or watched differently.
        unwatched: Tables that it stops watching.
        opened: Tables that queries or loaders read and that the worker's role is allowed to read.
        closed: Tables that no query or loader reads any more.
        queries: Hashes of the queries that it creates functions for; a worker over HTTPS calls them.
        dropped: Hashes of the queries whose functions it drops.
        doubts: Facts that could not be derived from the text of a query, as sentences. A rule's ``reads``
            resolves them.
    """

    path: Path | None
    base: tuple[Path, ...]
    renewed: bool
    watched: tuple[TableName, ...]
    unwatched: tuple[TableName, ...]
    opened: tuple[TableName, ...]
    closed: tuple[TableName, ...]
    queries: tuple[str, ...]
    dropped: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def unchanged(self) -> bool:
        """True if nothing was written, because nothing changed."""
        return self.path is None and not self.base


def write_migration(
    rules: Rules,
    folder: Path,
    *,
    base: Path | None = None,
    name: str | None = None,
    now: datetime | None = None,
    everything: bool = False,
    dry: bool = False,
) -> WrittenMigration:
    """Write what the rules need in addition to the files in ``folder``; needs no database.

    Args:
        rules: The rules.
        folder: The user's ``supabase/migrations``; created if it is missing.
        base: unstale's own migrations; those that ``folder`` lacks are copied first, unchanged. If it has
            another text of one, that one and all after it are copied.
        name: Name of the new file after its digits; ``unstale_watches`` by default.
        now: The time for its digits, unless a file in the folder is later.
        everything: Write every watch again, for a database that has lost some.
        dry: Write nothing; the result says what would be written.

    Raises:
        ConfigurationError: The name or an existing header is invalid, or a file cannot be written.
    """
    what = f"{_checked(name or NAME)}.sql"
    now = now or datetime.now(UTC)
    target = Folder(folder, dry=dry)
    known = target.state()
    queries, doubts = _queries(rules)
    loader_tables, loader_doubts = _loader_tables(rules)
    doubts += loader_doubts
    reading = loader_tables.union(*(tables for _, tables in queries.values()))
    needs = {TableName(*table): need for table, need in rules.tables.items()}
    wanted = CaptureState(needs, reading, set(queries), _hash(needs, reading, set(queries)))
    copied, renewed = _copy_base(base, target, now) if base else ((), False)
    current = CaptureState() if everything or renewed else known
    if current == wanted or (current.hash is None and not needs):
        return WrittenMigration(None, copied, renewed, (), (), (), (), (), (), tuple(doubts))
    result = WrittenMigration(
        target.path / f"{target.next_version(now=now)}_{what}",
        copied,
        renewed,
        tuple(table for table in needs if current.watched.get(table) != needs[table]),
        tuple(sorted(known.watched.keys() - needs.keys())),
        tuple(sorted(wanted.reads - current.reads)),
        tuple(sorted(known.reads - wanted.reads)),
        tuple(hash for hash in queries if hash not in current.queries),
        tuple(sorted(known.queries - wanted.queries)),
        tuple(doubts),
    )
    assert result.path is not None
    version, _, _ = result.path.name.partition("_")
    file = Path(rules.file).name
    target.add(version, what, _text(result, needs, queries, file=file, state_hash=str(wanted.hash)))
    return result


def _queries(rules: Rules) -> tuple[QueriesByHash, list[str]]:
    """Return the rules' queries with the tables they read, and the doubts about them."""
    queries: QueriesByHash = {}
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
        _, before = queries.get(query_hash(watch), (watch, ()))
        queries[query_hash(watch)] = (watch, tuple(dict.fromkeys((*before, *tables))))
    return queries, doubts


def _loader_tables(rules: Rules) -> tuple[set[TableName], list[str]]:
    """Return the tables that the worker's own loaders read, and the doubts about them."""
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
            case PythonLoader() if spec.inputs is not None:
                found = tables_of(spec.inputs)
                tables.update(found.tables)
                doubts += [
                    f"Inputs of {spec.template.text} (line {spec.line}): {doubt}; grant its tables to "
                    "unstale_worker."
                    for doubt in found.doubts
                ]
            case PythonLoader():
                pass  # it opens its own connections
    return tables, doubts


def _copy_base(base: Path, target: Folder, now: datetime) -> tuple[tuple[Path, ...], bool]:
    """Copy what is missing, and from the first file with another text on all of them, in order.

    Digits that would sort before an existing file are replaced. Return the copies, and True if a text
    differed.
    """
    copied: list[Path] = []
    renewed = False
    for path in sorted(base.glob("*.sql")):
        version, _, what = path.name.partition("_")
        text, present = path.read_text(encoding="utf-8"), target.newest(what)
        renewed |= present is not None and present != text
        if present is None or renewed:
            copied.append(target.add(target.next_version(now=now, wish=version), what, text))
    return tuple(copied), renewed


def _text(
    result: WrittenMigration,
    needs: Mapping[TableName, TableNeeds],
    queries: QueriesByHash,
    *,
    file: str,
    state_hash: str,
) -> str:
    parts = [
        fill(
            "migration_header",
            file=file,
            what=_summary(result),
            hash=state_hash,
            record=_record(result, needs),
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
        watch, tables = queries[hash]
        parts.append(create_query(watch, reads=tables))
    if result.doubts:
        parts.append("\n" + "\n".join(f"-- {doubt}" for doubt in result.doubts) + "\n")
    return "".join(parts)


def _summary(result: WrittenMigration) -> str:
    counts = {
        "watches": result.watched,
        "stops watching": result.unwatched,
        "opens to the worker": result.opened,
        "closes to the worker": result.closed,
    }
    actions = ", ".join(f"{verb} {len(tables)}" for verb, tables in counts.items() if tables)
    queries = f" Creates functions for {len(result.queries)} queries." if result.queries else ""
    return f"{actions or 'touches none'} of your tables.{queries}"


def _record(result: WrittenMigration, needs: Mapping[TableName, TableNeeds]) -> str:
    lines = [record("watches", t.schema, t.name, needs[t].keys, needs[t].columns) for t in result.watched]
    lines += [record("unwatches", t.schema, t.name) for t in result.unwatched]
    lines += [record("reads", t.schema, t.name) for t in result.opened]
    lines += [record("unreads", t.schema, t.name) for t in result.closed]
    lines += [record("asks", hash) for hash in result.queries]
    lines += [record("unasks", hash) for hash in result.dropped]
    return "\n".join(lines)


def _hash(needs: Mapping[TableName, TableNeeds], reading: set[TableName], queries: set[str]) -> str:
    """Hash the state that a migration creates; TTLs and template texts do not concern the database."""
    watches = [[t.schema, t.name, needs[t].keys, needs[t].columns] for t in sorted(needs)]
    state = [_FORMAT, watches, [[t.schema, t.name] for t in sorted(reading)], *sorted(queries)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ConfigurationError(
            f"{name!r} is not a valid migration name; use up to 100 letters, digits, '_' and '-'"
        )
    return name
