"""The cache an agent uses: two tiers that follow the database."""

import asyncio
import contextlib
import functools
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from threading import get_ident
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from pydantic import TypeAdapter

from unstale.decorator import Cached, P, R
from unstale.errors import CacheClosed, CacheNotStarted, RedisUnavailable
from unstale.freshness.subscriptions import Subscription
from unstale.freshness.tokens import Token
from unstale.locks import LOCK_SECONDS, Lock
from unstale.near_cache.near_store import UNSET, Entry
from unstale.partitioned import OverPartitions
from unstale.protocol import codec
from unstale.protocol.durations import Duration, in_seconds
from unstale.protocol.globs import check_glob
from unstale.protocol.models import Model, OtherSchema
from unstale.protocol.sealed import SEALED
from unstale.protocol.tags import check_tag, record
from unstale.reading.batch_loader import ManyLoader, load_many
from unstale.reading.loader import Loader
from unstale.reading.options import (
    DEFAULT,
    LEAST_TTL,
    GetArguments,
    LoadArguments,
    ManyArguments,
    ReadOptions,
    checked_options,
    distinct_keys,
)
from unstale.reading.result import FAILED, LOADER, MEMORY, REDIS, SLOW, STALE, Origin, ReadResult
from unstale.runtime.meant import suggesting
from unstale.settings import AgentSettings
from unstale.settings.variables import agent_settings
from unstale.stats import Counters, counters, picture
from unstale.wiring import Parts

T = TypeVar("T")


class Cache:
    """Values by key, kept true to the database by invalidations.

    Example:
        >>> async with Cache.from_env() as cache:
        ...     profile = await cache.get_or_load("user:42:profile", lambda: load_profile(42))

    One object per process and event loop. It can be opened again after it was closed, also in another event
    loop once the first has ended. Each caller gets its own copy of a value.
    """

    def __new__(cls, settings: AgentSettings) -> Self:
        """Make a cache over several partitions if the settings say so."""
        several = isinstance(settings, AgentSettings) and len(settings.in_partitions) > 1
        kind: type[Self] = _over_partitions(cls) if several else cls  # type: ignore[arg-type]
        return super().__new__(kind)

    def __init__(self, settings: AgentSettings) -> None:
        if not isinstance(settings, AgentSettings):
            raise TypeError(
                f"Cache needs AgentSettings, not a {type(settings).__name__}: write "
                "Cache.from_env(redis_url=...), or Cache(AgentSettings(redis_url=...))"
            )
        self.settings = settings
        self._tag = settings.names.tag  # once: a property reads the URL for it
        self._reserved = settings.names.reserved
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False
        self._use(Parts(self.settings))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """Return a cache with the settings of the environment and ``.env``; arguments override them.

        Raises TypeError for an argument that is not a setting of the agent. Logs once that a variable which
        begins with ``UNSTALE_`` is no setting.
        """
        return cls(agent_settings(**overrides))

    def _use(self, parts: Parts) -> None:
        """Serve from these parts, which count from zero."""
        self._parts, self._now = parts, parts.now
        self._freshness, self._path, self._rules = parts.freshness, parts.path, parts.rules
        self._near = parts.local.near
        # With an audit every read takes the long way, which knows the loader of what it returns.
        self._peek: Callable[[str], Entry | None] = _nothing if parts.auditor.share else self._near.peek

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Begin to follow the log, and wait a moment until this cache is attached.

        Waits for at most ``redis_timeout``, and not at all when Redis is away or no worker has ever run. The
        cache can be used in any case. With an embedded worker it waits for its first read of the outbox, for
        at most ``database_timeout``, and raises `ConfigurationError` if the rules do not fit the database.
        """
        if self._loop is not None and not self._loop.is_closed():
            self._check_loop()
            return self
        if self._closed or self._loop is not None:  # another life, perhaps in another event loop
            self._use(Parts(self.settings))
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._closed = False
        try:
            await self._parts.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Stop following, cancel every load and close the connections; closing twice does no harm."""
        if not self._closed:
            ended = self._loop is not None and self._loop.is_closed()
            self._closed, self._loop = True, None
            if not ended:  # a loop that has ended took tasks and connections along
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
        if getattr(self, "_loop", None) is not None:
            _warn(f"unclosed {self!r}; use `async with`", ResourceWarning, source=self)

    # --- reading --------------------------------------------------------------------------------

    @overload
    async def get_or_load(
        self, key: str, loader: Loader, *, model: type[T] | TypeAdapter[T], **options: Unpack[LoadArguments]
    ) -> T | None: ...

    @overload
    async def get_or_load(
        self, key: str, loader: Loader, *, model: None = None, **options: Unpack[LoadArguments]
    ) -> Any: ...

    async def get_or_load(
        self,
        key: str,
        loader: Loader,
        *,
        tags: Collection[str] | None = None,
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        max_staleness: Duration | None = None,
        fresh: bool = False,
        model: Model | None = None,
        shared: bool = False,
        refresh_ahead: float = 0.0,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
    ) -> Any:
        """Return the value of ``key``: from the near cache, from Redis, or from ``loader``, which runs once.

        ``loader`` may be an async function, a lambda that returns an awaitable, or a plain function. A
        parameter annotated `Load` receives one, which says whether a read replica may be read. What it raises
        reaches every caller that waits for that load. None is a value ("not found") and is cached.

        Args:
            tags: Names under which the value is invalidated together with others: by `invalidate_tag`, or by
                a rule's ``tags``. Only a value that has all of them is returned.
            ttl: Time that the value may live; overrides ``[ttl]`` and ``default_ttl``. This and the other
                durations are seconds, a timedelta, or a text such as ``"1h30m"`` or ``"300ms"``.
            negative_ttl: Time the value may live if it is None; overrides ``UNSTALE_NEGATIVE_TTL``.
            max_staleness: The caches may answer only if a rule owns the key and `staleness` is at most this,
                and never with an older value that a rule allows.
            fresh: Only a value that was loaded after this call is returned. It is stored, unless an
                invalidation overtakes it, so that the next plain read is not older.
            model: The pydantic model, or the TypeAdapter, to validate into.
            shared: Return one frozen object to all callers, instead of a copy; faster. Not with ``model``.
            refresh_ahead: Share of the value's life, 0 to 0.9. A hit in its last part is answered at once and
                starts a load in the background, so that no reader waits when the value expires.
            soft_timeout: Time of the load after which an older value is answered while the load goes on, if
                ``stale_if_error`` allows one.
            stale_if_error: Longest time since the last value was current with which a failed load is
                answered; 0: not at all. None: as the rules say, else
                ``UNSTALE_STALE_IF_ERROR``. A key that a rule owns needs it in the rules, too, and it may not
                be longer here. ``fresh``, ``max_staleness`` and ``tags`` never get an older value.
        """
        # A hit is served without another Python call: this is what an agent does all day.
        entry = self._peek(key)
        if entry is not None and max_staleness is None and not fresh and not refresh_ahead:
            now = self._now()
            if (
                now < self._freshness.trusted_until
                and now < entry.expires
                and get_ident() == self._thread  # a call from another thread fails, also on a hit
                and (tags is None or entry.tags.issuperset(tags))
            ):
                entry.used = True
                if model is None:
                    entry.tally.near_hits += 1
                    if not shared:
                        return codec.loads(entry.data)
                    frozen = entry.frozen
                    return frozen if frozen is not UNSET else self._freeze(key, entry)
        self._check(key, model, shared)
        if (
            not tags
            and model is None
            and ttl is None
            and negative_ttl is None
            and max_staleness is None
            and soft_timeout is None
            and stale_if_error is None
            and not (fresh or refresh_ahead)
        ):
            options = DEFAULT
        else:
            options = checked_options(
                ttl=ttl,
                negative_ttl=negative_ttl,
                max_staleness=max_staleness,
                fresh=fresh,
                refresh_ahead=refresh_ahead,
                model=model,
                tags=self._parts.rules.tags(key, tags) if tags else (),
                soft_timeout=soft_timeout,
                stale_if_error=stale_if_error,
            )
        misfits = 0
        while True:
            loaded = await self._path.read(key, loader, options)
            try:
                if model is None and not shared:  # inline: a hit in Redis runs this
                    value = codec.loads(loaded.data)
                else:
                    value = self._decode(key, loaded.data, model, shared)
                self._count(key, loaded.origin)
                break
            except ValueError as error:
                if loaded.origin == LOADER:
                    self._count(key, LOADER)
                    if not isinstance(error, OtherSchema):
                        raise
                    value = codec.decode(loaded.data.lstrip(), model)  # new, by a caller with another model
                    break
                # Cached by a release with another model, or not by unstale at all.
                await self._discard(key, loaded, error)
                misfits += 1
                if misfits > 1:  # a near copy does not name the lease of an instance that replaces the value
                    options = options._replace(fresh=True)
        parts = self._parts
        if parts.auditor.share and loaded.origin != LOADER:
            parts.auditor.sample(key, loader, loaded.data)
        if refresh_ahead:
            parts.early.consider(key, loader, options)
        return value

    @overload
    async def get(
        self, key: str, *, model: type[T] | TypeAdapter[T], **options: Unpack[GetArguments]
    ) -> T | Any: ...

    @overload
    async def get(self, key: str, *, model: None = None, **options: Unpack[GetArguments]) -> Any: ...

    async def get(
        self,
        key: str,
        *,
        default: Any = None,
        tags: Collection[str] | None = None,
        model: Model | None = None,
        max_staleness: Duration | None = None,
        fresh: bool = False,
        shared: bool = False,
    ) -> Any:
        """Return the cached value, which may be None, or ``default`` if there is none.

        After a miss, `set` in the same task stores the value unless the key was invalidated in between, or
        one of the ``tags``. With ``tags`` only a value that has all of them is returned. With
        ``max_staleness`` the caches answer only for a key that a rule owns, if `staleness` is at most this
        many seconds, and never with an older value that a rule allows. With
        ``fresh`` the answer is always ``default``.
        """
        self._check(key, model, shared)
        bound = in_seconds(max_staleness, name="max_staleness", least=0)
        writer, names = self._parts.writer, self._parts.rules.tags(key, tags) if tags else ()
        loaded: ReadResult | None = None
        if fresh or self._path.may_be_older(key, bound, names):
            writer.missed(key)
        else:
            loaded = await writer.get(key, allows_stale=max_staleness is None, tags=names)
        if loaded is not None:
            try:
                value = self._decode(key, loaded.data, model, shared)
                self._count(key, loaded.origin)
                return value
            except ValueError as error:
                await self._discard(key, loaded, error)
        self._count(key, LOADER)
        return default

    @overload
    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        model: type[T] | TypeAdapter[T],
        **options: Unpack[ManyArguments],
    ) -> dict[str, T | None]: ...

    @overload
    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        model: None = None,
        **options: Unpack[ManyArguments],
    ) -> dict[str, Any]: ...

    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        tags: Collection[str] | Callable[[str], Collection[str]] | None = None,
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        max_staleness: Duration | None = None,
        model: Model | None = None,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
    ) -> Any:
        """Return the values of many keys, in their order, by one trip to Redis and one call of ``loader``.

        Each key is read as `get_or_load` reads it, under a lease of its own. ``loader`` receives the list of
        missing keys and returns a mapping; a key it leaves out was not found, and is None. It should read the
        primary. What it raises is raised here. Without a loader only cached values are returned, as by `get`.
        ``tags`` are those of every value, or a function that returns the tags of a key.

        Example:
            >>> await cache.get_many([f"user:{n}:profile" for n in (1, 2)], load_profiles)
            {'user:1:profile': {'name': 'Ada'}, 'user:2:profile': None}
        """
        wanted = distinct_keys(keys)
        for key in wanted:
            self._check(key, None, False)
        options = checked_options(
            ttl=ttl,
            negative_ttl=negative_ttl,
            max_staleness=max_staleness,
            model=model,
            soft_timeout=soft_timeout,
            stale_if_error=stale_if_error,
        )
        tags_of = tags if callable(tags) else lambda _: tags
        if loader is None:
            rules = self._parts.rules
            each_of = (options._replace(tags=rules.tags(key, tags_of(key) or ())) for key in wanted)
            found = await asyncio.gather(*map(self._cached, wanted, each_of))
            return {key: value[0] for key, value in zip(wanted, found, strict=True) if value}
        each: dict[str, Any] = {
            "ttl": options.ttl,
            "negative_ttl": options.negative_ttl,
            "max_staleness": options.max_staleness,
            "model": model,
            "soft_timeout": options.soft_timeout,
            "stale_if_error": options.stale_if_error,
        }
        return await load_many(
            wanted, loader, lambda key, load: self.get_or_load(key, load, tags=tags_of(key), **each)
        )

    async def _cached(self, key: str, options: ReadOptions) -> tuple[Any, ...]:
        """Return the cached value of ``key`` in a tuple, or an empty tuple."""
        loaded = await self._path.cached(key, options)
        if loaded is not None:
            try:
                value = self._decode(key, loaded.data, options.model, False)
                self._count(key, loaded.origin)
                return (value,)
            except ValueError as error:
                await self._discard(key, loaded, error)
        self._count(key, LOADER)
        return ()

    @suggesting
    def cached(
        self,
        template: str,
        *,
        tags: Collection[str] = (),
        ttl: Duration | None = None,
        negative_ttl: Duration | None = None,
        model: Model | None = None,
        refresh_ahead: float = 0.0,
        soft_timeout: Duration | None = None,
        stale_if_error: Duration | None = None,
        ignore: Collection[str] = (),
    ) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
        """Cache what an async function returns, under a key made of its arguments.

        Each parameter except ``self`` must be named in ``template``, or in ``ignore`` if no answer depends on
        it, like a connection: answers would be mixed up otherwise. ``tags`` may name any parameter, as in
        ``tags=["user:{user_id}:memories"]``. Values are validated into a pydantic
        return annotation; ``model`` overrides it. The other arguments are those of `get_or_load`. May be
        used before the cache is started. Raises `ConfigurationError` for a template that does not fit.

        Example:
            >>> @cache.cached("user:{user_id}:profile", ttl=3600)
            ... async def profile(user_id: int) -> Profile | None:
            ...     return await load_profile(user_id)
        """
        options = checked_options(
            ttl=ttl, negative_ttl=negative_ttl, soft_timeout=soft_timeout, stale_if_error=stale_if_error
        )

        def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
            return Cached(
                self,
                template,
                function,
                tags=tags,
                ttl=options.ttl,
                negative_ttl=options.negative_ttl,
                model=model,
                refresh_ahead=refresh_ahead,
                soft_timeout=options.soft_timeout,
                stale_if_error=options.stale_if_error,
                ignore=tuple(ignore),
            )

        return decorate

    # --- writing --------------------------------------------------------------------------------

    async def set(
        self, key: str, value: object, ttl: Duration | None = None, *, tags: Collection[str] | None = None
    ) -> bool:
        """Store a value; return True if it was stored in Redis.

        A key that a rule owns is stored only after a `get` of the same task that missed, and only if it was
        not invalidated in between: so get → load → set is safe. Any other key is stored at once, and other
        instances drop their copies. The same holds for ``tags``: if a rule owns one of them, the `get` must
        have named them all.
        """
        self._check(key, None, False)
        seconds = in_seconds(ttl, name="ttl", least=LEAST_TTL)
        names = self._parts.rules.tags(key, tags) if tags else ()
        return await self._parts.writer.set(key, codec.encode(key, value), seconds, names)

    async def delete(self, key: str, *keys: str, lsn: str | None = None) -> None:
        """Invalidate keys in Redis and in every instance; call it after your transaction has committed.

        When it returns, neither this process nor Redis serves an older value. Raises `RedisUnavailable` if
        Redis did not confirm. Then the keys are gone in this process only, and the worker still removes the
        keys that a rule owns.

        Args:
            lsn: WAL position of the commit, if known: loaders may then read replicas that have replayed it.
        """
        for each in (key, *keys):
            self._check(each, None, False)
        await self._parts.writer.delete((key, *keys), lsn=_checked_lsn(lsn))

    async def invalidate_tag(self, tag: str, *, lsn: str | None = None) -> None:
        """Invalidate every value that was stored under ``tag``, in Redis and in every instance.

        It is one step that costs the same for any number of values, and otherwise as safe as `delete`: no
        load that began before it can store its value. Redis frees the memory when a key is read the next
        time, or at the end of its TTL. Raises `RedisUnavailable` if Redis did not confirm; then the values
        are gone in this process only.
        """
        await self.invalidate_tags([tag], lsn=lsn)

    async def invalidate_tags(self, tags: Iterable[str], *, lsn: str | None = None) -> None:
        """Invalidate several tags: see `invalidate_tag`."""
        if isinstance(tags, str):
            raise TypeError(f"tags is {tags!r}: expected a list of tags; use invalidate_tag for one")
        self._check_open()
        records = [record(check_tag(tag)) for tag in dict.fromkeys(tags)]
        for each in records:
            self._parts.rules.of(each)  # raises for a spelling that no value can have
        if records:
            await self._parts.writer.delete(records, lsn=_checked_lsn(lsn))

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the Redis glob matches; return how many values and leases Redis held.

        Quote text that is not meant as a glob with `escape_glob`. Other string keys in this Redis database
        count too if they match; unstale's own never do. Raises `RedisUnavailable` if Redis did not confirm;
        then the keys are gone in this process only. Raises ValueError for a glob whose meaning depends on the
        server's processor: a range with a character outside ASCII.
        """
        check_glob(pattern)
        self._check_open()
        self._parts.rules.check_pattern(pattern)
        return await self._parts.writer.invalidate_pattern(pattern)

    def lock(self, name: str, *, ttl: Duration = LOCK_SECONDS, timeout: Duration | None = 10.0) -> Lock:
        """Return a lock between all instances, to be used with ``async with``.

        Entering raises `LockTimeout` after ``timeout`` seconds (None: waits for ever) and `RedisUnavailable`;
        leaving raises `LockLost` if ``ttl`` ran out before. Without Redis it holds between the tasks of this
        process only, which is logged once.
        """
        self._check_open()
        return self._parts.locks.lock(name, ttl=ttl, timeout=timeout)

    # --- freshness ------------------------------------------------------------------------------

    @property
    def staleness(self) -> float:
        """Upper bound in seconds on how old an answer can be; infinite while detached."""
        return self._freshness.staleness

    @property
    def attached(self) -> bool:
        """True if the near cache may answer: the log is followed and watermarks arrive."""
        return self._freshness.attached

    async def wait_for(self, token: str, *, timeout: Duration = 5.0) -> None:
        """Wait until the transaction that ``select unstale.token()`` named is applied here.

        Afterwards this process serves nothing older; of keys with ``serve_stale`` or ``stale_if_error``, only
        reads with ``fresh=True`` or ``max_staleness`` do not. Raises `WaitTimeout` after ``timeout``,
        and ValueError for a text that is not a token, or a token of another database.
        """
        self._check_open()
        seconds = in_seconds(timeout, name="timeout", least=0)
        wanted = Token.parse(token)
        if await self._parts.following.expect(wanted):
            await self._parts.tokens.wait(wanted, timeout=seconds)

    @contextlib.asynccontextmanager
    async def subscribe(self, pattern: str = "*", *, reasons: bool = False) -> AsyncIterator[Subscription]:
        """Iterate over `Invalidated` and `Reset` events of the keys that a Redis glob matches.

        An event arrives after this process has dropped its own copies. At most 1,024 wait; a slower
        subscriber gets one `Reset` instead. With ``reasons``, each `Invalidated` says which change or call
        was the reason: one more read of Redis per event. Without Redis there are none.
        """
        self._check_open()
        self._parts.rules.check_pattern(check_glob(pattern))
        subscription = self._parts.subscriptions.open(pattern, reasons=reasons)
        try:
            yield subscription
        finally:
            self._parts.subscriptions.remove(subscription)

    # --- operating ------------------------------------------------------------------------------

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Return True if the cached value of ``key`` is what ``loader`` returns; a wrong one is invalidated.

        None means no result: nothing is in this process' near cache, no rule owns the key, a change came
        between, this process was detached, or the loader failed or did not return the same value twice. A
        mismatch is judged only when everything committed before it was seen is processed here, which takes
        until the next watermark. ``UNSTALE_AUDIT_SHARE`` does the same for a share of the hits of
        `get_or_load`.
        """
        self._check(key, None, False)
        return await self._parts.auditor.audit(key, loader)

    def counters(self) -> Counters:
        """Return what this cache has done since it was last started; no I/O."""
        return counters(self._parts)

    async def get_stats(self) -> dict[str, object]:
        """Return counters and state, JSON-ready. Numbers are numbers: ``hit_rate`` is a share from 0 to 1."""
        return await picture(self._parts, self.counters())

    @property
    def partitions(self) -> "tuple[Cache, ...]":
        """The cache of each partition; itself, unless a cluster has several."""
        return (self,)

    def in_partition(self, key: str) -> "Cache":
        """Return the cache that has ``key``: itself, unless a cluster has several partitions."""
        return self

    def inspect(self) -> Parts:
        """Return the parts this cache is made of, for tests and tools. They may change in any release."""
        return self._parts

    # --- inside ---------------------------------------------------------------------------------

    def _check(self, key: str, model: Model | None, shared: bool) -> None:
        self._check_open()
        self._rules.check(key, self._reserved)
        if shared and model is not None:
            raise TypeError("shared=True returns plain frozen JSON: it cannot be combined with model=")

    def _check_open(self) -> None:
        if self._loop is None:
            raise CacheClosed if self._closed else CacheNotStarted
        self._check_loop()

    def _check_loop(self) -> None:
        # Not get_running_loop(): on Python 3.11 that is a system call, and this runs for every read of Redis.
        # A loop that runs in this thread is the one that runs this call.
        loop = self._loop
        if loop is None or get_ident() != self._thread or not loop.is_running():
            raise RuntimeError(
                "this cache was started in another event loop or thread: use it there, open one cache for "
                "each event loop, or use `unstale.redis_cache`, which opens one in each. A cache whose event "
                "loop was closed can be started again"
            )

    def _count(self, key: str, origin: Origin) -> None:
        tally = self._rules.of(key).tally
        if origin == REDIS:
            tally.redis_hits += 1
        elif origin == MEMORY:
            tally.near_hits += 1
        elif origin == STALE:
            tally.stale_hits += 1
        elif origin == SLOW:
            tally.slow_hits += 1
        elif origin == FAILED:
            tally.failed_hits += 1
        else:
            tally.misses += 1

    def _freeze(self, key: str, entry: Entry) -> object:
        frozen = codec.freeze(codec.loads(entry.data))
        self._near.share(key, entry, frozen)
        return frozen

    def _decode(self, key: str, data: bytes, model: Model | None, shared: bool) -> Any:
        if not shared:
            return codec.decode(data, model)
        entry = self._near.peek(key)
        if entry is not None and entry.data is data:
            return entry.frozen if entry.frozen is not UNSET else self._freeze(key, entry)
        return codec.freeze(codec.loads(data))

    async def _discard(self, key: str, loaded: ReadResult, error: ValueError) -> None:
        """Remove a value that cannot be decoded, if it is still the one that stands there."""
        self._parts.local.drop([key])
        self._parts.rules.unreadable(key, error, sealed=loaded.data.startswith(SEALED))
        with contextlib.suppress(RedisUnavailable):
            if loaded.origin == STALE:
                await self._parts.tier.discard_stale(key, loaded.stored or loaded.data)
            elif loaded.origin in (SLOW, FAILED):
                await self._parts.tier.drop_spare(key)
            else:
                await self._parts.tier.release(key, loaded.stored or loaded.data)

    def __repr__(self) -> str:
        state = (
            self._freshness.trust.value
            if self._loop is not None
            else "closed"
            if self._closed
            else "not started"
        )
        return f"<Cache {self._tag} {state}, {len(self._near)} near entries>"


@functools.cache
def _over_partitions(cls: Any) -> Any:
    """Return this class of caches, over several partitions."""
    if issubclass(cls, OverPartitions):
        return cls
    return type(cls.__name__, (OverPartitions, cls), {"single": Cache, "__module__": cls.__module__})


def _nothing(_key: str) -> Entry | None:
    return None


def _checked_lsn(lsn: str | None) -> str | None:
    if lsn is not None and not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", lsn):
        raise ValueError(f"lsn is {lsn!r}: expected a WAL position such as '16/B374D848'")
    return lsn
