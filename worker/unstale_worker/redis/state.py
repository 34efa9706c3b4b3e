"""The state stored in Redis, and whether a worker may continue from it. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from enum import Enum
from typing import Any, Final

from unstale.errors import MessageError
from unstale.protocol.messages import Snapshot, lsn
from unstale_worker.sources import Page

_EPOCH: Final = re.compile("[0-9a-f]{32}")
_COUNT: Final = re.compile("[0-9]{1,15}")
"""Log ids stay far below 2**53, up to which JSON and Lua count exactly."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """The hash ``{unstale:0}:state`` and the live server's run, from one atomic read.

    Absent fields are empty strings.

    Attributes:
        live_run: Replication id of the server that answered; empty if it does not tell it.
        epoch: The current history of the log.
        run: The run that the epoch belongs to.
        position: The transactions already applied, as a ``pg_snapshot``.
        database: Identity of the database that the position is of.
        flushed: WAL position that was on disk when the position was taken.
        fence: The fence of the newest leader.
        rules: Hash of the rules in force.
        primary_until: Set while loaders must read the primary because of a direct invalidation.
        last: Id of the newest log entry.
        broken: Tables that were not captured when their patterns were last invalidated, as a JSON array.
        adopting: While rules are put in force: what is still to be dropped. See `Adopting`.
        lives: Globs of keys whose stored values may still live longer than a TTL says, as a JSON array.
        stamp: Left by the worker's newest script, if the server does not tell its run.
        unproved: True if it does not, and this worker did not leave the state as it is. The server may have
            gone back in time meanwhile.
    """

    live_run: str
    epoch: str = ""
    run: str = ""
    position: str = ""
    database: str = ""
    flushed: str = ""
    fence: str = ""
    rules: str = ""
    primary_until: str = ""
    last: str = "0"
    broken: str = ""
    adopting: str = ""
    lives: str = ""
    stamp: str = ""
    unproved: bool = False

    @property
    def untouched(self) -> bool:
        """True if no worker has stored anything but its fence."""
        return not (self.epoch or self.position or self.rules)

    @classmethod
    def read(cls, live_run: bytes, fields: Sequence[bytes]) -> "StoredState":
        """Read the reply of ``state.lua``: field, value, field, value …"""
        pairs: Mapping[str, str] = {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for name, value in zip(fields[::2], fields[1::2], strict=True)
        }
        known = {field.name for field in fields_of(cls)} - {"live_run", "unproved"}
        texts: dict[str, Any] = {name: pairs[name] for name in known & pairs.keys()}
        return cls(live_run.decode(), **texts)

    @property
    def shortening(self) -> tuple[str, ...]:
        """Globs of keys whose stored values may still live longer than a TTL says."""
        try:
            globs = json.loads(self.lives or "[]")
        except ValueError:
            return ()
        return tuple(glob for glob in globs if isinstance(glob, str)) if isinstance(globs, list) else ()

    def advanced(self, page: Page) -> "StoredState":
        """Return the state after a batch's last script has stored the page's position."""
        return replace(self, position=page.position, flushed=page.flushed, database=page.database)


ADOPTING: Final = "adopting"
"""The hash of no rules: `adopt.lua` stores it in the place of one until agents may read other rules."""


@dataclass(frozen=True, slots=True)
class Adopting:
    """Rules that are being put in force: the field ``adopting`` of the state.

    Attributes:
        before: Hash of the rules that agents still read.
        patterns: Patterns whose keys are to be dropped before agents read other rules.
    """

    before: str
    patterns: tuple[str, ...]

    @classmethod
    def read(cls, state: StoredState) -> "Adopting | None":
        """Return what the state says; without such a field its rules are the published ones.

        They also are if a worker of version 0.1.0 has recovered since, which leaves the field behind. None
        means that the field is unreadable.
        """
        if not state.adopting or state.rules != ADOPTING:
            return cls(state.rules, ())
        try:
            match json.loads(state.adopting):
                case {"before": str() as before, "patterns": list() as patterns} if all(
                    isinstance(pattern, str) for pattern in patterns
                ):
                    return cls(before, tuple(patterns))
        except ValueError:
            pass
        return None

    def encode(self) -> str:
        """Return the field's text."""
        return json.dumps({"before": self.before, "patterns": self.patterns})


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest read that is applied as a whole; a watermark publishes it.

    Attributes:
        snapshot: The transactions that were visible.
        lsn: WAL position that covers it.
        began: When the read began, in seconds of the worker's monotonic clock.
        primary_until: Value in the state before that read.
        flushed: WAL position that was on disk when it was read.
        database: Identity of the database that was read.
        began_there: When the read began by Redis' clock, in milliseconds, at the earliest; '' if unknown.
    """

    snapshot: str
    lsn: str
    began: float
    primary_until: str
    flushed: str = ""
    database: str = ""
    began_there: str = ""

    @classmethod
    def of(cls, page: Page, *, began: float, primary_until: str, began_there: str = "") -> "Seen":
        """Describe a batch by its last page; ``began`` is when its first read began."""
        return cls(page.snapshot, page.lsn, began, primary_until, page.flushed, page.database, began_there)

    def age_ms(self, now: float) -> str:
        """Return the milliseconds since the read began, at ``now`` seconds of that clock, as a number."""
        return f"{max(0.0, now - self.began) * 1000:.3f}"


class Standing(Enum):
    """The result of checking a state: ready, or why changes cannot be applied yet."""

    READY = "ready"
    NO_POSITION = "no position"
    OTHER_RULES = "other rules"
    OTHER_RUN = "other run"
    PURGED = "purged beyond the position"
    OTHER_DATABASE = "another database"
    WENT_BACK = "the database went back in time"


def standing(state: StoredState, *, rules: str) -> Standing:
    """Check what Redis alone can tell."""
    if not _EPOCH.fullmatch(state.epoch) or not _COUNT.fullmatch(state.last) or not _readable(state.position):
        return Standing.NO_POSITION
    if state.run != state.live_run or state.unproved:
        return Standing.OTHER_RUN
    if state.rules != rules:
        return Standing.OTHER_RULES
    return Standing.READY


def standing_after_read(state: StoredState, page: Page) -> Standing:
    """Check the first read after the position; any result but READY means that the position is void.

    A snapshot ahead of every transaction id, or a WAL position behind one that was on disk, can only come
    from a database that was restored from an older copy.
    """
    if page.database != state.database:
        return Standing.OTHER_DATABASE
    if page.current_xmax < Snapshot.xmax_of(state.position) or lsn(page.lsn) < lsn(state.flushed):
        return Standing.WENT_BACK
    if not page.covered:
        return Standing.PURGED
    return Standing.READY


def _readable(position: str) -> bool:
    try:
        Snapshot.parse(position)
    except MessageError:
        return False
    return True
