"""The cache an agent uses: two tiers that follow the database."""

import asyncio
import contextlib
import re
import threading
import warnings
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from unstale.errors import CacheClosed, RedisUnavailable
from unstale.freshness.tokens import Token
from unstale.freshness.tracker import Trust
from unstale.locks import LOCK_SECONDS, Lock, Locks
from unstale.near_cache.subscriptions import Subscription
from unstale.protocol import codec
from unstale.reading.single_flight import Loader
from unstale.reads import check_ttl
from unstale.reads_many import ManyReads
from unstale.redis_tier.multiplexer import CLOSED
from unstale.runtime import clock
from unstale.settings import AgentSettings
from unstale.stats import Counters, count, describe


class Cache(ManyReads):
    """Values by key, kept true to the database by invalidations.

    Example:
        >>> async with Cache.from_env() as cache:
        ...     profile = await cache.get_or_load("user:42:profile", lambda: load_profile(42))

    One object per process and event loop. What callers get is theirs to change.
    """

    def __init__(self, settings: AgentSettings) -> None:
        super().__init__(settings)
        self._locks = Locks(self._tier, self.settings.names, clock=clock.now)

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A cache with the settings of the environment and ``.env``; arguments beat them."""
        return cls(AgentSettings.from_env(**overrides))

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Begin to follow the log, and wait a moment until this cache is attached.

        It waits for at most ``redis_timeout``, and not at all when Redis is away or no worker has ever run;
        the cache can be used in any case. With an embedded worker it waits for its first read of the outbox,
        for at most ``database_timeout``, and raises `ConfigurationError` if the rules do not fit it.
        """
        if self._closed:
            raise CacheClosed(CLOSED)
        if self._loop is not None:
            self._check_loop()
            return self
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            await self._parts.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop following, cancel every load and close the connections; more than once does no harm."""
        if not self._closed:
            self._closed = True
            await self._parts.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_loop", None) is not None and not self._closed:
            _warn(f"unclosed {self!r}; use `async with`", ResourceWarning, source=self)

    # --- writing --------------------------------------------------------------------------------

    async def set(self, key: str, value: object, ttl: float | None = None) -> bool:
        """Store a value; whether it was stored in Redis.

        A key that a rule owns is stored only after a `get` of the same task that missed, and only if it was
        not invalidated in between: so get → load → set is safe. Any other key is stored at once, and other
        instances drop their copies.
        """
        self._check(key, None, False)
        check_ttl(ttl)
        return await self._writer.set(key, codec.encode(key, value), ttl)

    async def delete(self, key: str, *keys: str, lsn: str | None = None) -> bool:
        """Invalidate keys in Redis and in every instance; call it after your transaction has committed.

        When it returns, this process serves no older value, and neither does Redis if it returns True. False:
        Redis did not confirm. The keys are gone here; the worker still removes keys that a rule owns.

        Args:
            lsn: WAL position of the commit, if known: loaders may then read replicas that have replayed it.
        """
        for each in (key, *keys):
            self._check(each, None, False)
        if lsn is not None and not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", lsn):
            raise ValueError(f"lsn is {lsn!r}: expected a WAL position such as '16/B374D848'")
        return await self._writer.delete((key, *keys), lsn=lsn)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the Redis glob matches; how many values and leases were in Redis.

        Escape what is not meant as a glob with `escape_glob`. Other string keys in this Redis database count
        too if they match; unstale's own never do.
        """
        if not pattern:
            raise ValueError("an empty pattern matches nothing; did you mean '*'?")
        self._check_open()
        return await self._writer.invalidate_pattern(pattern)

    def lock(self, name: str, *, ttl: float = LOCK_SECONDS, timeout: float | None = 10.0) -> Lock:
        """A lock between all instances, to be used with ``async with``.

        Entering raises `LockTimeout` after ``timeout`` seconds (None: waits for ever) and `RedisUnavailable`;
        leaving raises `LockLost` if ``ttl`` ran out before. Without Redis it holds between the tasks of this
        process.
        """
        self._check_open()
        return self._locks.lock(name, ttl=ttl, timeout=timeout)

    # --- freshness ------------------------------------------------------------------------------

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached."""
        return self._follower.staleness

    @property
    def attached(self) -> bool:
        """Whether the near cache is trusted: the log is followed and watermarks come."""
        return self._follower.trust is Trust.ATTACHED

    async def wait_for(self, token: str, *, timeout: float = 5.0) -> None:
        """Wait until the transaction that ``select unstale.token()`` named is applied here.

        Afterwards this process serves nothing older, of keys with ``serve_stale`` only where a read asks for
        ``fresh=True`` or ``max_staleness``. Raises `WaitTimeout` after ``timeout`` seconds, and
        ValueError for a token that is none or comes from another database.
        """
        self._check_open()
        wanted = Token.parse(token)
        if self._tier is not None:
            with contextlib.suppress(RedisUnavailable):
                wanted.expect(await self._tier.database())
        elif self._parts.embedded is None:
            self._near.flush()  # nothing is shared, so nothing of another process can be stale
            return
        else:
            if self._follower.mark is not None:
                wanted.expect(self._follower.mark.database)
            self._parts.embedded.hint()
        await self._parts.tokens.wait(wanted, timeout=timeout)

    @contextlib.asynccontextmanager
    async def subscribe(self, pattern: str = "*") -> AsyncIterator[Subscription]:
        """Iterate over `Invalidated` and `Reset` events of the keys that a Redis glob matches.

        An event comes after this process has dropped its own copies. At most 1,024 wait; a slower
        subscriber gets one `Reset` instead.
        """
        self._check_open()
        subscription = self._parts.events.open(pattern)
        try:
            yield subscription
        finally:
            self._parts.events.remove(subscription)

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Whether the cached value of ``key`` is what ``loader`` returns; a wrong one is invalidated.

        None: no result. Nothing is in this process' near cache, no rule owns the key, a change came between,
        this process was detached, or the loader failed or does not return the same value twice. A mismatch
        is judged only when everything committed before it was seen is processed here, which takes until the
        next watermark. ``UNSTALE_AUDIT_SHARE`` does the same for a share of all hits of `get_or_load`.
        """
        self._check(key, None, False)
        return await self._auditor.audit(key, loader)

    def counters(self) -> Counters:
        """What this cache has done so far; no I/O."""
        return count(self)

    async def get_stats(self) -> dict[str, object]:
        """Counters and state, JSON-ready; the seed's fields and unstale's own."""
        return await describe(self)

    def __repr__(self) -> str:
        state = (
            "closed" if self._closed else "not started" if self._loop is None else self._follower.trust.value
        )
        return f"<Cache {self.settings.names.tag} {state}, {len(self._followed)} near entries>"
