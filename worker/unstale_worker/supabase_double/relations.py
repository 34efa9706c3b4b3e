"""References between the tables of a database, which REST requests embed. Pure but for `fetch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unstale_worker.supabase_double.rest_errors import Failure
from unstale_worker.supabase_double.statements import statement


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One foreign key, with the columns of both sides."""

    name: str
    schema: str
    table: str
    columns: tuple[str, ...]
    target_schema: str
    target: str
    target_columns: tuple[str, ...]
    unique: bool
    """True if the referring columns are unique: one row at most refers to another."""


@dataclass(frozen=True, slots=True)
class Step:
    """One join: columns of the table before it, and of its own."""

    schema: str
    table: str
    left: tuple[str, ...]
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A way from a table to an embedded one."""

    steps: tuple[Step, ...]
    to_one: bool
    name: str


class Relations:
    """All foreign keys of a database."""

    def __init__(self, keys: list[ForeignKey]) -> None:
        self._keys = keys

    @classmethod
    async def fetch(cls, connection: Any) -> Relations:
        rows = await connection.fetch(statement("foreign_keys"))
        return cls(
            [
                ForeignKey(
                    row["name"], row["schema"], row["table"], tuple(row["columns"]), row["target_schema"],
                    row["target"], tuple(row["target_columns"]), row["is_unique"],
                )
                for row in rows
            ]
        )  # fmt: skip

    def find(self, schema: str, table: str, wanted: str, hint: str) -> Relation:
        """Return the way from `table` to what a request calls `wanted`; raises `Failure`."""
        found = [
            relation
            for relation, names in self._ways(schema, table)
            if wanted in names and (not hint or hint in names or hint == relation.name)
        ]
        if len(found) == 1:
            return found[0]
        if not found:
            with_hint = f" using the hint '{hint}'" if hint else ""
            raise Failure(
                400, "PGRST200",
                f"Could not find a relationship between '{table}' and '{wanted}' in the schema cache",
                details=f"Searched for a foreign key relationship between '{table}' and '{wanted}'"
                f"{with_hint} in the schema '{schema}', but no matches were found.",
            )  # fmt: skip
        raise Failure(
            300, "PGRST201",
            f"Could not embed because more than one relationship was found for '{table}' and '{wanted}'",
            hint="Try one of these: " + ", ".join(f"'{wanted}!{relation.name}'" for relation in found),
        )  # fmt: skip

    def _ways(self, schema: str, table: str) -> list[tuple[Relation, set[str]]]:
        """Return every relation of a table, with all names that a request may use for it."""
        ways = []
        for key in self._keys:
            if (key.schema, key.table) == (schema, table):
                step = Step(key.target_schema, key.target, key.columns, key.target_columns)
                names = {key.target, key.name} | (set(key.columns) if len(key.columns) == 1 else set())
                ways.append((Relation((step,), True, key.name), names))
            if (key.target_schema, key.target) == (schema, table) and (key.schema, key.table) != (
                schema,
                table,
            ):
                step = Step(key.schema, key.table, key.target_columns, key.columns)
                names = {key.table, key.name} | (set(key.columns) if len(key.columns) == 1 else set())
                ways.append((Relation((step,), key.unique, key.name), names))
            elif (key.target_schema, key.target) == (key.schema, key.table) == (schema, table):
                step = Step(key.schema, key.table, key.target_columns, key.columns)
                ways.append((Relation((step,), key.unique, key.columns[0]), {key.table, key.columns[0]}))
        return ways + self._through_junctions(schema, table)

    def _through_junctions(self, schema: str, table: str) -> list[tuple[Relation, set[str]]]:
        ways = []
        for near in self._keys:
            if (near.target_schema, near.target) != (schema, table):
                continue
            for far in self._keys:
                if (far.schema, far.table) == (near.schema, near.table) and far is not near:
                    steps = (
                        Step(near.schema, near.table, near.target_columns, near.columns),
                        Step(far.target_schema, far.target, far.columns, far.target_columns),
                    )
                    ways.append(
                        (Relation(steps, False, near.table), {far.target, near.table + "." + far.target})
                    )
        return ways
