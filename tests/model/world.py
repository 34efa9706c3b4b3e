"""The state of the model: a database, a Redis, workers, agents and reads in flight.

A *version* of a key is the number of the commit that made it (over all histories, so a higher one is newer).
A set of transactions is a bit mask over xids. Ghosts (marked so) exist only to state promises.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from .states import state

T = TypeVar("T")

Mask: TypeAlias = int
Versions: TypeAlias = tuple[int, ...]
"""One version for each key."""

RUNNING, ROLLED_BACK, LOST = 0, -1, -2
"""Lost: it committed, and the dump that was restored since is older. Its xid and its WAL stay used."""


@dataclass(frozen=True, slots=True)
class Reads:
    """A place where one read after the other happens.

    Attributes:
        agent: The agent whose near cache it fills; None: a process without one.
        key: Number of the key.
        get_set: The seed's ``get``, load, ``set`` instead of ``get_or_load``.
        refresher: Reads only what is in the refresh set, for no caller.
        replaces: A read with ``fresh=True``, or an early refresh: it loads although a value stands.
    """

    agent: int | None = None
    key: int = 0
    get_set: bool = False
    refresher: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The bounds of one exploration. What is not bounded here happens any number of times.

    Attributes:
        changes: One letter a transaction, in order of their xids. ``a``, ``b``: changes the row behind that
            key; ``A``, ``B``: the same, by a rule with ``purge``; ``o``: another row, so a lost message is
            not hidden by the next one; ``*``: the whole table.
        keys: How many keys there are: a, b.
        reads: The reads in flight at a time.
        agents: How many agents.
        workers: How many workers.
        terms: Leaderships in all; only with more than one worker.
        kills: Times a worker is killed, or loses what it remembers for another reason; None: any number.
            (Parts of a batch that are repeated for ever would need ids without bound.)
        script_keys: Keys in one script of a batch.
        pages: Each page of a read holds one transaction.
        begun: Transactions that have an xid from the start; None: all. The others get theirs by a step.
        rollbacks: Whether transactions may roll back.
        crashes: Times Postgres crashes.
        restores: Times Postgres continues without its newest commits, on another timeline.
        same_timeline: Such a restore keeps the timeline (a copied data folder).
        dumps: Times an older dump is restored into the running server: xids and WAL go on.
        purges: Whether committed entries may be purged, read or not.
        failovers: Times a Redis promotion goes back by one or two writes. Connections may stay.
        run_id: Redis tells its run id. Without one a failover shows only in the data.
        flushes: Times Redis is emptied without being restarted (FLUSHALL).
        state_evictions: Times the state alone disappears.
        log_max: Entries the log holds.
        inbox: Messages on their way to one agent; one more is lost.
        silent: Messages may be lost without a disconnect.
        replica: Loaders may read a replica.
        owners: For each transaction the agent that deletes its keys itself after the commit; None: nobody.
        lsn_known: Such a delete passes the LSN of the commit.
        own_pattern: Such a delete is an `invalidate_pattern`, whatever changed.
        tokens: Whether what agents know of transactions (`wait_for`) is followed.
        refreshed: Every key is made new when it changes.
        serve_stale: Its old value is kept for a bounded time meanwhile.
    """

    changes: str = "ao"
    keys: int = 1
    reads: tuple[Reads, ...] = (Reads(),)
    agents: int = 0
    workers: int = 1
    terms: int = 1
    kills: int | None = None
    script_keys: int = 9
    pages: bool = False
    begun: int | None = None
    rollbacks: bool = False
    crashes: int = 0
    restores: int = 0
    same_timeline: bool = False
    dumps: int = 0
    purges: bool = False
    failovers: int = 0
    run_id: bool = True
    flushes: int = 0
    state_evictions: int = 0
    log_max: int = 2
    inbox: int = 2
    silent: bool = True
    replica: bool = False
    owners: tuple[int | None, ...] = ()
    lsn_known: bool = True
    own_pattern: bool = False
    tokens: bool = False
    refreshed: bool = False
    serve_stale: bool = False


@state
class Database(NamedTuple):
    """Postgres."""

    xids: tuple[int, ...]  # by xid: RUNNING, ROLLED_BACK, or the version its commit made
    kinds: str  # by xid: what the transaction changes
    began_at: tuple[int, ...]  # by xid: LSN when it began, which its token names
    begun: int  # how many of the configured changes have got an xid
    versions: int  # versions made so far, in any history
    timeline: int = 0
    dumps: int = 0  # dumps restored
    replayed: int = 0  # LSN up to which the replica is
    purged: Mask = 0  # committed transactions that the horizon contains
    crashes: int = 0


Standing: TypeAlias = tuple[str, int] | tuple[str, int, int] | None
"""What stands at a key: ("value", version), ("lease", token), ("soft", token), or nothing.

("value", version, token) is a value that carries the lease of a reader that replaces it."""


@state
class Stale(NamedTuple):
    """What stands at ``{unstale:0}:stale:<key>``."""

    version: int
    until: int  # the change that its life was counted from
    since: int  # ghost: the change that made it stale


@state
class Entry(NamedTuple):
    """A log entry; the message with the same id says the same."""

    id: int
    keys: Mask
    invalidated: Versions  # ghost


@state
class Redis(NamedTuple):
    """One Redis server's data: the keys, ``{unstale:0}:state`` and the log."""

    keys: tuple[Standing, ...]
    epoch: int = 0  # 0: absent, as is the rest of the state then
    run: int = 0  # without a run id: a ghost
    position: Mask | None = None
    database: int = 0
    flushed: int = 0
    need_lsn: int = 0
    primary_until: int = 0
    last: int = 0
    fence: int = 0
    log: tuple[Entry, ...] = ()
    invalidated: Versions = ()  # ghost: the version that each key has been invalidated for
    stale: tuple[Stale | None, ...] = ()
    queue: Mask = 0  # the refresh set
    owed: Mask = 0  # ghost: keys that were cached when they changed, and not filled since
    read_epoch: int = 0  # the epoch in which the newest watermark was published
    stamp: int = 0  # what the worker's newest script left; 0 with a run id


@state
class Known(NamedTuple):
    """What ``state.lua`` told a worker."""

    epoch: int
    run: int
    live_run: int
    position: Mask | None
    database: int
    flushed: int
    primary_until: int


@state
class Told(NamedTuple):
    """What a watermark says about transactions; None where nobody waits for one."""

    snapshot: Mask
    flushed: int
    database: int


@state
class Page(NamedTuple):
    """What one read of the outbox told a worker."""

    snapshot: Mask  # of a batch that goes on
    position: Mask
    keys: Mask  # what the entries concern
    whole: bool  # a whole-table entry: a pattern
    others: bool  # an entry that concerns no key of ours
    lsn: int
    database: int
    purged: Mask = 0  # those of the keys that a rule with purge asks for
    last_xid: int = -1
    more: bool = False
    told: Told | None = None


@state
class Seen(NamedTuple):
    """What a worker may say in a watermark: the newest read that is applied as a whole."""

    told: Told | None
    lsn: int
    primary_until: int


@state
class Worker(NamedTuple):
    """A worker; everything here dies with its process."""

    step: str  # standby, begin, new_epoch, ready, apply, next_page, recover
    fence: int = 0
    known: Known | None = None
    page: Page | None = None
    scripts: tuple[tuple[str, int], ...] = ()  # still to send: (name, argument)
    seen: Seen | None = None
    stamp: int = 0  # what its newest script left; 0: it has read the state anew
    follows: Mask = 0  # agents that were connected when the read of `seen` began; without a run id only


@state
class Message(NamedTuple):
    """An `Invalidation` or a `Watermark`."""

    kind: str  # "invalidation", "watermark"
    epoch: int
    id: int  # of a watermark: last
    prev: int
    keys: Mask
    invalidated: Versions  # ghost
    told: Told | None = None
    follows: Mask = 0  # of a watermark: as the worker knows it


@state
class Agent(NamedTuple):
    """One agent process."""

    link: str  # away, subscribed (not replayed yet), following
    attached: bool
    epoch: int
    last: int
    near: tuple[int | None, ...]
    processed: Versions  # ghost: versions whose invalidation has been processed
    own: Versions  # ghost: versions whose delete() has returned
    seen: Told | None = None
    inbox: tuple[Message, ...] = ()
    known: bool = True  # Redis is believed
    met: int = 0  # ghost: the run of the server whose log was replayed last


@state
class Load(NamedTuple):
    """One read in flight."""

    step: str = "idle"  # idle, claimed, missed, loaded, keep
    token: int = 0
    version: int = 0
    clean: bool = True
    need_lsn: int = 0
    primary: bool = False
    live: bool = True
    floor: int = 0  # ghost: own version when the read began


@state
class World(NamedTuple):
    """Everything."""

    database: Database
    redis: Redis
    before: tuple[Redis, ...]  # what a failover may go back to, newest first
    failovers: int
    flushes: int
    evictions: int
    terms: int
    kills: int
    workers: tuple[Worker, ...]
    agents: tuple[Agent, ...]
    loads: tuple[Load, ...]
    deletes: tuple[int, ...]  # by change: how far its own delete() has come


def replaced(items: tuple[T, ...], index: int, item: T) -> tuple[T, ...]:
    """``items`` with another one at ``index``."""
    return (*items[:index], item, *items[index + 1 :])


def newest(versions: Versions, others: Versions) -> Versions:
    """The newer of two versions, key by key."""
    return tuple(map(max, versions, others))
