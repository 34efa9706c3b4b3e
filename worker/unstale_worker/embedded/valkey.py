"""A real Valkey (or Redis) of one's own: on a free loopback port, ended and removed with its user."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from unstale.errors import EmbeddedServerError
from unstale_worker.embedded.installs import RedisProgram, find_redis
from unstale_worker.embedded.places import make_folder
from unstale_worker.embedded.process import Guard, free_port, tail

START_SECONDS = 15.0  # it takes 0.05 s
STOP_SECONDS = 5.0
PORT_ATTEMPTS = 5


class EmbeddedValkey:
    """One Valkey server that keeps nothing on disk unless `args` say so.

    It keeps its port and password over `kill`, `stop` and `start`; without ``--appendonly yes`` it then
    starts empty.

        async with EmbeddedValkey() as server:
            client = Redis.from_url(server.url)

    Bound to no event loop: each method may be awaited on another one.

    Args:
        directory: Holds its files and stays; None: a temporary one that is removed.
        args: Further arguments, as on its command line: ``["--maxmemory", "4mb"]``.
        replica_of: Follow this server, and share its password.
        program: ``redis`` starts Redis itself.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        args: Sequence[str] = (),
        replica_of: EmbeddedValkey | None = None,
        program: RedisProgram = "valkey",
    ) -> None:
        self.program = program
        self.port = 0
        self.pid = 0
        self.directory = directory
        self.password = replica_of.password if replica_of else secrets.token_hex(16)
        self.args = tuple(args)
        if replica_of is not None:
            self.args += ("--replicaof", "127.0.0.1", str(replica_of.port))
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedValkey {self.program} port={self.port} pid={self.pid}>"

    async def __aenter__(self) -> Self:
        self._executable = await asyncio.to_thread(find_redis, self.program)
        self.directory, owned = make_folder(self.directory, prefix="unstale-valkey-", user=None)
        self._guard = Guard(owned=self.directory if owned else None)
        try:
            # In a file, because everybody may read command lines.
            configuration = self.folder / "server.conf"
            configuration.touch(mode=0o600)
            configuration.write_text(f"requirepass {self.password}\nmasterauth {self.password}\n")
            await self.start()
        except BaseException:
            await self._guard.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def folder(self) -> Path:
        """The server's folder; the log and, when asked for, its dump or append-only file lie in it."""
        if self.directory is None:
            raise EmbeddedServerError("the server has no folder yet: use it inside its `async with`")
        return self.directory

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "server.log"

    @property
    def url(self) -> str:
        """A URL with the password, for database 0."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start on the port it had, or on a free one the first time; returns when it answers.

        Raises `EmbeddedServerError` with the end of the log.
        """
        attempts = 1 if self.port else PORT_ATTEMPTS
        while True:
            port = self.port or free_port()
            since = self.log.stat().st_size if self.log.exists() else 0
            self.pid = await self._guarded.start(
                [
                    *(str(self._executable), str(self.folder / "server.conf")),
                    *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder)),
                    *("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"),
                    *self.args,
                ],
                log=self.log,
                cwd=self.folder,
                user=None,
                last_signal=signal.SIGKILL,
            )
            if await self._is_ready(port):
                self.port = port
                return
            attempts -= 1
            if attempts <= 0 or "in use" not in self.log.read_text(errors="replace")[since:]:
                await self._guarded.kill()
                raise EmbeddedServerError(f"{self.program} did not start; its log ends:\n{tail(self.log)}")

    async def stop(self) -> None:
        """SIGTERM: saves what it is told to save. `start` starts it again."""
        await self._guarded.stop(signal.SIGTERM, seconds=STOP_SECONDS)

    async def kill(self) -> None:
        """SIGKILL: what was not on disk is lost."""
        await self._guarded.kill()

    async def running(self) -> bool:
        """Whether the server's process lives (it may be stopped by SIGSTOP, or still recovering)."""
        return self.pid != 0 and await self._guarded.exit_code() is None

    async def restart(self) -> None:
        """`stop` and `start`."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """End it; remove its folder unless it was given. May be called again."""
        if self._guard is not None:
            await self._guard.close()

    @property
    def _guarded(self) -> Guard:
        if self._guard is None:
            raise EmbeddedServerError("the server was never started: use it inside `async with`")
        return self._guard

    async def _is_ready(self, port: int) -> bool:
        """Wait until *our* server answers; False when it ended or is too slow.

        That it is ours is proved by its process id, before anything is written to it.
        """
        deadline = time.monotonic() + START_SECONDS
        client = Redis(
            host="127.0.0.1", port=port, password=self.password, retry=Retry(NoBackoff(), 0),
            socket_timeout=1, socket_connect_timeout=1,
        )  # fmt: skip
        try:
            while time.monotonic() < deadline:
                if await self._guarded.exit_code() is not None:
                    return False
                try:
                    answer = await client.info("server")
                except (RedisError, OSError):
                    await asyncio.sleep(0.005)
                    continue
                if int(answer["process_id"]) == self.pid:
                    return True
                await asyncio.sleep(0.05)  # somebody else has the port: ours is about to end
        finally:
            await client.aclose()
        return False
