"""Remembers which log entry invalidated a key, for the first read after it; used only with `UNSTALE_OTEL`."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from unstale.errors import MessageError, RedisUnavailable
from unstale.freshness.trust import Freshness
from unstale.near_cache.local_state import Listener
from unstale.protocol.messages import decode_log_entry
from unstale.protocol.names import Epoch, LogId
from unstale.protocol.reasons import cause_of, decode_reason
from unstale.redis_tier.log_reader import LogReader

MOST: Final = 10_000
"""Keys that are remembered, those that were invalidated last."""


class Causes:
    """A listener of `LocalState`, in front of another.

    Example:
        >>> causes = Causes(subscriptions)
        >>> entry = causes.take("user:42:profile")
        >>> await causes.annotation(entry, "user:42:profile")
        {'traceparent': '00-…'}
    """

    def __init__(self, behind: Listener) -> None:
        self._behind = behind
        self._entries: OrderedDict[str, LogId] = OrderedDict()
        self._freshness: Freshness | None = None
        self._log: LogReader | None = None

    def follow(self, freshness: Freshness, log: LogReader | None) -> None:
        """Tell where this process is in the log, and how to read it."""
        self._freshness, self._log = freshness, log

    def dropped(self, keys: tuple[str, ...], patterns: tuple[str, ...]) -> None:
        """Note the entry that comes next in the log. If it is another one, `annotation` finds nothing."""
        if self._freshness is not None:
            entry = LogId(self._freshness.last + 1)
            for key in keys[-MOST:]:
                self._entries[key] = entry
                self._entries.move_to_end(key)
            while len(self._entries) > MOST:
                self._entries.popitem(last=False)
        self._behind.dropped(keys, patterns)

    def reset(self) -> None:
        """Forget everything: no entry of the log did this."""
        self._entries.clear()
        self._behind.reset()

    def take(self, key: str) -> LogId | None:
        """Return the entry that invalidated ``key`` if this is the first call since, else None."""
        return self._entries.pop(key, None)

    async def annotation(self, entry: LogId, key: str) -> Mapping[str, object] | None:
        """Return what the transaction that changed ``key`` was annotated with, by ``unstale.because()``."""
        if self._log is None:
            return None
        try:
            fields = await self._log.entry(entry)
            if fields is None:
                return None
            reason = decode_reason(fields.get(b"w", b""))
            keys = decode_log_entry(Epoch(""), entry, fields.get(b"m", b"")).keys
            cause = None if reason is None else cause_of(reason, keys, key)
        except (RedisUnavailable, MessageError):
            return None
        return None if cause is None else cause.annotation
