"""The read path: near cache, single flight, Redis and lease in one round trip, loader, fill."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from unstale.errors import RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.near_cache.in_flight import InFlightRead
from unstale.near_cache.local_state import LocalState
from unstale.protocol import codec
from unstale.protocol.lease import PRIMARY, ValueOrLease
from unstale.protocol.newest_fills import NewestFills
from unstale.protocol.sealed import SEALED_BYTE
from unstale.protocol.tags import NO_TAGS
from unstale.reading.loader import Load, Loader, call, load_parameter
from unstale.reading.older_values import OlderValues
from unstale.reading.options import DEFAULT, ReadOptions
from unstale.reading.result import LOADER, MEMORY, REDIS, STALE, Origin, ReadResult
from unstale.reading.single_flight import Flight, SingleFlight
from unstale.reading.stale_answers import note
from unstale.redis_tier.error_replies import out_of_memory
from unstale.redis_tier.shared_tier import SharedTier
from unstale.runtime import failpoints
from unstale.sealing.key_source import KeyUnavailable
from unstale.sealing.sealer import Sealer

FIRST_LOOK: Final = 0.005
"""Seconds before reading a key again whose lease another process holds; doubles up to `LAST_LOOK`."""
LAST_LOOK: Final = 0.1
SOFT_LEASE_SECONDS: Final = 30.0
"""Life of a soft lease. It is long because the lease is not extended, which does no harm: no reader waits
for it."""


class ReadPath:
    """Answers each read from the first tier that may answer it, and fills the tiers above.

    Trust is checked before a tier is used and again when its reply arrives: if the connection was lost in
    between, it may now lead to another server.

    Attributes:
        flights: The loads in progress.
        older: Finds values for readers whose loader fails or is slow.
        newest_fills: The keys that this process filled last.
        on_load: Called with the key before each load, for tests.
        sealer: Compresses and encrypts values in Redis; None if they are plain.
    """

    def __init__(
        self,
        tier: SharedTier,
        local: LocalState,
        freshness: Freshness,
        rules: KnownRules,
        *,
        clock: Callable[[], float],
        lease_ttl: float,
        detached_ttl: float,
        newest_fills: NewestFills | None = None,
        sealer: Sealer | None = None,
    ) -> None:
        self._tier = tier
        self.sealer = sealer
        self._local = local
        self._freshness = freshness
        self._rules = rules
        self._clock = clock
        self._lease_ttl = lease_ttl
        self._detached_ttl = detached_ttl
        self._peek = local.near.peek
        self.older = OlderValues(tier, freshness, rules, sealer)
        self.flights = SingleFlight(self._fetch, local.in_flight, self.older)
        self.newest_fills = newest_fills or NewestFills(0)
        self.on_load: Callable[[str], object] | None = None

    # --- the tiers, top to bottom ---------------------------------------------------------------

    async def read(self, key: str, loader: Loader, options: ReadOptions) -> ReadResult:
        """Return the value of ``key``; raises the loader's errors, and TypeError if the value is not JSON."""
        freshness = self._freshness
        if options is not DEFAULT and (
            options.fresh or self.may_be_older(key, options.max_staleness, options.tags)
        ):
            return await self.flights.join(key, loader, options, forced=True)
        believed = freshness.believes_redis
        if self._peek(key) is not None or not believed:  # otherwise this process does not hold it
            held = self.held(key, options.tags)
            if held is not None:
                return held
        if self.sealer is not None and not self.sealer.ready(key):
            await self.sealer.prepare(key)
        known = self._rules.of(key)
        if known.stale and options.allows_stale:  # also while the key is being loaded
            with contextlib.suppress(RedisUnavailable):
                found = await self._read_or_stale(key, options)
                if found is not None:
                    return found
            believed = freshness.believes_redis
        if key in self.flights.running or not believed:
            return await self.flights.join(key, loader, options)
        tags = frozenset(options.tags) if options.tags else NO_TAGS
        read, handed_over = self._local.in_flight.open(key, tags), False
        try:
            if tags:
                life = options.ttl is not None or known.asks_life
                acquired = await self._tier.acquire_tagged(
                    key, options.tags, soft=False, seconds=self._lease_ttl, life=life
                )
            else:
                # Not `_acquire`: a coroutine more costs a hit 2 %.
                asked = self._tier.acquire(
                    key,
                    soft=False,
                    seconds=self._lease_ttl,
                    life=options.ttl is not None or known.asks_life,
                    limits=load_parameter(loader) is not None,
                )
                try:
                    acquired = await asked
                except asyncio.CancelledError:
                    self._tier.abandon(key, asked)
                    raise
            found = self._usable(key, read, acquired, options)
            if found is not None:
                return found
            if key in self.flights.running or not freshness.believes_redis:
                # The running flight, or a load without Redis, does not need this lease.
                if acquired.lease is not None and acquired.lease != self.flights.lease(key):
                    await self._tier.release(key, acquired.lease)
                return await self.flights.join(key, loader, options)
            handed_over = True
            return await self.flights.join(key, loader, options, read=read, acquired=acquired)
        except RedisUnavailable:
            return await self.flights.join(key, loader, options)
        finally:
            if not handed_over:
                self._local.in_flight.close(read)

    def held(self, key: str, tags: Collection[str] = ()) -> ReadResult | None:
        """Return the value of ``key`` in this process, if it has ``tags`` and may be served now."""
        freshness, now = self._freshness, self._clock()
        if now < freshness.trusted_until:
            entry = self._local.near.read(key)
        elif now < freshness.believed_until:
            return None  # Redis answers
        else:
            entry = self._local.offline.read(key)
        if entry is None or (tags and not entry.tags.issuperset(tags)):
            return None
        return ReadResult(entry.data, MEMORY)

    def may_be_older(self, key: str, most: float | None, tags: Collection[str] = ()) -> bool:
        """Return True if the caches may hold a value that is older than ``most`` seconds; None is no bound.

        No staleness covers a value if no rule owns its key or one of its tags.
        """
        return most is not None and (self._freshness.staleness > most or not self._rules.owns(key, tags))

    async def cached(self, key: str, options: ReadOptions = DEFAULT) -> ReadResult | None:
        """Return the cached value of ``key``, without a load and without a lease."""
        tags = options.tags
        if self.may_be_older(key, options.max_staleness, tags):
            return None
        held = self.held(key, tags)
        if held is not None or not self._freshness.believes_redis:
            return held
        if self.sealer is not None:
            await self.sealer.prepare(key)
        with contextlib.suppress(RedisUnavailable):
            if options.allows_stale and self._rules.serves_stale(key) and self._freshness.attached:
                return await self._read_or_stale(key, options)
            read = self._local.in_flight.open(key, frozenset(tags))
            try:
                if tags:
                    acquired = await self._tier.read_tagged(key, tags)
                elif options.ttl is not None or self._rules.of(key).asks_life:
                    found, life = await self._tier.read_with_life(key)
                    acquired = ValueOrLease(found, None, life)
                else:
                    acquired = ValueOrLease(await self._tier.read(key), None)
                if acquired.found is not None and codec.is_tagged(acquired.found):
                    acquired = await self._tier.read_tagged(key, tags)
                return self._usable(key, read, acquired, options)
            finally:
                self._local.in_flight.close(read)
        return None

    async def cached_or_lease(
        self, key: str, read: InFlightRead, *, allows_stale: bool, tags: tuple[str, ...] = ()
    ) -> tuple[ReadResult | None, bytes | None]:
        """Return the cached value of ``key``, or else a soft lease for the value that the caller will set.

        The caller has opened ``read``. Both are None if another process holds the lease, or if Redis cannot
        be used.
        """
        if not self._freshness.believes_redis:
            return None, None
        if self.sealer is not None:
            await self.sealer.prepare(key)
        try:
            if allows_stale and self._rules.serves_stale(key):
                found = await self._read_or_stale(key, DEFAULT)
                if found is not None:
                    return found, None
            acquired = await self._acquire(key, soft=True, tags=tags)
        except RedisUnavailable:
            return self.held(key, tags), None
        found = self._usable(key, read, acquired, DEFAULT)
        return found if found is not None else self.held(key, tags), acquired.lease

    # --- Redis ----------------------------------------------------------------------------------

    async def _acquire(
        self,
        key: str,
        *,
        soft: bool,
        limits: bool = False,
        life: bool = False,
        tags: tuple[str, ...] = (),
    ) -> ValueOrLease:
        """Ask Redis for the value or the lease of ``key``; raises `RedisUnavailable`."""
        seconds = SOFT_LEASE_SECONDS if soft else self._lease_ttl
        life = life or self._rules.of(key).asks_life
        if tags:
            return await self._tier.acquire_tagged(key, tags, soft=soft, seconds=seconds, life=life)
        asked = self._tier.acquire(key, soft=soft, seconds=seconds, life=life, limits=limits)
        try:
            acquired = await asked
        except asyncio.CancelledError:
            self._tier.abandon(key, asked)
            raise
        return await self._judged(key, acquired, soft=soft)

    async def _judged(self, key: str, acquired: ValueOrLease, *, soft: bool) -> ValueOrLease:
        """Return ``acquired``, or what Redis says of tagged content that a reader without tags found."""
        if acquired.found is None or not codec.is_tagged(acquired.found):
            return acquired
        seconds = SOFT_LEASE_SECONDS if soft else self._lease_ttl
        return await self._tier.acquire_tagged(key, (), soft=soft, seconds=seconds)

    async def _read_or_stale(self, key: str, options: ReadOptions) -> ReadResult | None:
        """Return the value in Redis, or else the stale value from before the last change, if there is one.

        A stale value is served only while attached, and is never stored in the near cache. No lease is
        acquired, because the worker refreshes the key. Raises `RedisUnavailable`.
        """
        freshness = self._freshness
        if not freshness.attached:
            return None
        read = self._local.in_flight.open(key)
        try:
            asks = options.ttl is not None or self._rules.of(key).asks_life
            data, stale, life = await self._tier.read_or_stale(key, life=asks)
            found = self._usable(key, read, ValueOrLease(data, None, life), options)
            if found is None and stale is not None and freshness.attached:
                note(key, "serve_stale", None)
                return self._unsealed(key, stale, STALE)
            return found
        finally:
            self._local.in_flight.close(read)

    def _usable(
        self, key: str, read: InFlightRead, acquired: ValueOrLease, options: ReadOptions
    ) -> ReadResult | None:
        """Return the content found in Redis if it is a usable value, and store it in the near cache."""
        data, freshness = acquired.found, self._freshness
        if data is None or not codec.is_value(data) or not freshness.believes_redis:
            return None
        if data[0] == SEALED_BYTE:
            result = self._unsealed(key, data, REDIS)
            if result is None or result.stored is None:
                return result
            data = result.data
        else:
            result = ReadResult(data, REDIS)
        known = self._rules.of(key)
        seconds = self._rules.seconds_near(key, known, data, acquired.life, options.ttl, options.negative_ttl)
        if seconds is not None and acquired.exact:
            self._local.keep(read, data, seconds, freshness.trusted_until, known.tally)
        return result

    def _unsealed(self, key: str, content: bytes, origin: Origin) -> ReadResult | None:
        """Return the value of what stands in Redis, as it stands there if it cannot be opened.

        None if its key cannot be asked for now: then it is left alone.
        """
        if self.sealer is None or content[0] != SEALED_BYTE:
            return ReadResult(content, origin)
        try:
            data = self.sealer.open(key, content)
        except KeyUnavailable:
            return None
        return ReadResult(content, origin) if data is None else ReadResult(data, origin, content)

    def _keep(self, read: InFlightRead, data: bytes, seconds: float) -> None:
        until, tally = self._freshness.trusted_until, self._rules.of(read.key).tally
        self._local.keep(read, data, seconds, until, tally)

    # --- a flight -------------------------------------------------------------------------------

    async def _fetch(self, flight: Flight) -> ReadResult:
        """Return the value for all callers of ``flight``; raises the loader's errors."""
        if not self._freshness.believes_redis:
            if flight.lease is not None:
                with contextlib.suppress(RedisUnavailable):
                    await self._tier.release(flight.key, flight.lease)
            return await self._load_offline(flight)
        try:
            found = await self._value_or_lease(flight)
        except RedisUnavailable:
            return await self._load_offline(flight)
        if isinstance(found, ReadResult):
            return found
        if found is None:  # another process still holds the lease: load from the primary, and do not store
            data = await self._load(flight, Load.of(flight.key, PRIMARY))
            return ReadResult(data, LOADER)
        return ReadResult(await self._load_and_fill(flight, found), LOADER)

    async def _value_or_lease(self, flight: Flight) -> ReadResult | ValueOrLease | None:
        """Wait for a value or our own lease; return None if the value must be loaded but not stored."""
        key, tags, limits = flight.key, flight.options.tags, load_parameter(flight.loader) is not None
        give_up: float | None = None
        pause = FIRST_LOOK
        while True:
            acquired, flight.acquired = flight.acquired, None
            if flight.forced:
                acquired = await self._tier.replace(key, seconds=self._lease_ttl, tags=tags)
            elif acquired is None:
                life = flight.options.ttl is not None
                acquired = await self._acquire(key, soft=False, limits=limits, life=life, tags=tags)
            elif not tags:
                acquired = await self._judged(key, acquired, soft=False)
            if acquired.found is not None and codec.is_soft_lease(acquired.found):
                acquired = await self._tier.take_over(key, seconds=self._lease_ttl)
            if acquired.lease is not None:
                flight.lease = acquired.lease
                return acquired
            if flight.forced or not self._freshness.believes_redis:
                return None
            found = self._usable(key, flight.read, acquired, flight.options)
            if found is not None:
                return found
            if acquired.found is None:
                self._rules.warn_of_full_redis()
            if acquired.found is None or not codec.is_lease(acquired.found):
                return None  # something of another type stands there, or Redis takes no new value
            # Another process' lease: its value will come soon, or never.
            now = self._clock()
            give_up = give_up or now + self._lease_ttl
            if now >= give_up:
                return None
            await _pause(flight.read, min(pause, give_up - now))
            pause = min(pause * 2, LAST_LOOK)
            flight.restart()  # what was read so far is not used

    async def _load(self, flight: Flight, load: Load) -> bytes:
        known, tags, began = self._rules.of(flight.key), flight.options.tags, self._clock()
        tally = known.tally
        tally.load_begins(early=flight.early)
        if not known.owned:
            if self._rules.owns(flight.key, tags):
                tally.tagged = True
            else:
                tally.unowned_loads += 1
        if self.on_load is not None:
            self.on_load(flight.key)
        try:
            value = await call(flight.loader, load)
        finally:
            tally.load_ended(self._clock() - began)
        data = codec.encode(flight.key, value, flight.options.model)
        if flight.forced:  # no read after this one returns an older value, also if this one cannot be kept
            self._local.near.drop(flight.key)
        return data

    def _asked(self, flight: Flight, data: bytes) -> float:
        """Return the TTL that the caller or the rules ask for."""
        options = flight.options
        return self._rules.ttl_of_load(
            flight.key,
            options.ttl,
            options.negative_ttl,
            negative=codec.is_nothing(data),
            tags=options.tags,
        )

    async def _load_and_fill(self, flight: Flight, acquired: ValueOrLease) -> bytes:
        key, lease = flight.key, acquired.lease
        assert lease is not None  # the caller has acquired it
        stored = False
        try:
            async with self._prolonged(key, lease):
                load = Load.of(key, acquired.limits, forced=flight.forced)
                data = await self._load(flight, load)
            if failpoints.on:
                await failpoints.reach("reader.before_fill")
            if self._rules.too_large(key, data):
                return data
            asked = self._asked(flight, data)
            seconds = self._rules.shortened(asked)
            data = self._rules.marked(key, data, asked)
            options = flight.options
            spare = self._rules.spare(key, options.stale_if_error, options.tags)
            stored = await self.fill(key, lease, data, seconds=seconds, spare=spare)
            if stored:
                if failpoints.on:
                    await failpoints.reach("reader.after_fill")
                self._keep(flight.read, data, seconds)
        finally:
            # A forced load may replace a value: if it is not stored, remove the value, which is older.
            if not stored and (codec.is_lease(lease) or flight.forced):
                with contextlib.suppress(RedisUnavailable):
                    await self._tier.release(key, lease)
        return data

    async def fill(self, key: str, lease: bytes, data: bytes, *, seconds: float, spare: float = 0.0) -> bool:
        """Store ``data`` under ``lease``, also as a spare value; return False if it was not stored."""
        known = self._rules.of(key)
        refreshed = known.stale is not None or not self._rules.loaded  # it may be
        try:
            if self.sealer is not None:
                data = await self.sealed(key, data)
            if await self._tier.fill(key, lease, data, seconds=seconds, refreshed=refreshed, spare=spare):
                if self._tier.shared:
                    known.tally.fills += 1
                    self.newest_fills.add(key, self._clock())
                return True
        except RedisUnavailable as error:
            if out_of_memory(error):
                self._rules.warn_of_full_redis()
        known.tally.fills_refused += 1
        return False

    async def sealed(self, key: str, data: bytes) -> bytes:
        """Return what is stored in Redis for ``data``; raises `RedisUnavailable` if there is no key."""
        if self.sealer is None:
            return data
        content = await self.sealer.sealed(key, data)
        if content is None:
            raise RedisUnavailable(f"there is no key to encrypt the value of {key!r} with")
        return content

    async def _load_offline(self, flight: Flight) -> ReadResult:
        """Load while neither tier can be used, and keep the value for at most ``detached_ttl`` seconds."""
        local = self._local
        if not flight.forced and (held := self.held(flight.key, flight.options.tags)) is not None:
            return held
        flight.restart()
        data = await self._load(flight, Load.of(flight.key, PRIMARY))
        seconds = self._rules.shortened(self._asked(flight, data))
        if self._rules.too_large(flight.key, data):
            pass
        elif not self._freshness.attached:
            local.keep_offline(flight.read, data, seconds=min(seconds, self._detached_ttl))
        elif not self._tier.shared:
            self._keep(flight.read, data, seconds)  # this process itself has heard of every change
        return ReadResult(data, LOADER)

    # --- early refresh --------------------------------------------------------------------------

    async def refresh(self, key: str, loader: Loader, options: ReadOptions, *, margin: float) -> None:
        """Load ``key`` again if its value has less than ``margin`` seconds to live; raises as `read` does.

        The old value stays readable during the load. The new value replaces it, unless the key was
        invalidated.
        """
        flight = Flight(self._local.in_flight, key, loader, options, early=True)
        try:
            acquired = await self._tier.replace(
                key, seconds=self._lease_ttl, margin=margin, tags=options.tags
            )
            if acquired.lease is not None:
                await self._load_and_fill(flight, acquired)
            elif acquired.life is not None and acquired.life >= margin:  # another process was faster
                self._usable(key, flight.read, acquired, options)
        finally:
            flight.close()

    @contextlib.asynccontextmanager
    async def _prolonged(self, key: str, lease: bytes) -> AsyncIterator[None]:
        """Extend the lease every third of its life; a load that is quicker costs one timer and no task."""
        if not codec.is_lease(lease):  # on a value, whose own life is not to be changed
            yield
            return
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] | None = None

        async def extend() -> None:
            while True:
                with contextlib.suppress(RedisUnavailable):
                    if not await self._tier.extend(key, lease, seconds=self._lease_ttl):
                        return
                await asyncio.sleep(self._lease_ttl / 3)

        def begin() -> None:
            nonlocal task
            task = loop.create_task(extend(), name="unstale-extend")

        timer = loop.call_later(self._lease_ttl / 3, begin)
        try:
            yield
        finally:
            timer.cancel()
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _pause(read: InFlightRead, seconds: float) -> None:
    """Wait for ``seconds``, or until the key of ``read`` is invalidated."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    timer = loop.call_later(seconds, finish)
    read.on_invalidated = finish
    try:
        if read.valid:
            await done
    finally:
        timer.cancel()
        read.on_invalidated = None
