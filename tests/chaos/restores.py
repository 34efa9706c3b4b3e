"""Postgres is restored from an older copy: what was committed since is gone, and everybody has seen it.

For the checker the restore is one more change of each row that lost something: between the moment the server
died and the moment it served again, the row became what the copy holds, under a version of its own. Nothing
of that is in the outbox: it is the copy's.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from chaos.commits import Commits, Rows
from chaos.world import statement
from unstale_worker.dev_servers import EmbeddedPostgres

RECOVERING: Final[dict[str, str | int]] = {"restore_command": "/bin/false", "hot_standby": "off"}
"""No more WAL is to be had; serve once the new timeline has begun, not before."""
TABLES: Final = {"item": "items", "group": "groups", "note": "notes"}


@dataclass(slots=True)
class Restores:
    """Restores one server, and remembers what the journals of its lost histories said.

    Attributes:
        lost: Every row of them.
    """

    postgres: EmbeddedPostgres
    folder: Path
    lost: Rows = field(default_factory=list)
    _count: int = 0

    async def restore(self, *, age: float) -> None:
        """Copy the data, let ``age`` seconds pass, then kill the server and bring the copy back.

        The copy is recovered as a backup is: it begins a new timeline. Nobody reaches a server meanwhile.
        """
        server = self.postgres
        await server.kill()
        copy = await server.save_data(f"chaos-{self._count}")
        await server.start()
        await asyncio.sleep(age)
        killed = time.monotonic()
        await server.kill()
        port, settings = server.port, server.settings
        server.port = 0
        try:
            gone = await self._journal_of_the_killed()
            await server.restore_data(copy)
            await asyncio.to_thread(shutil.rmtree, copy)
            signal = server.data / "recovery.signal"
            signal.touch()
            owner = server.data.stat()
            shutil.chown(signal, owner.st_uid, owner.st_gid)
            server.settings = settings | RECOVERING
            server.port = 0
            await server.start()
            rows = await self._replace(gone)
        finally:
            await server.stop()
            server.settings = settings
            server.port = port
        await server.start()
        with Commits.opened(self.folder / f"restore-{self._count}.commits") as commits:
            commits.add(killed, time.monotonic(), rows)
        self.lost += gone
        self._count += 1

    async def _journal_of_the_killed(self) -> Rows:
        await self.postgres.start()
        try:
            async with _connected(self.postgres) as connection:
                return _rows(await connection.fetch(statement("journal")))
        finally:
            await self.postgres.stop()

    async def _replace(self, gone: Rows) -> Rows:
        """Give each row that lost something a version that was never used; returns those."""
        async with _connected(self.postgres) as connection, connection.transaction():
            kept = _rows(await connection.fetch(statement("journal")))
            before = {row: (version, present) for row, version, present in gone}
            now = {row: (version, present) for row, version, present in kept}
            await connection.execute(statement("versions_after"), max(version for _, version, _ in gone))
            replaced: Rows = []
            for row, (_, present) in now.items():
                if before[row] != now[row]:
                    kind, _, number = row.partition(":")
                    name = f"replace_{TABLES[kind]}" if present else "replace_absent"
                    arguments = [int(number)] if present else [row]
                    replaced += _rows(await connection.fetch(statement(name), *arguments))
            await connection.execute(statement("forget_outbox"))
            return replaced


@asynccontextmanager
async def _connected(server: EmbeddedPostgres) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.superuser_dsn)
    try:
        yield connection
    finally:
        await connection.close()


def _rows(found: list[asyncpg.Record]) -> Rows:
    return [(row, version, present) for row, version, present in found]


def merged(lost: Rows, journal: Rows) -> Rows:
    """The journal with what its lost histories held: versions are never used twice, and grow."""
    return sorted({*lost, *journal}, key=lambda entry: entry[1])
