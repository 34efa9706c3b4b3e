"""A Postgres connection that records the statements of loaders before they run."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg

from unstale.companion.recording.recorder import Recorder


def recording(recorder: Recorder) -> "type[asyncpg.Connection[Any]]":
    """Return the class of connections that report to ``recorder``."""
    return type("RecordingConnection", (_Recording,), {"recorder": recorder})


class _Recording(asyncpg.Connection):
    """Two methods of asyncpg see every statement that returns rows: one its values, the other the rest.

    asyncpg is pinned below its next minor version, as their names are its own.
    """

    recorder: Recorder
    _inside = False

    async def _execute(self, query: str, args: Sequence[object], *rest: Any, **options: Any) -> Any:
        if self._inside:
            return await super()._execute(query, args, *rest, **options)  # type: ignore[misc]
        self._inside = True
        try:
            await self._record(query, args)
            return await super()._execute(query, args, *rest, **options)  # type: ignore[misc]
        finally:
            self._inside = False

    async def _get_statement(self, query: str, *rest: Any, **options: Any) -> Any:
        if self._inside:
            return await super()._get_statement(query, *rest, **options)  # type: ignore[misc]
        self._inside = True
        try:
            await self._record(query, ())
            return await super()._get_statement(query, *rest, **options)  # type: ignore[misc]
        finally:
            self._inside = False

    async def _record(self, query: str, args: Sequence[object]) -> None:
        with suppress(asyncpg.PostgresError):  # the transaction has failed; the statement says so itself
            await self.recorder.statement(self, query, args)
