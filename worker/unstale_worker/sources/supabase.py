"""Read the outbox over HTTPS: one function call per page, with wake-ups from Supabase Realtime."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from unstale.errors import DatabaseUnavailable
from unstale_worker.fanout.failure import ColumnTypes, FanoutFailure
from unstale_worker.rules import Plan, Rules
from unstale_worker.runtime.logs import get_logger
from unstale_worker.sources import Cursor, Earlier, OutboxEntry, Page, WatchState, WatchVersion
from unstale_worker.sources.rpc import TIMED_OUT, Project, Refused, Rpc
from unstale_worker.sources.rpc_queries import check_queries, run_queries
from unstale_worker.sources.supabase_wakeups import SupabaseWakeUps

log = get_logger("unstale.source")

MAX_ELEMENTS: Final = 50_000
"""Maximum key parts in one page: about 1 MB of JSON, and 8 MB as Python strings."""
LEAST_ENTRIES: Final = 50
"""Minimum entries per page. A page that exceeds the API's limit of 8 s is split down to this size."""
GROW_AFTER: Final = 20
"""Successful answers after which the page size grows again."""
ENTRIES: Final = frozenset({(int, int, list), (int, int, type(None))})
"""Allowed types of the three parts of an entry."""


class SupabaseSource:
    """The outbox of one project, read with its URL and a secret key only.

    The position is as exact as over a Postgres connection, because the same function reads in one snapshot.
    The difference is that nothing outlives one call, so a replaced leader leaves no session behind. A read or
    query that it still has in flight changes nothing, and a step of the purge is valid from any worker.

    Example:
        >>> source = SupabaseSource(Project("https://ref.supabase.co", Key("sb_secret_...")))
        >>> page = await source.read(None)
    """

    kind = "supabase"
    least_pause = 0.05
    """A request costs both sides some milliseconds, and the platform meters the data it sends."""

    def __init__(self, project: Project, *, read_entries: int = 5_000) -> None:
        self._project, self._read_entries = project, read_entries
        self._rpc = Rpc(project)
        self._versions: dict[tuple[int, int], WatchVersion] = {}
        self._database = ""
        self._wakeups: SupabaseWakeUps | None = None
        self._entries, self._good = read_entries, 0
        self.reads = 0

    def __repr__(self) -> str:
        return f"<SupabaseSource {self._project.url} reads={self.reads}>"

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        """See `Source.read`; also tells captures to write wake-ups while Realtime delivers them."""
        began = time.monotonic()
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
                log.warning(
                    "a page exceeded the API's time limit; reading smaller pages", entries=self._entries
                )
        page = page_of(answer, began=began)
        if page.database != self._database:  # a restored database may give known numbers to other watches
            self._database, self._versions = page.database, {}
        self.reads += 1
        self._good += 1
        if self._good >= GROW_AFTER and self._entries < self._read_entries:
            self._entries, self._good = min(self._read_entries, self._entries * 2), 0
        return page

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`; cached, since a version never changes within one history."""
        if (watch, version) not in self._versions:
            await self.watch_versions()
        return self._versions.get((watch, version))

    async def watch_versions(self) -> Mapping[tuple[int, int], WatchVersion]:
        """See `Source.watch_versions`."""
        answer = await self._rpc.call("unstale_watches")
        try:
            self._versions = {
                (int(watch), int(version)): WatchVersion(
                    schema,
                    table,
                    tuple(keys),
                    bool(current),
                    None if columns is None else tuple(columns),
                    tuple(*types),
                )
                for watch, version, schema, table, keys, current, columns, *types in answer
            }
        except (TypeError, ValueError) as error:
            raise unreadable("unstale_watches") from error
        return self._versions

    async def watch_states(self, described: Sequence[int] = ()) -> list[WatchState]:
        """See `Source.watch_states`."""
        answer = await self._rpc.call("unstale_watch_states", described=list(described))
        try:
            return [WatchState.of(row) for row in answer]
        except (TypeError, ValueError) as error:
            raise unreadable("unstale_watch_states") from error

    async def position_before(self, seconds: float) -> Earlier:
        """See `Source.position_before`."""
        answer = await self._rpc.call("unstale_position_before", ago=seconds)
        try:
            return Earlier(answer["position"], answer["age"], answer["reach"])
        except (TypeError, KeyError) as error:
            raise unreadable("unstale_position_before") from error

    async def run_queries(self, rules: Rules, plan: Plan) -> list[FanoutFailure]:
        """See `Source.run_queries`; each query is a function that `unstale migration` wrote."""
        return await run_queries(self._rpc, rules, plan)

    async def check_queries(self, rules: Rules, types: ColumnTypes | None = None) -> list[FanoutFailure]:
        """See `Source.check_queries`; raises `MigrationMissing` if the function of a query is missing."""
        return await check_queries(self._rpc, rules, types)

    async def purge(self, *, rows: int, retention: float | None, outbox_max_rows: int | None) -> int:
        """See `Source.purge`."""
        answer = await self._rpc.call(
            "unstale_purge", max_rows=rows, retention=retention, max_outbox_rows=outbox_max_rows
        )
        if not isinstance(answer, int):
            raise unreadable("unstale_purge")
        return answer

    async def begin_term(self, consumer: str, fence: int) -> int:
        """Do nothing: no call outlives its answer, and statements of the API end after 8 seconds."""
        return 0

    async def end_term(self) -> None:
        """Do nothing: there is no session to rename."""

    def wakeups(self) -> SupabaseWakeUps:
        """Return wake-ups from Supabase Realtime."""
        self._wakeups = SupabaseWakeUps(self._project)
        return self._wakeups

    def sibling(self) -> "SupabaseSource":
        """Return a source with separate connections."""
        return SupabaseSource(self._project, read_entries=self._read_entries)

    async def check(self) -> Mapping[str, Any]:
        """Return the findings for ``unstale doctor``; see ``public.unstale_check``."""
        answer = await self._rpc.call("unstale_check")
        if not isinstance(answer, dict):
            raise unreadable("unstale_check")
        return answer

    async def close(self) -> None:
        """See `Source.close`."""
        await self._rpc.close()


def page_of(answer: Any, *, began: float) -> Page:
    """Parse an answer of ``unstale_read``; raises `DatabaseUnavailable` if it is not a page."""
    try:
        snapshot, xid, number = _text(answer["snapshot"]), answer["last_xid"], answer["last_id"]
        entries = list(map(OutboxEntry._make, answer["entries"]))
        if not {(type(entry.watch), type(entry.version), type(entry.keys)) for entry in entries} <= ENTRIES:
            raise TypeError("entries")
        xids, operations = list(answer["xids"]), _text(answer["operations"])
        if not len(xids) == len(operations) == len(entries) or not {*map(type, xids)} <= {int}:
            raise TypeError("xids")
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
            xids=xids,
            operations=operations,
        )
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise unreadable("unstale_read") from error


def unreadable(function: str) -> DatabaseUnavailable:
    """Build the error for an unreadable answer.

    The answer itself is not shown, because it may come from anywhere and contain anything.
    """
    return DatabaseUnavailable(
        f"the answer of {function} cannot be read: it came from something in front of the project, or the "
        "function has another version; check SUPABASE_URL, and push unstale's migrations"
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value
