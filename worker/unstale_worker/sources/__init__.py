"""Sources of changes: the protocol that every source implements, and the data it delivers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from unstale.protocol.messages import Snapshot
from unstale_worker.fanout.failure import ColumnTypes, FanoutFailure
from unstale_worker.rules import Plan, Rules
from unstale_worker.sources.wakeups import WakeUps


class OutboxEntry(NamedTuple):
    """One outbox entry; a tuple, because a page holds thousands.

    Attributes:
        watch: Number of the watch whose capture wrote the entry.
        version: Version of that watch; it determines the columns of the key tuples.
        keys: Key tuples of the changed rows, concatenated, with None for null. None instead of a sequence
            stands for the whole table.
    """

    watch: int
    version: int
    keys: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class WatchVersion:
    """One version of a watch: the meaning of its entries.

    Attributes:
        schema: Schema of the table at the time it was watched.
        table: Name of the table at that time.
        key_columns: The columns of a key tuple, in order.
        current: True if captures write this version now.
        columns: Column filter of the current version: only changes of these columns (or of a key column)
            are written. None: all changes.
        key_types: The built-in types of the key columns, in order; '' for any other type.
    """

    schema: str
    table: str
    key_columns: tuple[str, ...]
    current: bool = True
    columns: tuple[str, ...] | None = None
    key_types: tuple[str, ...] = ()


class WatchState(NamedTuple):
    """The state of one watch and of its captures now.

    Attributes:
        watch: Number of the watch.
        current: True if the table is watched now, False if it was.
        schema: Schema of the table, as the rules name it.
        table: Name of the table.
        key_columns: The columns that captures write.
        columns: The column filter; see `WatchVersion.columns`.
        broken: Why changes may go unreported, with the remedy; None if no reason is known.
        coarse: Why changes invalidate more keys than they concern, with the remedy; None if they do not.
    """

    watch: int
    current: bool
    schema: str
    table: str
    key_columns: tuple[str, ...]
    columns: tuple[str, ...] | None
    broken: str | None
    coarse: str | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> "WatchState":
        """Build it from a row of ``unstale.watch_states``."""
        watch, current, schema, table, keys, columns, broken, coarse = row
        filtered = None if columns is None else tuple(columns)
        return cls(int(watch), bool(current), schema, table, tuple(keys), filtered, broken, coarse)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Start of the next page of a batch that is larger than one page.

    Attributes:
        snapshot: The fixed snapshot of the batch.
        xid: Transaction id of the last delivered entry.
        id: Id of the last delivered entry.
    """

    snapshot: str
    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class Page:
    """One read of the outbox.

    Attributes:
        database: Database identity, as ``unstale.database()`` returns it; another one is another history.
        snapshot: Snapshot of the read, not cut at the last entry; the same for all pages of a batch.
        position: The position after this page (and the pages before it) is applied.
        more: True if the batch continues at `cursor`.
        cursor: The last delivered entry; None if there was none.
        lsn: WAL insert position, taken after the entries.
        flushed: WAL position that is known to be on disk.
        covered: False if the outbox was purged beyond the requested position.
        current_xmax: The first transaction id that is not assigned yet.
        entries: Entries in order of transaction and id.
        began: The worker's monotonic clock at the start of the read, in seconds.
        xids: The transaction of each entry.
        operations: One character for each entry: ``i``, ``u``, ``d`` or ``t`` for insert, update, delete or
            truncate; ``-`` for DDL, and if a capture of an earlier version wrote the entry.
    """

    database: str
    snapshot: str
    position: str
    more: bool
    cursor: Cursor | None
    lsn: str
    flushed: str
    covered: bool
    current_xmax: int
    entries: Sequence[OutboxEntry]
    began: float
    xids: Sequence[int] = ()
    operations: str = ""

    @property
    def seen(self) -> Snapshot:
        """`snapshot`, parsed."""
        return Snapshot.parse(self.snapshot)


class Earlier(NamedTuple):
    """A position to read again from, to see everything that was committed lately.

    Attributes:
        position: A position that lacks all of it, and more; None if the outbox does not tell.
        age: Seconds since that position; None: it is the beginning of the outbox.
        reach: Seconds as far back as one can ask; None: to the beginning of the outbox.
    """

    position: str | None
    age: float | None
    reach: float | None


class Source(Protocol):
    """One database: reads its changes and does the leader's work in it.

    Methods raise `DatabaseUnavailable` for transient errors and `MigrationMissing` if migrations must be
    pushed. Every call may be repeated: after a lost answer, calling again is safe.

    Attributes:
        kind: ``outbox`` or ``supabase``; the name in status, log and ``doctor``.
        least_pause: Minimum seconds between two reads without a hint; more frequent reads cost more than
            they bring.
    """

    kind: str
    least_pause: float

    async def read(self, after: str | None, cursor: Cursor | None = None) -> Page:
        """Read the changes after the position ``after`` (None: no position), or the next page of a batch."""
        ...

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """Return that version of a watch; None if the database does not have it any more."""
        ...

    async def watch_versions(self) -> Mapping[tuple[int, int], WatchVersion]:
        """Return every version of every watch."""
        ...

    async def watch_states(self, described: Sequence[int] = ()) -> list[WatchState]:
        """Return the state of every watch now.

        The captures of the watches in ``described`` are also compared with what their table needs, which
        takes 5 to 15 ms each; the rest takes some milliseconds for all.
        """
        ...

    async def position_before(self, seconds: float) -> Earlier:
        """Return a position that lacks everything that was committed in the last ``seconds``."""
        ...

    async def run_queries(self, rules: Rules, plan: Plan) -> list[FanoutFailure]:
        """Run the pending queries of ``plan`` and add their keys and patterns to it; return the failures.

        Every query sees at least the changes of the page that the plan was made from.
        """
        ...

    async def check_queries(self, rules: Rules, types: ColumnTypes | None = None) -> list[FanoutFailure]:
        """Run every query of the rules without a row and return the failures. Changes nothing.

        ``types`` receives the types of the columns that fill the templates.
        """
        ...

    async def purge(self, *, rows: int, retention: float | None, outbox_max_rows: int | None) -> int:
        """Delete at most ``rows`` old entries from the outbox; return how many were deleted.

        Captures, too, use ``retention`` (seconds) and ``outbox_max_rows`` from then on. None keeps the values
        that were set before.
        """
        ...

    async def begin_term(self, consumer: str, fence: int) -> int:
        """Begin a term as leader: end the sessions of older leaders of this consumer; return how many."""
        ...

    async def end_term(self) -> None:
        """End the term as leader; errors of a lost connection are suppressed."""
        ...

    def wakeups(self) -> WakeUps:
        """Return the wake-ups of this database; enter the result once."""
        ...

    def sibling(self) -> "Source":
        """Return another source for the same database, for slow work that must not delay reads."""
        ...

    async def close(self) -> None:
        """Close the connections; the next call opens them again. Safe at any time, also twice."""
        ...
