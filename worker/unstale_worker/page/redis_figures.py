"""Figures of Redis for the page: the protocol's state, the newest invalidations, and the refresh queue."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import MessageError
from unstale.protocol.key_watches import file_hash
from unstale.protocol.messages import decode_log_entry
from unstale.protocol.names import Epoch, Names
from unstale.protocol.reasons import decode_reason
from unstale_worker.observe.audit_result import read_published
from unstale_worker.observe.overview import read_stats
from unstale_worker.redis.applier import unavailable
from unstale_worker.refresh.redis.budgets import read_used
from unstale_worker.refresh.redis.totals import totals_of
from unstale_worker.rules import Rules
from unstale_worker.tracing.table_names import TableNames

NEWEST: Final = 20
"""Log entries shown; between two looks there may have been thousands more."""
SHOWN: Final = 6
"""Keys of an entry that are shown."""
TEXT_MOST: Final = 200
"""Characters of a key that are shown."""


class RedisFigures:
    """Reads a bounded amount, whatever the log and the queue hold; raises `RedisUnavailable`."""

    def __init__(self, redis: Redis, names: Names, rules: Rules) -> None:
        self._redis, self._names, self._tables = redis, names, TableNames(rules)
        self._rules = rules
        self._newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)
        self._seen = ("", 0)

    async def read(self) -> dict[str, Any]:
        """Return JSON-ready figures."""
        stats = await read_stats(self._redis, self._names)
        if stats.epoch != self._seen[0] or stats.last < self._seen[1]:  # another log, perhaps a shorter one
            self._newest.clear()
            self._seen = (stats.epoch, 0)
        return {
            **stats.as_dict(),
            "same_rules": file_hash(stats.rules) == self._rules.hash,
            "refresh": await self._refresh(),
            "newest": await self._read_newest(),
            "audit": await read_published(self._redis, self._names),
        }

    async def _refresh(self) -> dict[str, Any]:
        names = self._names
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard(names.refresh)
                pipe.hlen(names.dead_letters)
                pipe.hgetall(names.refresh_counts)
                pipe.zcard(names.refresh_workers)
                pipe.zrange(names.refresh, 0, SHOWN - 1, withscores=True)
                pipe.time()
                waiting, dead, totals, workers, next_due, (seconds, micro) = await pipe.execute()
        except RedisError as error:
            raise unavailable(error) from error
        now = seconds + micro / 1e6
        used = await read_used(self._redis, names, self._rules.refreshes)
        return {
            "waiting": waiting,
            "dead": dead,
            "workers": workers,
            "totals": {name.decode(): int(count) for name, count in totals.items() if b":" not in name},
            "refreshes": [each.as_dict() for each in totals_of(totals)],
            "budgets": [each.as_dict() for each in used],
            "next": [
                {"key": names.key_of(_text(key)), "due_in": round(due / 1000 - now, 1)}
                for key, due in next_due
            ],
        }

    async def _read_newest(self) -> list[dict[str, Any]]:
        epoch, after = self._seen
        try:
            found: Any = await self._redis.xrevrange(self._names.log, min=f"({after}-0", count=NEWEST)
        except RedisError as error:
            raise unavailable(error) from error
        for entry_id, fields in reversed(found):
            number = int(entry_id.partition(b"-")[0])
            self._seen = (epoch, number)
            self._newest.appendleft(self._entry(number, fields))
        return list(self._newest)

    def _entry(self, number: int, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
        reason = decode_reason(fields.get(b"w", b""))
        try:
            message = decode_log_entry(Epoch(""), number, fields.get(b"m", b""))
            keys, patterns = message.keys, message.patterns
        except MessageError:
            keys, patterns = (), ()
        noted = [] if reason is None else [each.annotation for each in reason.causes if each.annotation]
        xids = set() if reason is None else {cause.xid for cause in reason.causes}
        return {
            "id": number,
            "at": reason.applied_ms if reason else round(time.time() * 1000),
            "kind": reason.kind.name.lower() if reason else "unknown",
            "process": reason.process if reason else "",
            "took": reason.applied_ms - reason.read_ms if reason and reason.read_ms else None,
            "changes": [asdict(changes) for changes in self._tables.changes(reason)][:SHOWN],
            "transactions": len(xids),
            "xid": max(xids, default=0),
            "because": noted[-1] if noted else None,
            "keys": [key[:TEXT_MOST] for key in keys[:SHOWN]],
            "key_count": len(keys),
            "patterns": [pattern[:TEXT_MOST] for pattern in patterns[:SHOWN]],
            "pattern_count": len(patterns),
        }


def _text(key: bytes) -> str:
    return key.decode("utf-8", "replace")[:TEXT_MOST]
