"""Two Valkey servers, a primary and its replica, of which either can become the other."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from servers import eventually
from servers.proxy import Proxy
from unstale_worker.dev_servers import EmbeddedValkey

SYNC_SECONDS: Final = 30.0


class Valkeys:
    """The servers behind the proxies ``fronts``; who connects to one of those reaches the primary.

    Attributes:
        primary: Who answers.
        replica: Who follows, over a link that can be held up.
    """

    def __init__(self) -> None:
        # What a replica was sent lies on its disk otherwise, and a restart would not be empty but old.
        nothing_kept = ("--rdb-del-sync-files", "yes")
        self.primary, self.replica = EmbeddedValkey(args=nothing_kept), EmbeddedValkey(args=nothing_kept)
        self.replica.password = self.primary.password
        self.fronts: list[Proxy] = []
        self._link: Proxy | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Both run inside."""
        async with self.primary, self.replica, Proxy(self.primary.port) as link:
            self._link = link
            await self.follow()
            yield self

    def url(self, front: Proxy) -> str:
        """Return the URL that leads through a front."""
        return front.url(self.primary.url)

    @property
    def link(self) -> Proxy:
        """What the replica follows the primary through."""
        assert self._link is not None
        return self._link

    async def follow(self) -> None:
        """Make the replica follow the primary, and wait until it does."""
        await self.link.heal()
        self.link.target = self.primary.port
        async with client(self.replica) as redis:
            await _command(redis, "REPLICAOF", "127.0.0.1", self.link.port)
        await self.synced()

    async def synced(self) -> None:
        """Wait until the replica has a copy, and follows."""
        async with client(self.replica) as redis:

            async def follows() -> bool:
                try:
                    return (await redis.info("replication")).get("master_link_status") == "up"
                except (RedisError, OSError):
                    return False

            await eventually(follows, timeout=SYNC_SECONDS, message="the replica follows")

    async def fail_over(self, *, held: float) -> tuple[float, float]:
        """Kill the primary, promote the replica, and let the old primary follow it, empty.

        With ``held`` the replica gets nothing for so many seconds before that: what was written then is lost.
        With 0 no write is lost: the primary takes none any more until the replica has all.

        Returns the moments before and after: from the second on, connections reach the new primary.
        """
        await self.synced()
        if held:
            self.link.hold()
            await asyncio.sleep(held)
        else:
            await self._drain()
        began = time.monotonic()
        await self.primary.kill()
        self.link.cut()
        async with client(self.replica) as redis:
            await _command(redis, "REPLICAOF", "NO", "ONE")
        self.primary, self.replica = self.replica, self.primary
        for front in self.fronts:
            front.target = self.primary.port
            front.cut()
        ended = time.monotonic()
        await self.replica.start()
        await self.follow()
        return began, ended

    async def split(self, *, moves: Callable[[Proxy], bool], cut: bool) -> tuple[float, float]:
        """Promote the replica, which has everything; the old primary goes on serving whoever stays with it.

        Args:
            moves: Whether new connections through this front reach the new primary.
            cut: End the connections of those that move; else they stay with the old one while they last.

        Returns the moments before and after. `unite` ends it.
        """
        await self.synced()
        await self._drain()
        began = time.monotonic()
        async with client(self.replica) as redis:
            await _command(redis, "REPLICAOF", "NO", "ONE")
        async with client(self.primary) as redis:
            await _command(redis, "CLIENT", "UNPAUSE")
        self.primary, self.replica = self.replica, self.primary
        for front in self.fronts:
            if moves(front):
                front.target = self.primary.port
                if cut:
                    front.cut()
        return began, time.monotonic()

    async def unite(self, *, demoted_for: float) -> tuple[float, float]:
        """The old primary follows the new one; after so many seconds everybody is sent there.

        Returns the moments before and after: what only the old one was told is lost.
        """
        began = time.monotonic()
        await self.follow()
        await asyncio.sleep(demoted_for)
        for front in self.fronts:
            front.target = self.primary.port
            front.cut()
        return began, time.monotonic()

    async def restart_empty(self) -> None:
        """Kill the primary and start it again: it keeps nothing on disk."""
        await self.primary.kill()
        (self.primary.folder / "dump.rdb").unlink(missing_ok=True)
        await self.primary.start()

    async def restart_older(self, *, age: float) -> tuple[float, float]:
        """Kill the primary and start it with a copy of its data that is ``age`` seconds old.

        Returns the moments before and after.
        """
        await self.synced()  # the copy that a replica is sent is a save of its own, and refuses another
        async with client(self.primary) as redis:
            await _command(redis, "SAVE")
        await asyncio.sleep(age)
        began = time.monotonic()
        await self.primary.kill()
        await self.primary.start()
        ended = time.monotonic()
        (self.primary.folder / "dump.rdb").unlink(missing_ok=True)
        return began, ended

    async def flush(self) -> None:
        """FLUSHALL."""
        async with client(self.primary) as redis:
            await redis.flushall()

    async def evict(self, keys: list[str]) -> None:
        """Remove keys, as a full server does."""
        async with client(self.primary) as redis:
            await redis.unlink(*keys)

    def stop(self) -> None:
        """SIGSTOP the primary."""
        os.kill(self.primary.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT it."""
        os.kill(self.primary.pid, signal.SIGCONT)

    async def contents(self, patterns: tuple[str, ...]) -> dict[str, bytes]:
        """The strings of the primary whose keys match."""
        found: dict[str, bytes] = {}
        async with client(self.primary) as redis:
            for pattern in patterns:
                async for key in redis.scan_iter(match=pattern, count=1000):
                    value: Any = await redis.get(key)
                    if value is not None:
                        found[key.decode()] = value
        return found

    async def waiting(self, refresh: str) -> int:
        """How many keys are to be made new."""
        async with client(self.primary) as redis:
            return int(await redis.zcard(refresh))

    async def beats(self, workers: str) -> dict[str, float]:
        """When each refresh worker was last heard of, by its name."""
        async with client(self.primary) as redis:
            found: Any = await redis.zrange(workers, 0, -1, withscores=True)
            return {name.decode(): at for name, at in found}

    async def _drain(self) -> None:
        """No write from now on, and the replica has them all."""
        async with client(self.primary) as ours, client(self.replica) as theirs:
            await _command(ours, "CLIENT", "PAUSE", 10_000, "WRITE")

            async def caught_up() -> bool:
                written: int = (await ours.info("replication"))["master_repl_offset"]
                copied: int = (await theirs.info("replication"))["slave_repl_offset"]
                return copied >= written

            await eventually(caught_up, timeout=SYNC_SECONDS, message="the replica catches up")


async def _command(redis: Redis, *parts: str | int) -> None:
    await redis.execute_command(*parts)


@asynccontextmanager
async def client(server: EmbeddedValkey) -> AsyncIterator[Redis]:
    """A connection past every proxy."""
    redis: Redis = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=10)
    try:
        yield redis
    finally:
        await redis.aclose()
