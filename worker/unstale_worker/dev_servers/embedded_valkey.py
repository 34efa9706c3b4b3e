"""An embedded Valkey or Redis."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from unstale.errors import EmbeddedServerError
from unstale.protocol.partitions import SLOTS
from unstale_worker.dev_servers.embedded_server import START_SECONDS, EmbeddedServer
from unstale_worker.dev_servers.installs import RedisProgram, find_redis
from unstale_worker.dev_servers.process import free_port

RESTRICTED_USER: Final = "restricted"
RESTRICTED_COMMANDS: Final = "+@all -@admin -@dangerous -client -script -wait -command -pubsub"
"""Rights as on rented servers: not INFO, CONFIG, MONITOR, ROLE, KEYS and FLUSHALL, among others."""


class EmbeddedValkey(EmbeddedServer):
    """One Valkey server. Without further `args` it keeps nothing on disk and is empty after a restart.

        async with EmbeddedValkey() as server:
            client = Redis.from_url(server.url)

    Args:
        directory: Folder of its files, which is kept; None: a temporary folder.
        args: Further command-line arguments: ``["--maxmemory", "4mb"]``.
        replica_of: Replicate this server, and share its password.
        program: ``redis`` starts Redis instead.
        restricted: Add the user of `restricted_url`, who may do what rented servers allow: no command of
            administration, so neither INFO nor CONFIG.
        cluster: Be a cluster of one node, which serves all slots.
        port: Port on loopback; 0: a free one.
        password: Password of all users; None: a random one.
    """

    log_name = "valkey.log"
    stop_signal = signal.SIGTERM  # saves data if it is configured to
    stop_seconds = 5.0
    last_signal = signal.SIGKILL

    def __init__(
        self,
        *,
        directory: Path | None = None,
        args: Sequence[str] = (),
        replica_of: EmbeddedValkey | None = None,
        program: RedisProgram = "valkey",
        restricted: bool = False,
        cluster: bool = False,
        port: int = 0,
        password: str | None = None,
    ) -> None:
        password = replica_of.password if replica_of is not None else password or secrets.token_hex(16)
        super().__init__(directory=directory, password=password, user=None)
        self.port = port
        self.program = program
        self.restricted = restricted
        self.cluster = cluster
        self.args = tuple(args)
        if cluster:  # its bus would be 10,000 above the other port, which may be too high
            self.args += ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        if replica_of is not None:
            self.args += ("--replicaof", "127.0.0.1", str(replica_of.port))
        self._executable = Path(program)

    @property
    def url(self) -> str:
        """URL with the password, for database 0."""
        place = f"redis://:{self.password}@127.0.0.1:{self.port}"
        return f"{place}?cluster=true" if self.cluster else f"{place}/0"

    @property
    def restricted_url(self) -> str:
        """URL of the restricted user."""
        return f"redis://{RESTRICTED_USER}:{self.password}@127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start; return when the server answers, and in a cluster serves all slots."""
        await super().start()
        if not self.cluster:
            return
        client = self._client(self.port)
        try:
            if b"cluster_slots_assigned:0" in await client.execute_command("CLUSTER", "INFO"):
                await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            deadline = time.monotonic() + START_SECONDS
            while b"cluster_state:ok" not in await client.execute_command("CLUSTER", "INFO"):
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(f"{self!r} does not serve its slots; see {self.log}")
                await asyncio.sleep(0.01)
        finally:
            await client.aclose()

    def _client(self, port: int) -> Redis:
        return Redis(
            host="127.0.0.1", port=port, password=self.password, retry=Retry(NoBackoff(), 0),
            socket_timeout=2, socket_connect_timeout=2,
        )  # fmt: skip

    async def _find(self) -> None:
        self._executable = await asyncio.to_thread(find_redis, self.program)

    async def _prepare(self) -> None:
        configuration = self.folder / "server.conf"  # a file, because every user may read command lines
        configuration.touch(mode=0o600)
        lines = [f"requirepass {self.password}", f"masterauth {self.password}"]
        if self.restricted:
            lines.append(f"user {RESTRICTED_USER} on >{self.password} ~* &* {RESTRICTED_COMMANDS}")
        configuration.write_text("\n".join([*lines, ""]))

    def _argv(self, port: int) -> Sequence[str]:
        return [
            *(str(self._executable), str(self.folder / "server.conf")),
            *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
            *self.args,
        ]

    async def _answers(self, port: int) -> bool:
        """Check password and process id for identity."""
        client = self._client(port)
        try:
            answer = await client.info("server")
            # With another pid, this server could not bind the port and will end; another port is tried.
            return int(answer["process_id"]) == self.pid
        except (RedisError, OSError):
            return False  # not listening yet, still loading, or another server with another password
        finally:
            await client.aclose()
