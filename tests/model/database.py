"""What Postgres does: transactions, a crash, a restore, the purge, and `unstale.read`."""

from collections.abc import Iterator

from .checker import Move
from .defences import Defence
from .world import LOST, ROLLED_BACK, RUNNING, Config, Database, Mask, Page, Told, Versions, World


def committed(database: Database) -> Mask:
    """The transactions that have committed."""
    return sum(1 << xid for xid, made in enumerate(database.xids) if made > 0)


def snapshot(database: Database) -> Mask:
    """What a snapshot taken now calls finished: committed or rolled back."""
    return sum(1 << xid for xid, made in enumerate(database.xids) if made != RUNNING)


def lsn(database: Database) -> int:
    """The WAL position now: the number of commits on this timeline."""
    return sum(made > 0 or made == LOST for made in database.xids)


def history(database: Database) -> int:
    """The history of the database: each restore begins another one."""
    return database.timeline + database.dumps


def concerns(kind: str, key: int) -> bool:
    """Whether a change of this kind changes the row behind the key."""
    return kind == "*" or kind.lower() == "ab"[key]


def versions(database: Database, mask: Mask, keys: int) -> Versions:
    """For each key the newest version made by the transactions in ``mask``."""
    return tuple(
        max(
            (
                made
                for xid, made in enumerate(database.xids)
                if made > 0 and mask >> xid & 1 and concerns(database.kinds[xid], key)
            ),
            default=0,
        )
        for key in range(keys)
    )


def purges(database: Database, mask: Mask, key: int) -> int:
    """The newest version of ``key`` that a purge, or a change of the whole table, made in ``mask``."""
    return max(
        (
            made
            for xid, made in enumerate(database.xids)
            if made > 0 and mask >> xid & 1 and database.kinds[xid] in ("*", "AB"[key])
        ),
        default=0,
    )


def now(database: Database, key: int) -> int:
    """The version that the primary answers with."""
    return versions(database, -1, key + 1)[key]


def on_replica(database: Database, key: int) -> int:
    """The version that the replica answers with: its history is that of the first `replayed` commits."""
    order = sorted((made, xid) for xid, made in enumerate(database.xids) if made > 0)[: database.replayed]
    return max((made for made, xid in order if concerns(database.kinds[xid], key)), default=0)


class DatabaseSteps:
    """Postgres by itself, and what a worker reads of it."""

    def __init__(self, config: Config, off: frozenset[Defence]) -> None:
        self._config, self._off = config, off

    def start(self) -> Database:
        """Nothing has committed."""
        begun = len(self._config.changes) if self._config.begun is None else self._config.begun
        return Database((RUNNING,) * begun, self._config.changes[:begun], (0,) * begun, begun, 0)

    def moves(self, world: World) -> Iterator[Move[World]]:
        """What happens in Postgres."""
        database, config = world.database, self._config
        for xid, made in enumerate(database.xids):
            if made == RUNNING:
                name = f"transaction {xid} ({database.kinds[xid]})"
                version = database.versions + 1
                yield f"{name} commits", _with(world, _finished(database, xid, version, version)), None
                if config.rollbacks:
                    gone = _finished(database, xid, ROLLED_BACK, database.versions)
                    yield f"{name} rolls back", _with(world, gone), None
        if database.begun < len(config.changes):
            kind = config.changes[database.begun]
            more = database._replace(
                xids=(*database.xids, RUNNING),
                kinds=database.kinds + kind,
                began_at=(*database.began_at, self._lsn(database)),
                begun=database.begun + 1,
            )
            yield f"transaction {len(database.xids)} ({kind}) begins", _with(world, more), None
        if config.replica and database.replayed < lsn(database):
            more = database._replace(replayed=database.replayed + 1)
            yield f"the replica replays LSN {more.replayed}", _with(world, more), None
        if config.purges and committed(database) & ~database.purged:
            more = database._replace(purged=database.purged | committed(database))
            yield "the outbox is purged", _with(world, more), None
        if database.crashes < config.crashes:
            more = _restarted(database, lsn(database))._replace(crashes=database.crashes + 1)
            yield "Postgres crashes", _with(world, more), None
        if database.timeline < config.restores or (
            config.same_timeline and database.crashes < config.restores
        ):
            for kept in range(lsn(database)):
                lost = lsn(database) - kept
                more = _restarted(database, kept)
                if config.same_timeline:
                    more = more._replace(crashes=database.crashes + 1)
                else:
                    more = more._replace(timeline=database.timeline + 1)
                yield f"Postgres goes back by {lost} commits", _with(world, more), None
        if database.dumps < config.dumps:
            for kept in range(committed(database).bit_count()):
                more = _replaced(database, kept)._replace(dumps=database.dumps + 1)
                yield f"a dump of the first {kept} commits is restored in place", _with(world, more), None

    def read(self, database: Database, after: Mask, *, upto: Mask | None = None, beyond: int = -1) -> Page:
        """``unstale.read(after)``, or with ``upto`` and ``beyond`` the next page of a batch."""
        fixed = snapshot(database) if upto is None else upto
        new = committed(database) & fixed & ~after & ~database.purged
        if Defence.POSITION_SNAPSHOT in self._off:
            new &= ~((1 << after.bit_length()) - 1)
        xids = [xid for xid in range(beyond + 1, new.bit_length()) if new >> xid & 1]
        delivered = xids[:1] if self._config.pages else xids
        more = len(delivered) < len(xids)
        last = delivered[-1] if delivered else beyond
        kinds, keys = [database.kinds[xid] for xid in delivered], range(self._config.keys)
        return Page(
            snapshot=fixed if more else 0,
            position=self._position(after, fixed, last, more),
            keys=sum(1 << key for key in keys if {"ab"[key], "AB"[key]} & {*kinds}),
            purged=sum(1 << key for key in keys if "AB"[key] in kinds),
            whole="*" in kinds,
            others="o" in kinds,
            lsn=self._lsn(database),
            database=self._identity(database),
            last_xid=last if more else -1,
            more=more,
            told=self._told(database, fixed),
        )

    def _position(self, after: Mask, fixed: Mask, last: int, more: bool) -> Mask:
        if Defence.POSITION_SNAPSHOT in self._off:
            return after | (1 << last + 1) - 1 if last >= 0 else after
        if Defence.POSITION_CUT in self._off and not more:
            return fixed
        upto_last = fixed & ((1 << last + 1) - 1)
        if more:
            return after | upto_last
        return upto_last | fixed & ((1 << after.bit_length()) - 1)

    def first_read(self, database: Database) -> Page:
        """``unstale.read(null)``: nothing above the highest committed entry is in the position."""
        fixed = snapshot(database)
        top = max(committed(database).bit_length(), database.purged.bit_length())
        position = fixed if Defence.RECOVER_CUT in self._off else fixed & ((1 << top) - 1)
        told = self._told(database, fixed)
        return Page(0, position, 0, False, False, self._lsn(database), self._identity(database), told=told)

    def _told(self, database: Database, fixed: Mask) -> Told | None:
        return Told(fixed, lsn(database), self._identity(database)) if self._config.tokens else None

    def _lsn(self, database: Database) -> int:
        """Where no rule looks at it, it must not tell states apart."""
        config = self._config
        return lsn(database) if config.replica or config.restores or config.dumps or config.tokens else 0

    def _identity(self, database: Database) -> int:
        """``unstale.database()``."""
        return database.timeline if Defence.OWN_OBJECTS in self._off else history(database)

    def counts(self, database: Database, position: Mask, of: int, flushed: int) -> bool:
        """`standing_after_read`: whether a position of the history ``of`` is still one."""
        if of != self._identity(database) and Defence.IDENTITY not in self._off:
            return False
        if position.bit_length() > len(database.xids) or lsn(database) < flushed:
            return False
        return not (database.purged & ~position) or Defence.HORIZON in self._off


def _with(world: World, database: Database) -> World:
    return world._replace(database=database)


def _finished(database: Database, xid: int, made: int, count: int) -> Database:
    xids = (*database.xids[:xid], made, *database.xids[xid + 1 :])
    return database._replace(xids=xids, versions=count)


def _replaced(database: Database, kept: int) -> Database:
    """Only the first ``kept`` commits are in the dump. The server goes on: no xid and no LSN comes back."""
    order = sorted((made, xid) for xid, made in enumerate(database.xids) if made > 0)[:kept]
    there = {xid for _, xid in order}
    xids = tuple(
        made if xid in there else LOST if made > 0 or made == LOST else ROLLED_BACK
        for xid, made in enumerate(database.xids)
    )
    return database._replace(xids=xids, purged=database.purged & sum(1 << xid for xid in there))


def _restarted(database: Database, kept: int) -> Database:
    """The first ``kept`` commits are there; what is above them is free again, the rest rolled back."""
    order = sorted((made, xid) for xid, made in enumerate(database.xids) if made > 0)[:kept]
    there = {xid for _, xid in order}
    top = max(there, default=-1) + 1
    xids = tuple(made if xid in there else ROLLED_BACK for xid, made in enumerate(database.xids[:top]))
    return database._replace(
        xids=xids,
        kinds=database.kinds[:top],
        began_at=database.began_at[:top],
        purged=database.purged & ((1 << top) - 1),
    )
