"""A real Valkey, or Redis itself, of one's own."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from unstale_worker.dev_servers.installs import RedisProgram, find_redis
from unstale_worker.dev_servers.server import Server


class EmbeddedValkey(Server):
    """One Valkey server. It keeps nothing on disk unless `args` say so, and so starts empty again.

        async with EmbeddedValkey() as server:
            client = Redis.from_url(server.url)

    Args:
        directory: Holds what it writes, and stays; None: a temporary one that is removed.
        args: Further arguments, as on its command line: ``["--maxmemory", "4mb"]``.
        replica_of: Follow this server, and share its password.
        program: ``redis`` starts Redis itself.
    """

    log_name = "valkey.log"
    stop_signal = signal.SIGTERM  # saves what it is told to save
    stop_seconds = 5.0
    last_signal = signal.SIGKILL

    def __init__(
        self,
        *,
        directory: Path | None = None,
        args: Sequence[str] = (),
        replica_of: EmbeddedValkey | None = None,
        program: RedisProgram = "valkey",
    ) -> None:
        password = secrets.token_hex(16) if replica_of is None else replica_of.password
        super().__init__(directory=directory, password=password, user=None)
        self.program = program
        self.args = tuple(args)
        if replica_of is not None:
            self.args += ("--replicaof", "127.0.0.1", str(replica_of.port))
        self._executable = Path(program)

    @property
    def url(self) -> str:
        """A URL with the password, for database 0."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    async def _find(self) -> None:
        self._executable = await asyncio.to_thread(find_redis, self.program)

    async def _prepare(self) -> None:
        configuration = self.folder / "server.conf"  # a file, because everybody may read command lines
        configuration.touch(mode=0o600)
        configuration.write_text(f"requirepass {self.password}\nmasterauth {self.password}\n")

    def _argv(self, port: int) -> Sequence[str]:
        return [
            *(str(self._executable), str(self.folder / "server.conf")),
            *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
            *self.args,
        ]

    async def _answers(self, port: int) -> bool:
        """The password and its process id prove that it is ours."""
        client = Redis(
            host="127.0.0.1", port=port, password=self.password, retry=Retry(NoBackoff(), 0),
            socket_timeout=2, socket_connect_timeout=2,
        )  # fmt: skip
        try:
            answer = await client.info("server")
            # Somebody else's: ours cannot bind the port, is about to end, and another port is tried.
            return int(answer["process_id"]) == self.pid
        except (RedisError, OSError):
            return False  # not listening yet, loading its data, or somebody else's with another password
        finally:
            await client.aclose()
