"""Rules that change while values are cached: what a leader of other rules must drop, and what it may keep.

`Adoption` has two patterns. Both rule sets own ``u`` in the same way, and only the new one owns ``n``; or
both own it, and changes of its table count by the new one only. Leaders with the old and the new rules take
turns, as in a rolling deploy. `LostOwner` is the reverse, with a clock: a pattern that no rule owns any more,
read by agents that go on using its template.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .checker import Move
from .states import state

ADOPTION_CAUGHT: Final = (
    "changed patterns are dropped",
    "the position is kept",
    "captures come before rules",
    "put compares the rules in force",
    "what is still to drop is stored",
    "agents read the rules when all is dropped",
    "a leader of other rules is fenced",
)
"""What can be switched off."""

NEVER: Final = -1
LEASE: Final = -2
COMMITS: Final = {"n": 1, "u": 1}
"""Most commits to each table."""
TERMS: Final = 3
"""Leaders, one after another: of the new rules if even."""
OLD_VALUE = "tier: Redis holds a value that is older than the newest watermark says"
UNSETTLED = "settled: all is applied, and Redis holds another value than the database"


@state
class Deploy(NamedTuple):
    """The state: two tables and their keys, the rules in force, and leaders that take turns."""

    commits: tuple[tuple[str, bool], ...] = ()  # (table, whether a capture wrote it), in order
    captured: bool = False  # table n has a capture
    fence: int = 1
    rules: bool = False  # in force, by the state: the new ones
    published: bool = False  # what agents read: the new ones
    adopting: bool = False  # in the state: n is still to be dropped
    memory: str = ""  # the leader's step while it adopts
    batch: int = NEVER  # the leader has read up to here
    late: tuple[int, int] | None = None  # the last script of an older leader: read from, up to
    position: int = 0
    said: int = 0  # position of the newest watermark
    n: int = NEVER  # in Redis: commits that the value contains, or LEASE
    u: int = NEVER
    load: tuple[str, int] | None = None  # under a lease: table, commits seen
    put: int = NEVER  # commits that a value contains which an agent is about to set without a lease


def count(commits: tuple[tuple[str, bool], ...], table: str) -> int:
    """Return how many of ``commits`` changed ``table``."""
    return sum(name == table for name, _ in commits)


class Adoption:
    """A model of ``RulesInForce.adopt`` and ``adopt.lua``; ``off`` is one of `ADOPTION_CAUGHT`.

    Args:
        off: The rule that is switched off.
        both_own: The old rules own ``n`` too, but no change counts by them: it is dropped on one way only.
    """

    def __init__(self, off: str = "", *, both_own: bool = False) -> None:
        self._off, self._both_own = off, both_own

    def start(self) -> Deploy:
        """The old rules are in force, and a value of each key is cached."""
        return Deploy(n=0, u=0)

    def moves(self, at: Deploy) -> Iterator[Move[Deploy]]:
        """One step of the database, of an agent, or of a leader."""
        for table, most in COMMITS.items():
            if count(at.commits, table) < most:
                captured = table == "u" or at.captured
                yield f"{table} changes", at._replace(commits=(*at.commits, (table, captured))), None
        if not at.captured:
            yield "the migration", at._replace(captured=True), None
        yield from self._agent(at)
        yield from self._leader(at)
        if at.late is not None:
            yield "the last script of the older leader arrives", self._late(at), None
        elif self._off == "a leader of other rules is fenced" and at.fence > 1:
            yield "the older leader reads", at._replace(late=(at.position, len(at.commits))), None
        ready = at.fence % 2 == 0 or at.captured or self._off == "captures come before rules"
        if at.fence < TERMS and ready:
            late = (at.position, at.batch) if at.batch != NEVER else at.late
            after = at._replace(fence=at.fence + 1, memory="", batch=NEVER, late=late)
            yield "a leader with other rules", after, None

    def _agent(self, at: Deploy) -> Iterator[Move[Deploy]]:
        for key in COMMITS:
            if at.load is None and getattr(at, key) == NEVER:
                yield f"a lease of {key}", self._stored(at, key, LEASE)._replace(load=(key, NEVER)), None
            elif at.load == (key, NEVER):
                seen = count(at.commits, key)
                yield f"the loader reads {key}", at._replace(load=(key, seen)), None
            elif at.load is not None and at.load[0] == key:
                filled = self._stored(at, key, at.load[1]) if getattr(at, key) == LEASE else at
                yield f"a fill of {key}", filled._replace(load=None), None
        if at.put == NEVER and not at.published:
            yield "an agent computes n", at._replace(put=count(at.commits, "n")), None
        elif at.put != NEVER:
            known = at.published if self._off == "put compares the rules in force" else at.rules
            yield "it puts n", at._replace(put=NEVER, n=at.n if known else at.put), None

    def _stored(self, at: Deploy, key: str, value: int) -> Deploy:
        return at._replace(n=value) if key == "n" else at._replace(u=value)

    def _leader(self, at: Deploy) -> Iterator[Move[Deploy]]:
        new = at.fence % 2 == 0
        if at.memory or at.batch != NEVER:
            yield "the leader crashes", at._replace(memory="", batch=NEVER), None
        if at.memory == "dropped":
            published = at._replace(published=new, adopting=False, memory="")
            yield "publishes its rules", published, None
        elif at.memory == "to drop" or (at.adopting and at.rules == new):
            n = at.n if self._off == "changed patterns are dropped" else NEVER
            yield "drops n", at._replace(memory="dropped", n=n), None
        elif at.rules != new:
            due = at.adopting or (at.published != new and (new or not self._both_own))
            stored = self._off != "what is still to drop is stored"
            early = new if self._off == "agents read the rules when all is dropped" else at.published
            kept = self._off != "the position is kept"
            adopting = at._replace(
                rules=new,
                adopting=stored and due,
                memory="dropped" if not due else "" if stored else "to drop",
                published=early,
                position=at.position if kept else len(at.commits),
            )
            yield "puts its rules in force", adopting, None
        elif at.published != new:
            yield "publishes what Redis lacks", at._replace(published=new), None
        elif at.batch == NEVER:
            yield "reads", at._replace(batch=len(at.commits)), None
        else:
            applied = self._applied(at, at.position, at.batch, new)
            yield "applies it, with a watermark", applied._replace(batch=NEVER, said=at.batch), None

    def _late(self, at: Deploy) -> Deploy:
        assert at.late is not None
        begin, end = at.late
        fenced = self._off != "a leader of other rules is fenced"
        if fenced or at.position != begin:
            return at._replace(late=None)
        return self._applied(at, begin, end, at.fence % 2 == 1)._replace(late=None)

    def _applied(self, at: Deploy, begin: int, end: int, new: bool) -> Deploy:
        changed = {table for table, captured in at.commits[begin:end] if captured}
        if not new:
            changed.discard("n")
        n, u = (NEVER if key in changed else getattr(at, key) for key in "nu")
        return at._replace(position=end, n=n, u=u)

    def broken(self, at: Deploy) -> str | None:
        """A value contains what is applied; that of ``n`` from when agents may know that a rule owns it."""
        if 0 <= at.u < count(at.commits[: at.position], "u"):
            return OLD_VALUE
        if at.published and at.rules and 0 <= at.n < count(at.commits[: at.said], "n"):
            return OLD_VALUE
        if self.at_rest(at) and any(
            0 <= getattr(at, key) < count(at.commits, key) for key in self._owned(at)
        ):
            return UNSETTLED
        return None

    def _owned(self, at: Deploy) -> str:
        return "nu" if at.rules else "u"

    def at_rest(self, at: Deploy) -> bool:
        """The leader's rules are in force, and everything is applied."""
        done = at.rules == at.published == (at.fence % 2 == 0) and not at.adopting and at.memory == ""
        return done and at.position == at.said == len(at.commits) and at.late is None


LOST_CAUGHT: Final = (
    "kept for detached_ttl",
    "dropped again when every agent knows",
    "a near copy ends with the value in Redis",
    "near copies are dropped with the keys",
)
"""What can be switched off."""

KNOWS: Final = 1
"""Within this time an agent has heard of the new rules, or is detached."""
ALL_KNOW_AFTER: Final = 2
DETACHED_TTL: Final = 3
TTL: Final = 9
"""What the old rules said."""
BOUND: Final = max(DETACHED_TTL, ALL_KNOW_AFTER)
END: Final = 7

TOO_OLD = "lost owner: an agent answers with a value older than its bound"


@state
class Lost(NamedTuple):
    """The state: the clock since the rules changed, the value, and two agents that go on reading it."""

    now: int = 0
    dropped: bool = False  # once more, when every agent knows
    knows: tuple[bool, bool] = (False, False)
    redis: tuple[int, int] | None = None  # loaded at, expires at
    near: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)


class LostOwner:
    """A model of ``KnownRules.capped`` and ``RulesTransition``; ``off`` is one of `LOST_CAUGHT`.

    Every moment the database changes, so a value is as old as its load.
    """

    def __init__(self, off: str = "") -> None:
        self._off = off

    def start(self) -> Lost:
        """A leader has just dropped the keys, and put the new rules in force."""
        return Lost()

    def moves(self, at: Lost) -> Iterator[Move[Lost]]:
        """Time passes, an agent hears of the rules or reads, or the leader drops the keys once more."""
        due = at.now >= ALL_KNOW_AFTER and not at.dropped
        late = at.now >= KNOWS and not all(at.knows)
        if at.now < END and not due and not late:
            yield f"it is {at.now + 1}", self._expired(at._replace(now=at.now + 1)), None
        if due:
            again = self._off != "dropped again when every agent knows"
            nears = again and self._off != "near copies are dropped with the keys"
            yield (
                "the leader drops the keys again",
                at._replace(
                    dropped=True,
                    redis=None if again else at.redis,
                    near=(None, None) if nears else at.near,
                ),
                None,
            )
        for agent in (0, 1):
            if not at.knows[agent]:
                knows = (True, at.knows[1]) if agent == 0 else (at.knows[0], True)
                yield f"agent {agent} hears of the rules", at._replace(knows=knows), None
            if at.near[agent] is None:
                yield f"agent {agent} reads", self._read(at, agent), None

    def _read(self, at: Lost, agent: int) -> Lost:
        capped = at.knows[agent] and self._off != "kept for detached_ttl"
        most = at.now + (DETACHED_TTL if capped else TTL)
        loaded, expires = redis = at.redis or (at.now, most)
        # An agent of the old rules takes the TTL of the rules for the life of the value.
        shorter = at.knows[agent] and self._off != "a near copy ends with the value in Redis"
        near = (loaded, min(most, expires) if shorter else most)
        both = (near, at.near[1]) if agent == 0 else (at.near[0], near)
        return at._replace(redis=redis, near=both)

    def _expired(self, at: Lost) -> Lost:
        def alive(copy: tuple[int, int] | None) -> tuple[int, int] | None:
            return copy if copy is not None and copy[1] > at.now else None

        return at._replace(redis=alive(at.redis), near=(alive(at.near[0]), alive(at.near[1])))

    def broken(self, at: Lost) -> str | None:
        """A copy that an agent may answer with is at most `BOUND` old."""
        copies = [copy for copy in (*at.near, at.redis) if copy is not None]
        return TOO_OLD if any(at.now - loaded > BOUND for loaded, _ in copies) else None

    def at_rest(self, at: Lost) -> bool:
        """The end of time."""
        return at.now == END
