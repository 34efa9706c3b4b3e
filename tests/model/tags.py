"""Values stored under tags: a record with a random version for each tag, removed when the tag is invalidated.

To worker, log, replay and agents a tag's record is one more key (``unstale:tag:<tag>``), and the other models
are about keys. This one is about what is new: a value that is valid only while the records still have the
versions that stood there when its lease was taken. Two tags, two readers of one key, a worker, a failover
that loses writes, and a record that is evicted at any moment.

A version is random, so none ever comes again: the model takes one that nothing in the state holds.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from .checker import Move
from .states import state

TAGS_CAUGHT: Final = (
    "a read compares the versions",
    "a missing record makes a value invalid",
    "a record made again has another version",
    "the versions are read with the lease",
    "every tag is compared",
    "a value has all tags that its reader names",
    "the record goes with the position",
    "a near copy is dropped with its tag",
    "a tag marks the reads in flight that name it",
    "a near copy has no tag that its reader did not name",
)
"""What can be switched off."""

TAGS_MASKED: Final = {
    "the fill compares the versions": "a value stored with versions from before a change is invalid anyway",
    "a lease dies with its tags": "the fill is refused; others wait for the lease to run out",
}
"""What is not missed when it is off, and what covers for it."""

COMMITS: Final = 1
"""Most commits behind each tag."""
NAMED: Final = ((0, 1), (0,))
"""The tags that each reader names. The second one is of an older release; it has the near cache."""
AGENT: Final = 1
TIER = "tier: Redis answers a reader with less than the stored position promises"
NEAR = "near: the near cache holds less than what the agent has processed"
SETTLED = "settled: nothing is left to do, and a valid value differs from the database"

Pair: TypeAlias = tuple[int, int]
Under: TypeAlias = tuple[tuple[int, int], ...]
"""Tags with their versions."""


@state
class Content(NamedTuple):
    """What stands at the key."""

    token: int  # of a lease; 0: a value
    seen: Pair  # of a value: the commits behind each tag that it contains
    under: Under


@state
class Redis(NamedTuple):
    """One server's data."""

    position: Pair = (0, 0)
    records: Pair = (0, 0)  # the version of each tag; 0: there is none
    content: Content | None = None


@state
class Read(NamedTuple):
    """One read in flight."""

    step: str = "idle"  # idle, claimed, loaded, keep
    token: int = 0
    seen: Pair = (0, 0)
    under: Under = ()
    clean: bool = True


@state
class Tagged(NamedTuple):
    """The state."""

    commits: Pair = (0, 0)
    redis: Redis = Redis()
    before: Redis | None = None  # what a failover goes back to: one write less
    failed_over: bool = False
    evicted: bool = False  # a record
    half: int = -1  # the worker is between two scripts about this tag
    reads: tuple[Read, Read] = (Read(), Read())
    near: tuple[Pair, tuple[int, ...]] | None = None  # what it contains, its tags
    inbox: tuple[Pair, ...] = ()  # tag, and ghost: the commits that the message is about
    processed: Pair = (0, 0)  # ghost


class Tags:
    """A model of ``acquire_tagged.lua``, ``fill.lua`` and `LocalState`; ``off`` is one of the rules above.

    Either two readers and a near cache; or one reader, readers of other keys, an eviction and a failover,
    after which an agent drops its near cache as for any key.
    """

    def __init__(self, off: str = "", *, near: bool = False) -> None:
        self._off, self._near = off, near

    def start(self) -> Tagged:
        """Nothing is cached."""
        return Tagged()

    # --- what may happen ------------------------------------------------------------------------

    def moves(self, at: Tagged) -> Iterator[Move[Tagged]]:
        """One step of the database, the server, the worker or an agent."""
        redis = at.redis
        for tag in (0, 1):
            if at.commits[tag] < COMMITS:
                yield f"a change behind {tag}", at._replace(commits=_with(at.commits, tag, +1)), None
            if redis.records[tag] and not (at.evicted or self._near):
                gone = redis._replace(records=_set(redis.records, tag, 0))
                yield f"the record of {tag} is evicted", at._replace(redis=gone, evicted=True), None
            if not redis.records[tag] and not self._near:
                made = redis._replace(records=_set(redis.records, tag, self._fresh(at, redis.records)))
                yield f"a lease of another key makes the record of {tag}", at._replace(redis=made), None
        if at.before is not None and not at.failed_over:
            back = at._replace(redis=at.before, before=None, failed_over=True, half=-1)
            yield "a failover", back, None
        yield from self._worker(at)
        for number in (0, 1) if self._near else (0,):
            for label, after in self._read(at, number, at.reads[number]):
                yield f"reader {number} {label}", after, None
        if at.inbox:
            yield "the agent hears", self._heard(at), None

    def _worker(self, at: Tagged) -> Iterator[Move[Tagged]]:
        redis = at.redis
        if at.half >= 0:
            yield "the worker crashes", at._replace(half=-1), None
            yield "the worker invalidates", self._invalidated(at._replace(half=-1), at.half), None
            return
        for tag in (0, 1):
            if redis.position[tag] < at.commits[tag]:
                moved = redis._replace(position=_set(redis.position, tag, at.commits[tag]))
                after = self._stored(at, moved)
                if self._off == "the record goes with the position":
                    yield f"the worker stores the position of {tag}", after._replace(half=tag), None
                else:
                    yield f"the worker applies {tag}", self._invalidated(after, tag), None

    def _invalidated(self, at: Tagged, tag: int) -> Tagged:
        redis = at.redis._replace(records=_set(at.redis.records, tag, 0))
        inbox = (*at.inbox, (tag, redis.position[tag])) if self._near else ()
        return at._replace(redis=redis, inbox=inbox)

    def _stored(self, at: Tagged, redis: Redis) -> Tagged:
        return at._replace(redis=redis, before=None if at.failed_over or self._near else at.redis)

    # --- a reader -------------------------------------------------------------------------------

    def _read(self, at: Tagged, number: int, read: Read) -> Iterator[tuple[str, Tagged]]:
        if read.step == "idle":
            yield from self._acquire(at, number)
        elif read.step == "claimed":
            yield "loads", self._became(at, number, read._replace(step="loaded", seen=at.commits))
        elif read.step == "loaded":
            yield "fills", self._fill(at, number, read)
        else:
            near = (read.seen, tuple(tag for tag, _ in read.under))
            after = self._became(at, number, Read())
            yield "keeps", after._replace(near=near) if read.clean else after

    def _acquire(self, at: Tagged, number: int) -> Iterator[tuple[str, Tagged]]:
        """``acquire_tagged.lua``."""
        redis, named = at.redis, NAMED[number]
        content = redis.content
        if content is not None and not content.token and self._answers(redis, content, number):
            exact = tuple(tag for tag, _ in content.under) == named
            if self._off == "a near copy has no tag that its reader did not name":
                exact = True
            if number == AGENT and exact and self._near and at.near is None:
                kept = Read("keep", seen=content.seen, under=content.under)
                yield "hits", self._became(at, number, kept)
            return
        if content is not None and content.token:
            dead = not self._valid(redis, content.under)
            if not dead or self._off == "a lease dies with its tags":
                return  # another's: waits
        records, under = redis.records, list[tuple[int, int]]()
        for tag in named:
            if not records[tag]:
                records = _set(records, tag, self._fresh(at, records))
            under.append((tag, records[tag]))
        token = 1 + max(content.token if content else 0, *(other.token for other in at.reads))
        token = min(
            set(range(1, token + 1)) - {content.token if content else 0} - {r.token for r in at.reads}
        )
        lease = Content(token, (0, 0), tuple(under))
        after = self._stored(at, redis._replace(records=records, content=lease))
        yield "takes the lease", self._became(after, number, Read("claimed", token, under=tuple(under)))

    def _fill(self, at: Tagged, number: int, read: Read) -> Tagged:
        """``fill.lua``."""
        redis, under = at.redis, read.under
        idle = self._became(at, number, Read())
        if redis.content != Content(read.token, (0, 0), under):
            return idle
        if self._off == "the versions are read with the lease":
            under = tuple((tag, redis.records[tag]) for tag, _ in under if redis.records[tag])
        elif not self._valid(redis, under) and self._off != "the fill compares the versions":
            return idle
        filled = self._stored(idle, redis._replace(content=Content(0, read.seen, under)))
        if number != AGENT or not self._near:
            return filled
        return self._became(filled, number, read._replace(step="keep", token=0, under=under))

    def _valid(self, redis: Redis, under: Under) -> bool:
        """Return True if all records have the versions that a value or a lease was stored under."""
        if self._off == "a read compares the versions":
            return True
        if self._off == "a missing record makes a value invalid":
            return all(redis.records[tag] in (0, version) for tag, version in under)
        if self._off == "every tag is compared":
            under = under[:1]
        return all(redis.records[tag] == version for tag, version in under)

    def _answers(self, redis: Redis, content: Content, number: int) -> bool:
        tags = {tag for tag, _ in content.under}
        if self._off != "a value has all tags that its reader names" and not tags.issuperset(NAMED[number]):
            return False
        return self._valid(redis, content.under)

    def _fresh(self, at: Tagged, records: Pair) -> int:
        if self._off == "a record made again has another version":
            return 1
        used = {*records, *(at.before.records if at.before else ())}
        held = [at.redis.content, at.before.content if at.before else None, *at.reads]
        used |= {version for each in held if each is not None for _, version in each.under}
        return min(set(range(1, len(used) + 2)) - used)

    def _heard(self, at: Tagged) -> Tagged:
        """`LocalState.drop`."""
        (tag, count), *rest = at.inbox
        near, reads = at.near, at.reads
        if near is not None and tag in near[1] and self._off != "a near copy is dropped with its tag":
            near = None
        read = reads[AGENT]
        named = tag in NAMED[AGENT] and self._off != "a tag marks the reads in flight that name it"
        if read.step != "idle" and named:
            reads = (reads[0], read._replace(clean=False))
        processed = _set(at.processed, tag, max(count, at.processed[tag]))
        return at._replace(near=near, reads=reads, inbox=tuple(rest), processed=processed)

    def _became(self, at: Tagged, number: int, read: Read) -> Tagged:
        return at._replace(reads=(read, at.reads[1]) if number == 0 else (at.reads[0], read))

    # --- promises -------------------------------------------------------------------------------

    def broken(self, at: Tagged) -> str | None:
        """What Redis would answer a reader with, and what is near, contains what it must."""
        content, resting = at.redis.content, self.at_rest(at)
        if content is not None and not content.token:
            for number, named in enumerate(NAMED):
                if not self._answers(at.redis, content, number):
                    continue
                if any(
                    content.seen[tag] < at.redis.position[tag] for tag in (*named, *_names(content.under))
                ):
                    return TIER
                if resting and any(content.seen[tag] != at.commits[tag] for tag in _names(content.under)):
                    return SETTLED
        if at.near is not None:
            seen, tags = at.near
            if any(seen[tag] < at.processed[tag] for tag in tags):
                return NEAR
            if resting and any(seen[tag] != at.commits[tag] for tag in tags):
                return SETTLED
        return None

    def at_rest(self, at: Tagged) -> bool:
        """Everything is applied and heard, and no read is in flight."""
        done = at.redis.position == at.commits and not at.inbox and at.half < 0
        return done and all(read.step == "idle" for read in at.reads)


def _names(under: Under) -> tuple[int, ...]:
    return tuple(tag for tag, _ in under)


def _set(pair: Pair, at: int, value: int) -> Pair:
    return (value, pair[1]) if at == 0 else (pair[0], value)


def _with(pair: Pair, at: int, more: int) -> Pair:
    return _set(pair, at, pair[at] + more)
