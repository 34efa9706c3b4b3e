"""A rule's fan-out query as a function in the database, named after the hash of its definition; pure."""

import hashlib
import json
from collections.abc import Sequence

from unstale_worker.rules import TableName, Watch
from unstale_worker.rules.template import columns_of
from unstale_worker.sql.text import array_literal, dollars, fill, literal, table_text


def query_hash(watch: Watch) -> str:
    """Return 32 hex digits that change whenever the function would change.

    The watch must have a query.
    """
    assert watch.query is not None
    table = watch.table
    definition = [1, table.schema, table.name, watch.row_columns, columns_of(watch.keys), watch.query.normal]
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:32]


def create_query(watch: Watch, *, reads: Sequence[TableName]) -> str:
    """Return SQL that creates the function and grants ``service_role`` the right to read its tables."""
    assert watch.query is not None
    blanks = {
        "schema": literal(watch.table.schema),
        "name": literal(watch.table.name),
        "columns": array_literal(watch.row_columns),
        "wanted": array_literal(columns_of(watch.keys)),
        "query": literal(watch.query.bound()),
        "reads": array_literal(tuple(table_text(table) for table in reads)),
    }
    return fill(
        "migration_query",
        table=str(watch.table).replace("\n", " "),
        hash=query_hash(watch),
        quote=dollars("".join(blanks.values())),
        **blanks,
    )


def drop_query(hash: str) -> str:
    """Return SQL that drops the function."""
    return fill("migration_drop_query", hash=hash)
