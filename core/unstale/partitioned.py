"""A cache over several partitions of a Redis Cluster: one cache for each, and calls that concern several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

from unstale.freshness.subscriptions import Subscription
from unstale.protocol.durations import Duration
from unstale.protocol.partitions import partition_of
from unstale.reading.batch_loader import ManyLoader, load_many
from unstale.reading.loader import Loader
from unstale.reading.options import checked_options, distinct_keys
from unstale.settings import AgentSettings
from unstale.stats import Counters, pictures


class OverPartitions:
    """The part of `Cache` that is another one with several partitions; `Cache` makes such objects by itself.

    Each partition has a complete cache of its own: near cache, subscription, trust, rules. A call that names
    a key is one of the cache that has the key.
    """

    single: ClassVar[Callable[[AgentSettings], Any]]
    _loop = None  # of no use here: each partition's cache checks that it is open

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        several = settings.in_partitions
        bounds = ("near_max_entries", "near_max_bytes")
        share = {name: -(-getattr(settings, name) // len(several)) for name in bounds}
        self._caches = tuple(type(self).single(each.model_copy(update=share)) for each in several)
        self._of_number = [each.get_or_load for each in self._caches]

    @property
    def partitions(self) -> tuple[Any, ...]:
        """The cache of each partition."""
        return self._caches

    def in_partition(self, key: str) -> Any:
        """Return the cache that has ``key``."""
        # A key that is no text is refused by any of them.
        return self._caches[partition_of(key, len(self._caches)) if isinstance(key, str) else 0]

    # --- life -----------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Begin to follow all partitions. See `Cache.start`."""
        try:
            await _all(each.start() for each in self._caches)
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Close the caches of all partitions. See `Cache.close`."""
        await _all(each.close() for each in self._caches)

    # --- one key --------------------------------------------------------------------------------

    def get_or_load(self, key: str, loader: Loader, **options: Any) -> Awaitable[Any]:
        """Return the value of ``key``. See `Cache.get_or_load`."""
        number = partition_of(key, len(self._caches)) if isinstance(key, str) else 0
        return self._of_number[number](key, loader, **options)  # type: ignore[no-any-return]

    async def get(self, key: str, **options: Any) -> Any:
        """Return the cached value. See `Cache.get`."""
        return await self.in_partition(key).get(key, **options)

    async def set(
        self, key: str, value: object, ttl: Duration | None = None, *, tags: Collection[str] | None = None
    ) -> bool:
        """Store a value. See `Cache.set`."""
        stored: bool = await self.in_partition(key).set(key, value, ttl, tags=tags)
        return stored

    async def audit(self, key: str, loader: Loader) -> bool | None:
        """Compare the cached value of ``key`` with its loader. See `Cache.audit`."""
        found: bool | None = await self.in_partition(key).audit(key, loader)
        return found

    def lock(self, name: str, **options: Any) -> Any:
        """Return a lock between all instances. See `Cache.lock`."""
        return self.in_partition(name).lock(name, **options)

    # --- several keys ---------------------------------------------------------------------------

    async def get_many(
        self,
        keys: Iterable[str],
        loader: ManyLoader | None = None,
        *,
        tags: Collection[str] | Callable[[str], Collection[str]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the values of many keys, by one trip to each partition and few calls of ``loader``.

        See `Cache.get_many`.
        """
        wanted = distinct_keys(keys)
        self._check(wanted)
        checked_options(**{"ttl": None, "negative_ttl": None, **options})
        if loader is None:
            groups = self._grouped(wanted).items()
            found = await _all(each.get_many(mine, tags=tags, **options) for each, mine in groups)
            merged = {key: value for part in found for key, value in part.items()}
            return {key: merged[key] for key in wanted if key in merged}
        tags_of = tags if callable(tags) else lambda _: tags
        return await load_many(
            wanted, loader, lambda key, load: self.get_or_load(key, load, tags=tags_of(key), **options)
        )

    async def delete(self, key: str, *keys: str, lsn: str | None = None) -> None:
        """Invalidate keys in Redis and in every instance. See `Cache.delete`.

        All partitions are tried, also after one did not confirm.
        """
        every = (key, *keys)
        self._check(every)
        await _all(each.delete(*mine, lsn=lsn) for each, mine in self._grouped(every).items())

    async def invalidate_tags(self, tags: Iterable[str], *, lsn: str | None = None) -> None:
        """Invalidate several tags, whose values may be in any partition. See `Cache.invalidate_tags`."""
        names = tags if isinstance(tags, str) else list(tags)
        await _all(each.invalidate_tags(names, lsn=lsn) for each in self._caches)

    async def invalidate_pattern(self, pattern: str) -> int:
        """Invalidate every key that the Redis glob matches. See `Cache.invalidate_pattern`."""
        return sum(await _all(each.invalidate_pattern(pattern) for each in self._caches))

    def _grouped(self, keys: Iterable[str]) -> Mapping[Any, list[str]]:
        groups: dict[Any, list[str]] = {}
        for key in keys:
            groups.setdefault(self.in_partition(key), []).append(key)
        return groups

    def _check(self, keys: Iterable[str]) -> None:
        """Refuse a key that cannot be cached before anything is done for the others."""
        for key in keys:
            self.in_partition(key)._check(key, None, False)

    # --- freshness ------------------------------------------------------------------------------

    @property
    def staleness(self) -> float:
        """The largest of all partitions."""
        return max(float(each.staleness) for each in self._caches)

    @property
    def attached(self) -> bool:
        """True if every partition is followed; a read asks its own only."""
        return all(each.attached for each in self._caches)

    async def wait_for(self, token: str, *, timeout: Duration = 5.0) -> None:
        """Wait until all partitions have applied the transaction. See `Cache.wait_for`."""
        await _all(each.wait_for(token, timeout=timeout) for each in self._caches)

    @contextlib.asynccontextmanager
    async def subscribe(self, pattern: str = "*", *, reasons: bool = False) -> AsyncIterator[Subscription]:
        """Iterate over the events of all partitions. See `Cache.subscribe`.

        A pattern, or a tag, that is invalidated makes an event in each partition.
        """
        first, *others = self._caches
        async with first.subscribe(pattern, reasons=reasons) as subscription:
            every = [each.inspect().subscriptions for each in others]
            try:
                for each in every:
                    each.add(subscription)
                yield subscription
            finally:
                for each in every:
                    each.remove(subscription)

    # --- operating ------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """Return the sums over all partitions; no I/O."""
        several = [each.counters() for each in self._caches]
        names = [field.name for field in fields(Counters)]
        return Counters(**{name: sum(getattr(each, name) for each in several) for name in names})

    async def get_stats(self) -> dict[str, object]:
        """Return counters and state of all partitions together, and of each under ``partitions``."""
        total = self.counters()
        return await pictures([each.inspect() for each in self._caches], total)

    def inspect(self) -> Any:
        """Raise TypeError: each of `partitions` has parts of its own."""
        raise TypeError("this cache has several partitions: inspect each cache in its `partitions`")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._caches)} partitions, first {self._caches[0]!r}>"


async def _all(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """Return all results; when all have ended, raise the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
