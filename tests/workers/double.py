"""A worker that a test controls: it runs the real scripts against a real Redis, one step at a time.

Nothing is sent unless a test says so, so a test decides which message is lost, late or repeated.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import eventually
from unstale import Cache
from unstale.protocol.messages import PublishedRules, key_list
from unstale.protocol.names import Names
from unstale.redis_tier.scripts import Script
from unstale_worker.redis.script_batches import group_refreshes, script_header, watermark_fields
from unstale_worker.redis.state import Seen
from unstale_worker.rules import Renewal

RULES = PublishedRules(
    hash="rules-1",
    patterns=("user:*:profile", "user:*:settings"),
    ttl=(("user:*:profile", 3600.0),),
)
NAMES = Names()
LOG_BYTES = 32 * 1024 * 1024
DATABASE = "7000000000000000001:1"


class WorkerDouble:
    """A leader of one namespace; `position` is a plain number that grows with each batch."""

    def __init__(self, redis: Redis, names: Names = NAMES, rules: PublishedRules = RULES) -> None:
        self.redis = redis
        self.names = names
        self.rules = rules
        self.fence = 0
        self.xid = 100
        self.epoch = ""
        self.database = DATABASE
        self._apply, self._recover, self._new_epoch, self._watermark, self._state, self._acquire = (
            Script("unstale_worker.redis", name)
            for name in ("apply", "recover", "new_epoch", "watermark", "state", "acquire")
        )

    @property
    def position(self) -> str:
        return f"{self.xid}:{self.xid}:"

    @property
    def flushed(self) -> str:
        """End of the WAL on disk. Each transaction writes some."""
        return f"1/{self.xid:X}"

    def token(self, xid: int) -> str:
        """Return what `unstale.token()` returned in transaction ``xid``."""
        return f"{self.database}:{xid}:1/{xid - 1:X}"

    async def recover(self, *, age: float = 0.0) -> None:
        """Lead, and begin a new epoch without a usable position; the watermark is ``age`` seconds old."""
        names = self.names
        reply = await self._acquire(
            self.redis, keys=[names.leader, names.state], args=["double", 600_000, "1"]
        )
        self.fence = reply[0]
        run, stored = await self._read()
        self.epoch = secrets.token_hex(16)
        self.xid += 1
        _expect_ok(
            await self._recover(
                self.redis,
                keys=[names.state, names.log, names.rules],
                args=[
                    self._header(
                        position=stored, run=run, new_epoch=self.epoch, new_position=self.position,
                        flushed=self.lsn, database=DATABASE, watermark=self._mark(age=age),
                    ),
                    self.rules.encode(),
                ],
            )
        )  # fmt: skip

    async def new_epoch(self) -> None:
        """Keep the position and begin a new epoch, as a worker does after a failover."""
        _, stored = await self._read()
        self.epoch = secrets.token_hex(16)
        _expect_ok(
            await self._new_epoch(
                self.redis,
                keys=[self.names.state, self.names.log],
                args=[self._header(position=stored, new_epoch=self.epoch)],
            )
        )

    async def apply(
        self, *keys: str, patterns: Sequence[str] = (), lost: bool = False, purge: bool = False
    ) -> int:
        """Apply one batch and return its log id. Publish a ``lost`` message where nothing listens."""
        _, stored = await self._read()
        self.xid += 1
        renewals: dict[str, Renewal] = {}
        for key in keys:
            seconds, (_, spare) = self.rules.refresh_of(key), self.rules.reads_of(key)
            if seconds is not None or spare:
                renewals[key] = Renewal(
                    -1 if purge else round((seconds or 0) * 1000),
                    0, True, round(spare * 1000), refreshed=seconds is not None,
                )  # fmt: skip
        names, refresh = group_refreshes(keys, renewals, self.names)
        more: dict[str, Any] = {} if refresh is None else {"refresh": refresh}
        if lost:
            more["channel"] = "nowhere"
        header = self._header(
            epoch=self.epoch, position=stored, log_bytes=LOG_BYTES, new_position=self.position,
            flushed=self.lsn, database=DATABASE, **more,
        )  # fmt: skip
        reply = await self._apply(
            self.redis,
            keys=[self.names.state, self.names.log, *names],
            args=[header, key_list(list(keys)), key_list(list(patterns))],
        )
        _expect_ok(reply)
        log_id: int = reply[1]
        return log_id

    async def watermark(self, *, age: float = 0.0) -> None:
        """Publish a watermark that is ``age`` seconds old."""
        _, stored = await self._read()
        pending: Any = await self.redis.hget(self.names.state, "primary_until")
        _expect_ok(
            await self._watermark(
                self.redis,
                keys=[self.names.state, self.names.log],
                args=[
                    self._header(
                        epoch=self.epoch, position=stored, flushed=self.flushed, database=self.database,
                        watermark=self._mark(age=age, primary_until=(pending or b"").decode()),
                    )
                ],
            )
        )  # fmt: skip

    async def grow_old(self, seconds: float = 3600.0) -> None:
        """Let the newest watermark in the state be older, as that of a worker that is gone."""
        await self.redis.hincrbyfloat(self.names.state, "read_at", -seconds * 1000)

    async def cut_off(self) -> None:
        """Close the agents' subscriptions; no state attaches them again."""
        await self.grow_old()
        assert await self.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") > 0

    @contextlib.asynccontextmanager
    async def beating(self, *, every: float = 0.05) -> AsyncIterator[None]:
        """Publish watermarks regularly, as a running worker does."""

        over = asyncio.Event()  # no cancel: redis-py loses one on Python 3.11 (asyncio.wait_for)

        async def beat() -> None:
            while not over.is_set():
                with contextlib.suppress(Refused):  # a step of the test ran between the read and the script
                    await self.watermark()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        await over.wait()

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(task, return_exceptions=True)

    async def publish(self, payload: dict[str, object] | bytes) -> None:
        """Publish any payload on the channel."""
        await self.redis.publish(
            self.names.channel, payload if isinstance(payload, bytes) else orjson.dumps(payload)
        )

    @property
    def lsn(self) -> str:
        return f"0/{self.xid:X}"

    def _header(self, **fields: Any) -> bytes:
        given = {"channel": self.names.channel, "fence": str(self.fence), "lsn": self.lsn}
        return script_header(**given | fields)

    def _mark(self, *, age: float = 0.0, primary_until: str = "") -> dict[str, str]:
        seen = Seen(self.position, self.lsn, time.monotonic() - age, primary_until)
        return watermark_fields(seen, rules=self.rules.hash)

    async def _read(self) -> tuple[str, str]:
        reply = await self._state(self.redis, keys=[self.names.state])
        fields = dict(zip(reply[2::2], reply[3::2], strict=True))
        return reply[0].decode(), fields.get(b"position", b"").decode()


class Refused(AssertionError):
    """A script refused because epoch or position had changed."""


def _expect_ok(reply: list[object]) -> None:
    if reply[0] != b"ok":
        raise Refused(f"the script refused: {reply}")


@contextlib.asynccontextmanager
async def redis_client(url: str) -> AsyncIterator[Redis]:
    """Open a plain Redis client."""
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def open_cache(url: str, **more: Any) -> AsyncIterator[Cache]:
    """Open a cache on this Redis, without waiting until it is attached."""
    async with Cache.from_env(env_file=None, redis_url=url, **more) as cache:
        yield cache


@contextlib.asynccontextmanager
async def attached_cache(url: str, **more: Any) -> AsyncIterator[Cache]:
    """Open a cache, and wait until it has heard a watermark. A worker must send them."""
    async with open_cache(url, **more) as cache:
        await eventually(lambda: heard(cache), message="the cache hears a watermark")
        yield cache


def heard(cache: Cache) -> bool:
    """Return True if the cache is attached by a watermark that it has heard, and not by the state alone."""
    return cache.attached and cache.inspect().freshness.watermark is not None


class Loader:
    """A loader that counts its calls, and holds them while `gate` is closed."""

    def __init__(self, value: object = None) -> None:
        self.value = value
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def __call__(self) -> object:
        self.calls += 1
        value = self.value
        self.entered.set()
        await self.gate.wait()
        return value
