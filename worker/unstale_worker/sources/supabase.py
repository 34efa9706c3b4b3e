"""Reads the outbox over HTTPS: one function call a page, woken by Supabase Realtime."""

import time
from collections.abc import Mapping
from typing import Any, Final

from unstale.errors import DatabaseUnavailable
from unstale.runtime import failpoints
from unstale_worker.fanout.failure import FanoutFailure
from unstale_worker.rules import Plan, Rules
from unstale_worker.runtime.logs import get_logger
from unstale_worker.sources import Cursor, Entry, Page, WatchVersion
from unstale_worker.sources.rpc import TIMED_OUT, Project, Refused, Rpc
from unstale_worker.sources.rpc_queries import check_queries, run_queries
from unstale_worker.sources.supabase_wakeups import SupabaseWakeUps

log = get_logger("unstale.source")

MAX_ELEMENTS: Final = 50_000
"""Most key parts in one page: about 1 MB of JSON, and 8 MB as Python strings."""
LEAST_ENTRIES: Final = 50
"""A page that does not fit the API's 8 s is asked for in smaller pieces, down to these."""
GROW_AFTER: Final = 20
"""Good answers after which pages grow again."""
ENTRIES: Final = frozenset({(int, int, list), (int, int, type(None))})
"""What the parts of an entry are."""


class SupabaseSource:
    """The outbox of one project, by nothing but its URL and a secret key.

    The position is as exact as over a connection: the same function reads, in one snapshot. What is different
    is that nothing lasts longer than one call, so a leader that was replaced leaves no session behind: a read
    or a query that it still has under way changes nothing, and a step of the purge is right whoever asks.

    Example:
        >>> source = SupabaseSource(Project("https://ref.supabase.co", Key("sb_secret_...")))
        >>> page = await source.read(None)
    """

    kind = "supabase"
    least_pause = 0.05
    """A request costs both sides some milliseconds, and the platform counts what it sends."""

    def __init__(self, project: Project, *, read_entries: int = 5_000) -> None:
        self._project, self._read_entries = project, read_entries
        self._rpc = Rpc(project)
        self._versions: dict[tuple[int, int], WatchVersion] = {}
        self._wakeups: SupabaseWakeUps | None = None
        self._entries, self._good = read_entries, 0
        self.reads = 0

    def __repr__(self) -> str:
        return f"<SupabaseSource {self._project.url} reads={self.reads}>"

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        """See `Source.read`; also says that captures shall write wake-ups, while somebody hears them."""
        began = time.monotonic()
        if failpoints.on:
            await failpoints.reach("source.before_read")
        while True:
            try:
                answer = await self._rpc.call(
                    "unstale_read",
                    after=after,
                    upto=cursor.snapshot if cursor else None,
                    after_xid=str(cursor.xid) if cursor else None,
                    after_id=cursor.id if cursor else None,
                    max_entries=self._entries,
                    max_elements=max(1, MAX_ELEMENTS * self._entries // self._read_entries),
                    wakeups=self._wakeups is not None and self._wakeups.listening,
                )
                break
            except Refused as refused:
                if refused.code != TIMED_OUT or self._entries <= LEAST_ENTRIES:
                    raise
                self._entries, self._good = max(LEAST_ENTRIES, self._entries // 4), 0
                log.warning("a page took longer than the API allows; asking for less", entries=self._entries)
        if failpoints.on:
            await failpoints.reach("source.after_read")
        page = page_of(answer, began=began)
        self.reads += 1
        self._good += 1
        if self._good >= GROW_AFTER and self._entries < self._read_entries:
            self._entries, self._good = min(self._read_entries, self._entries * 2), 0
        return page

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`; remembered, since a version never changes."""
        if (watch, version) not in self._versions:
            await self.watch_versions()
        return self._versions.get((watch, version))

    async def watch_versions(self) -> Mapping[tuple[int, int], WatchVersion]:
        """Every version of every watch."""
        answer = await self._rpc.call("unstale_watches")
        try:
            self._versions = {
                (int(watch), int(version)): WatchVersion(
                    schema, table, tuple(keys), bool(current), None if columns is None else tuple(columns)
                )
                for watch, version, schema, table, keys, current, columns in answer
            }
        except (TypeError, ValueError) as error:
            raise unreadable("unstale_watches") from error
        return self._versions

    async def run_queries(self, rules: Rules, plan: Plan) -> list[FanoutFailure]:
        """See `Source.run_queries`; each query is a function that `unstale migration` wrote."""
        return await run_queries(self._rpc, rules, plan)

    async def check_queries(self, rules: Rules) -> list[FanoutFailure]:
        """See `Source.check_queries`; raises `MigrationMissing` where the function of a query is missing."""
        return await check_queries(self._rpc, rules)

    async def purge(self, *, rows: int, retention: float | None, outbox_max_rows: int | None) -> int:
        """See `Source.purge`."""
        answer = await self._rpc.call(
            "unstale_purge", max_rows=rows, retention=retention, max_outbox_rows=outbox_max_rows
        )
        if not isinstance(answer, int):
            raise unreadable("unstale_purge")
        return answer

    async def begin_term(self, consumer: str, fence: int) -> int:
        """Nothing to end: no call outlives its answer, and the API's statements end after 8 seconds."""
        return 0

    async def end_term(self) -> None:
        """Nothing to give back."""

    def wakeups(self) -> SupabaseWakeUps:
        """Supabase Realtime, while this worker leads."""
        self._wakeups = SupabaseWakeUps(self._project)
        return self._wakeups

    def beside(self) -> "SupabaseSource":
        """Another one, with connections of its own."""
        return SupabaseSource(self._project, read_entries=self._read_entries)

    async def check(self) -> Mapping[str, Any]:
        """What ``unstale doctor`` asks: see ``public.unstale_check``."""
        answer = await self._rpc.call("unstale_check")
        if not isinstance(answer, dict):
            raise unreadable("unstale_check")
        return answer

    async def close(self) -> None:
        """See `Source.close`."""
        await self._rpc.close()


def page_of(answer: Any, *, began: float) -> Page:
    """The page in an answer of ``unstale_read``; raises `DatabaseUnavailable` when it is none."""
    try:
        snapshot, xid, number = _text(answer["snapshot"]), answer["last_xid"], answer["last_id"]
        entries = list(map(Entry._make, answer["entries"]))
        if not {(type(entry.watch), type(entry.version), type(entry.keys)) for entry in entries} <= ENTRIES:
            raise TypeError("entries")
        return Page(
            database=_text(answer["database"]),
            snapshot=snapshot,
            position=_text(answer["position"]),
            more=answer["more"] is True,
            cursor=None if xid is None else Cursor(snapshot, int(xid), int(number)),
            lsn=_text(answer["lsn"]),
            flushed=_text(answer["flushed"]),
            covered=answer["covered"] is True,
            current_xmax=int(answer["current_xmax"]),
            entries=entries,
            began=began,
        )
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise unreadable("unstale_read") from error


def unreadable(function: str) -> DatabaseUnavailable:
    """What came instead of an answer is not shown: it may be anybody's."""
    return DatabaseUnavailable(
        f"the answer to {function} cannot be read: something between here and the project sent it, or the "
        "function is of another version; check SUPABASE_URL, and push unstale's migrations"
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value
