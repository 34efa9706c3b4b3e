"""Find the function that a request calls, and write the statement that calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from unstale_worker.supabase_double.rest_errors import Failure
from unstale_worker.supabase_double.safeupdate import refusal
from unstale_worker.supabase_double.statements import statement

MOST_ROWS: Final = 1_000
"""Most rows of a set; further ones are cut off silently."""


@dataclass(frozen=True, slots=True)
class Call:
    """A statement that calls a function with one JSON parameter, or none."""

    text: str
    volatile: bool
    void: bool


class Functions:
    """The calls of one API; those that were made are remembered.

    Args:
        max_rows: Most rows of a set.
    """

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._calls: dict[tuple[str, str, frozenset[str]], Call] = {}

    def forget(self) -> None:
        """Look at the functions again: one may have been dropped or changed."""
        self._calls.clear()

    async def prepared(self, connection: Any, schema: str, name: str, arguments: Any) -> Call:
        """Return the statement of a call; it is remembered, as PostgREST remembers the schema."""
        given = frozenset(arguments) if isinstance(arguments, dict) else frozenset()
        if (known := self._calls.get((schema, name, given))) is not None:
            return known
        function, whole = await self._resolve(connection, schema, name, arguments)
        bodies = {row["name"]: row["source"] for row in await connection.fetch(statement("called"))}
        if (sentence := refusal(f"{schema}.{name}", bodies)) is not None:
            raise Failure(400, "21000", sentence)
        types = dict(zip(function["arguments"], function["types"], strict=True))
        if whole:
            text = await connection.fetchval(statement("call_whole"), schema, name, function["types"][0])
        else:
            passed = [argument for argument in function["arguments"] if argument in arguments]
            text = await connection.fetchval(
                statement("call"),
                schema,
                name,
                passed,
                [types[argument] for argument in passed],
                function["is_set"],
                function["is_composite"],
                self._max_rows,
            )
        call = Call(text, volatile=function["volatile"], void=function["is_void"])
        self._calls[schema, name, given] = call
        return call

    async def _resolve(
        self, connection: Any, schema: str, name: str, arguments: Any
    ) -> tuple[asyncpg.Record, bool]:
        """Return the function that is meant, and True if it takes the whole body."""
        candidates = await connection.fetch(statement("functions"), schema, name)
        given = set(arguments) if isinstance(arguments, dict) else set()
        found = []
        for candidate in candidates:
            names = candidate["arguments"]
            required = names[: len(names) - candidate["optional"]]
            if isinstance(arguments, dict) and set(required) <= given <= set(names):
                found.append((candidate, False))
            elif names == [""] and candidate["types"][0] in ("json", "jsonb"):
                found.append((candidate, True))
        if len(found) == 1:
            return found[0]
        listed = f"{schema}.{name}({', '.join(sorted(given))})" if given else f"{schema}.{name}"
        if found:
            raise Failure(300, "PGRST203", f"Could not choose the best candidate function between: {listed}")
        without = "" if given else " without parameters"
        raise Failure(
            404,
            "PGRST202",
            f"Could not find the function {listed}{without} in the schema cache",
            details=f"Searched for the function {listed}, but no matches were found in the schema cache.",
        )
