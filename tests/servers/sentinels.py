"""Real Valkey Sentinels that watch a test's own primary and replica."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from servers import eventually
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.dev_servers.embedded_server import EmbeddedServer
from unstale_worker.dev_servers.installs import find_redis

SERVICE: Final = "mymaster"
DOWN_AFTER_MS: Final = 500


class EmbeddedSentinel(EmbeddedServer):
    """One Sentinel with its own password."""

    log_name = "sentinel.log"
    stop_signal = signal.SIGTERM
    stop_seconds = 5.0
    last_signal = signal.SIGKILL

    def __init__(
        self, primary: EmbeddedValkey, *, quorum: int, password: str, primary_port: int | None = None
    ) -> None:
        super().__init__(directory=None, password=password, user=None)
        self._primary, self._quorum = primary, quorum
        self._primary_port = primary_port
        self._executable = Path("valkey")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Redis]:
        """Open a client of this Sentinel."""
        redis: Redis = Redis(
            host="127.0.0.1", port=self.port, password=self.password, retry=Retry(NoBackoff(), 0),
            socket_timeout=2, socket_connect_timeout=2, protocol=2,
        )  # fmt: skip
        try:
            yield redis
        finally:
            await redis.aclose()

    async def ask(self, *parts: str) -> Any:
        """Send ``SENTINEL`` with these arguments."""
        async with self.client() as redis:
            return await redis.execute_command("SENTINEL", *parts)

    async def _find(self) -> None:
        self._executable = await asyncio.to_thread(find_redis, "valkey")

    async def _prepare(self) -> None:
        configuration = self.folder / "sentinel.conf"  # Sentinel rewrites this file
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"""
requirepass {self.password}
sentinel sentinel-pass {self.password}
sentinel monitor {SERVICE} 127.0.0.1 {self._primary_port or self._primary.port} {self._quorum}
sentinel auth-pass {SERVICE} {self._primary.password}
sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}
sentinel failover-timeout {SERVICE} 3000
"""
        )

    def _argv(self, port: int) -> Sequence[str]:
        conf = str(self.folder / "sentinel.conf")
        return [str(self._executable), conf, "--sentinel", "--bind", "127.0.0.1", "--port", str(port)]

    async def _answers(self, port: int) -> bool:
        before, self.port = self.port, port
        try:
            async with self.client() as redis:
                return int((await redis.info("server"))["process_id"]) == self.pid
        except (RedisError, OSError):
            return False
        finally:
            self.port = before


@dataclass(frozen=True, slots=True)
class Guarded:
    """A primary, its replica, and the Sentinels that watch both."""

    primary: EmbeddedValkey
    replica: EmbeddedValkey
    sentinels: tuple[EmbeddedSentinel, ...]

    @property
    def url(self) -> str:
        """The URL for agents and workers."""
        return sentinel_url(self.primary, self.sentinels)

    async def fail_over(self) -> None:
        """Demote the living primary with ``SENTINEL FAILOVER``."""
        await self.sentinels[0].ask("FAILOVER", SERVICE)

    async def promoted(self) -> None:
        """Wait until every Sentinel names the replica as the primary."""

        async def all_say() -> bool:
            said = [await each.ask("GET-MASTER-ADDR-BY-NAME", SERVICE) for each in self.sentinels]
            return all(int(port) == self.replica.port for _, port in said)

        await eventually(all_say, message="the replica was promoted")


def sentinel_url(primary: EmbeddedValkey, sentinels: Sequence[EmbeddedSentinel], **more: str) -> str:
    """Return a ``redis+sentinel://`` URL with both passwords; ``more`` replaces parts."""
    parts = {"password": primary.password, "service": SERVICE, "own": sentinels[0].password} | more
    hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
    return (
        f"redis+sentinel://:{quote(parts['password'], safe='')}@{hosts}/{parts['service']}/0"
        f"?sentinel_password={quote(parts['own'], safe='')}"
    )


@asynccontextmanager
async def guarded(*, sentinels: int = 3) -> AsyncIterator[Guarded]:
    """Run a primary, a replica in sync, and Sentinels that know each other and both servers."""
    password = secrets.token_hex(8)
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(EmbeddedValkey())
        replica = await stack.enter_async_context(EmbeddedValkey(replica_of=primary))
        crowd = tuple(
            [
                await stack.enter_async_context(
                    EmbeddedSentinel(primary, quorum=sentinels // 2 + 1, password=password)
                )
                for _ in range(sentinels)
            ]
        )

        async def acquainted() -> bool:
            for each in crowd:
                primaries, replicas = await each.ask("MASTERS"), await each.ask("REPLICAS", SERVICE)
                (known,) = map(_pairs, primaries)
                if known["num-other-sentinels"] != str(sentinels - 1):
                    return False
                if [_pairs(found)["master-link-status"] for found in replicas] != ["ok"]:
                    return False
            return True

        await eventually(acquainted, message="the sentinels know each other and the replica")
        yield Guarded(primary, replica, crowd)


def _pairs(reply: list[bytes]) -> dict[str, str]:
    texts = [item.decode() for item in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))
