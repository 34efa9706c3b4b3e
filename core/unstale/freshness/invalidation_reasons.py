"""Why keys were invalidated, for subscribers who ask: read from the log, which the messages do not repeat."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from unstale.errors import MessageError, RedisUnavailable
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.trust import Freshness
from unstale.protocol.messages import decode_log_entry
from unstale.protocol.names import TAG, Epoch, LogId
from unstale.protocol.reasons import OPERATION_NAMES, Cause, Reason, cause_of, decode_reason
from unstale.redis_tier.log_reader import LogReader

MOST_CAUSES: Final = 100
"""Changes that are named for a pattern: those of a batch all count for it."""


@dataclass(frozen=True, slots=True)
class InvalidationReason:
    """Why some keys were invalidated.

    Attributes:
        kind: ``changes`` (of the database), ``delete``, ``pattern`` or ``set`` (a process called the cache),
            ``replay`` (`unstale replay`), ``rules`` (they had changed) or ``captures`` (a table is not
            captured).
        applied_at: When it was written to the log, by the clock of Redis, in seconds since 1970.
        keys: The keys and tags of the event that this is about; empty if it is about its patterns.
        table: For changes: the table, such as ``public.profiles``; None if no rule watches it.
        operation: For changes: ``insert``, ``update``, ``delete`` or ``truncate``; ``change`` if unknown.
        transaction: For changes: the id of the transaction (``xid8``).
        annotation: For changes: what the transaction gave to ``unstale.because()``.
        process: For calls of the cache: host and process id.
    """

    kind: str
    applied_at: float
    keys: tuple[str, ...] = ()
    table: str | None = None
    operation: str | None = None
    transaction: int | None = None
    annotation: Mapping[str, object] | None = None
    process: str | None = None


class ReasonReader:
    """Finds the reasons of log entries.

    Example:
        >>> reader = ReasonReader(freshness, log, rules)
        >>> await reader.reasons(reader.next_entry(), ["user:42:profile"])
        (InvalidationReason(kind='changes', …, table='public.profiles', operation='update', …),)
    """

    def __init__(self, freshness: Freshness, log: LogReader | None, rules: KnownRules) -> None:
        self._freshness, self._log, self._rules = freshness, log, rules

    def next_entry(self) -> LogId:
        """Return the entry that is processed now, while its keys are dropped."""
        return LogId(self._freshness.last + 1)

    async def reasons(
        self, entry: LogId, keys: Iterable[str], patterns: Iterable[str] = ()
    ) -> tuple[InvalidationReason, ...]:
        """Return why this entry invalidated these keys (with the records of tags) and patterns.

        Empty if Redis does not answer, if the log has the entry no more, or if this process dropped them by
        itself before the log said so.
        """
        if self._log is None:
            return ()
        try:
            fields = await self._log.entry(entry)
            if fields is None:
                return ()
            written = decode_log_entry(Epoch(""), entry, fields.get(b"m", b""))
        except (RedisUnavailable, MessageError):
            return ()
        reason = decode_reason(fields.get(b"w", b""))
        keys = tuple(key for key in keys if key in written.keys)
        patterns = tuple(pattern for pattern in patterns if pattern in written.patterns)
        if reason is None or not (keys or patterns):
            return ()
        if not reason.causes:
            return (_simple(reason, keys),)
        found: dict[int, tuple[Cause, list[str]]] = {}
        for key in keys:
            cause = cause_of(reason, written.keys, key)
            if cause is not None:
                found.setdefault(id(cause), (cause, []))[1].append(key)
        if patterns:
            for cause in reason.causes[:MOST_CAUSES]:
                found.setdefault(id(cause), (cause, []))
        return tuple(self._change(reason, cause, tuple(mine)) for cause, mine in found.values())

    def _change(self, reason: Reason, cause: Cause, keys: tuple[str, ...]) -> InvalidationReason:
        return InvalidationReason(
            reason.kind.name.lower(),
            reason.applied_ms / 1000,
            _named(keys),
            self._rules.published.table_names.get(cause.table),
            OPERATION_NAMES.get(cause.operation, "change"),
            cause.xid,
            cause.annotation,
        )

    def __repr__(self) -> str:
        return f"<ReasonReader of {self._log!r}>"


def _simple(reason: Reason, keys: tuple[str, ...]) -> InvalidationReason:
    kind, process = reason.kind.name.lower(), reason.process or None
    return InvalidationReason(kind, reason.applied_ms / 1000, _named(keys), process=process)


def _named(keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(key.removeprefix(TAG) for key in keys)
