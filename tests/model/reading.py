"""Reads and writes of the agents: `ReadPath` and `Writer`, one step of Redis or Postgres each."""

from collections.abc import Iterator

from . import database as postgres
from . import scripts
from .checker import Move
from .defences import Defence
from .following import AgentSteps, dropped
from .server import Server, run, same_run
from .world import (
    Agent,
    Config,
    Load,
    Mask,
    Message,
    Reads,
    Redis,
    Standing,
    Versions,
    World,
    newest,
    replaced,
)

OWN_WRITE = "own write: an agent answered with less than its own delete() had covered"
ANSWER = "answer: an agent took from Redis what is older than what it has processed"
TOKEN = "token: an agent answered with less than a transaction it had waited for"


class ReadSteps:
    """Every read in flight, and the deletes that agents do themselves."""

    def __init__(self, config: Config, off: frozenset[Defence], server: Server, agents: AgentSteps) -> None:
        self._config, self._off, self._server, self._agents = config, off, server, agents

    def moves(self, world: World) -> Iterator[Move[World]]:
        """What each read, and each delete, may do next."""
        for number, (load, place) in enumerate(zip(world.loads, self._config.reads, strict=True)):
            agent = None if place.agent is None else world.agents[place.agent]
            name = f"read {number}"
            step = getattr(self, f"_{load.step}")
            for label, after, broken in step(world, number, load, place, agent):
                yield f"{name} {label}", after, broken
        for change, owner in enumerate(self._config.owners):
            if owner is not None:
                yield from self._delete(world, change, owner)

    # --- one read -----------------------------------------------------------------------------------

    def _idle(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        if place.refresher:
            yield from self._refresh(world, number, place)
            return
        found = world.redis.keys[place.key]
        if agent is not None and agent.attached and agent.near[place.key] is not None:
            return  # a near hit changes nothing, and what the near cache holds is judged in every state
        if agent is not None and not agent.known and Defence.DOUBT not in self._off:
            return  # loads for itself, and stores nothing
        floor = 0 if agent is None else agent.own[place.key]
        stale = world.redis.stale[place.key] if world.redis.stale else None
        if (
            stale is not None
            and agent is not None
            and agent.attached
            and (found is None or found[0] != "value")
        ):
            # At once, without a lease; who asks for more (`fresh=True`, `max_staleness=`) goes on below.
            broken = self._answered(world, stale.version, floor, place, agent)
            if broken or Defence.STALE_NOT_KEPT in self._off:
                kept = Load("keep", version=stale.version, floor=floor)
                yield f"gets {stale.version}, stale", self._became(world, number, kept), broken
        if place.replaces and Defence.LEASE not in self._off:
            yield from self._replace(world, number, place, floor)
            return
        if found is not None and found[0] == "value":
            broken = self._answered(world, found[1], floor, place, agent)
            broken = broken or self._believed(world, found[1], place, agent)
            if place.get_set:
                if broken:
                    yield f"gets {found[1]}", world, broken
            elif agent is not None:
                late = Defence.MARK_FIRST in self._off
                after = Load("unmarked" if late else "keep", version=found[1], floor=floor)
                yield f"gets {found[1]}", self._became(world, number, after), broken
            return
        if found is not None and Defence.LEASE not in self._off and (found[0] == "lease" or place.get_set):
            yield from self._bypass(world, floor, place, agent)
            if place.get_set:
                after = Load("missed", floor=floor)
                yield "misses; another's lease stands there", self._became(world, number, after), None
            return
        if Defence.LEASE in self._off:
            yield "misses", self._became(world, number, Load("claimed", floor=floor)), None
            return
        redis = world.redis
        if load.need_lsn or load.token:
            raise AssertionError("an idle read remembers nothing")
        token = self._server.fresh_token(world)
        if Defence.NEED_LSN_AFTER_LEASE in self._off:
            early = Load("early", floor=floor, need_lsn=redis.need_lsn, primary=bool(redis.primary_until))
            yield "reads need_lsn", self._became(world, number, early), None
            return
        yield from self._take(world, number, place, Load("", token, floor=floor), token)

    def _refresh(self, world: World, number: int, place: Reads) -> Iterator[Move[World]]:
        """A refresher takes a due key and its lease; while another's lease stands, it leaves the key due."""
        queued = world.redis.queue >> place.key & 1
        found = world.redis.keys[place.key]
        if not queued or (found is not None and found[0] != "soft"):
            return
        token = self._server.fresh_token(world)
        for label, after, broken in self._take(world, number, place, Load("", token), token):
            if Defence.CLAIM_KEEPS in self._off:
                popped = after.redis._replace(queue=after.redis.queue & ~(1 << place.key))
                after = after._replace(redis=popped)
            yield f"to make it new {label}", after, broken

    def _take(self, world: World, number: int, place: Reads, load: Load, token: int) -> Iterator[Move[World]]:
        redis, standing = scripts.take(world.redis, place.key, token, soft=place.get_set)
        if standing is None or standing[0] == "value" or standing[1] != token:
            yield "finds another's lease", self._became(world, number, Load()), None
            return
        early = Defence.NEED_LSN_AFTER_LEASE in self._off
        after = Load(
            "missed" if place.get_set else "claimed",
            token,
            floor=load.floor,
            need_lsn=load.need_lsn if early else redis.need_lsn,
            primary=load.primary if early else bool(redis.primary_until),
            live=bool(redis.epoch),
        )
        what = "a soft lease" if place.get_set else "the lease"
        yield f"takes {what} {token}", self._server.changed(self._became(world, number, after), redis), None

    def _replace(self, world: World, number: int, place: Reads, floor: int) -> Iterator[Move[World]]:
        """Take a lease although a value, or another's lease, stands; the value stays readable."""
        token = self._server.fresh_token(world)
        redis, _ = scripts.replace(world.redis, place.key, token)
        after = Load("claimed", token, floor=floor, primary=True, live=bool(redis.epoch))
        yield (
            f"takes the lease {token} in its place",
            self._server.changed(self._became(world, number, after), redis),
            None,
        )

    def _early(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        yield from self._take(world, number, place, load, self._server.fresh_token(world))

    def _bypass(self, world: World, floor: int, place: Reads, agent: Agent | None) -> Iterator[Move[World]]:
        """Load past another's lease and store nowhere."""
        version = postgres.now(world.database, place.key)
        if self._config.replica and Defence.PRIMARY_BYPASS in self._off:
            version = postgres.on_replica(world.database, place.key)
        if (broken := self._answered(world, version, floor, place, agent)) is not None:
            yield f"loads {version} past another's lease", world, broken

    def _claimed(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        """The loader runs; with a replica it may read that, as `Load` tells it."""
        yield "is cancelled", self._became(world, number, Load()), None
        version, where = postgres.now(world.database, place.key), "the primary"
        ready = world.database.replayed >= load.need_lsn and not load.primary
        ready = ready and load.live and not place.replaces
        if self._config.replica and (ready or Defence.NEED_LSN in self._off):
            version, where = postgres.on_replica(world.database, place.key), "the replica"
        elif self._config.replica and Defence.PRIMARY_FALLBACK in self._off:
            behind = postgres.on_replica(world.database, place.key)
            broken = self._answered(world, behind, load.floor, place, agent)
            yield (
                f"loads {behind} from the replica, stores nothing",
                self._became(world, number, Load()),
                broken,
            )
            return
        broken = self._answered(world, version, load.floor, place, agent)
        after = load._replace(step="loaded", version=version)
        yield f"loads {version} from {where}", self._became(world, number, after), broken

    def _missed(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        """The caller of `get` loads by itself, from the primary."""
        version = postgres.now(world.database, place.key)
        after = load._replace(step="loaded", version=version)
        yield f"loads {version} by itself", self._became(world, number, after), None

    def _loaded(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        """`fill.lua`, of a load or of a `set`."""
        compare = Defence.FILL_COMPARES not in self._off and Defence.LEASE not in self._off
        if place.get_set and Defence.SET_FILLS in self._off:
            compare = False
        lease: Standing = ("soft" if place.get_set else "lease", load.token)
        standing = world.redis.keys[place.key]
        if place.replaces and standing is not None and standing[0] == "value":
            marked = len(standing) == 3 and standing[-1] == load.token
            lease = standing if marked or Defence.REPLACE_COMPARES in self._off else None
        redis, stored = scripts.fill(
            world.redis, place.key, lease, load.version, compare=compare, off=self._off
        )
        if not stored:
            there = self._server.changed(self._became(world, number, Load()), redis)
            yield "is refused (fill)", there, None
            return
        after = Load() if agent is None or place.get_set else load._replace(step="keep", token=0, need_lsn=0)
        there = self._server.changed(self._became(world, number, after), redis)
        yield f"stores {load.version} (fill)", there, None

    def _keep(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        """`LocalState.keep`: into the near cache, unless the key was invalidated or the agent is detached."""
        assert agent is not None
        assert place.agent is not None
        attached = agent.attached or Defence.KEEP_ATTACHED in self._off
        there = self._became(world, number, Load())
        if load.clean and attached:
            near = replaced(agent.near, place.key, load.version)
            there = there._replace(agents=replaced(there.agents, place.agent, agent._replace(near=near)))
            yield f"keeps {load.version}", there, None
        else:
            yield f"does not keep {load.version}", there, None

    def _unmarked(
        self, world: World, number: int, load: Load, place: Reads, agent: Agent | None
    ) -> Iterator[Move[World]]:
        yield "opens its mark", self._became(world, number, load._replace(step="keep", clean=True)), None

    # --- own deletes --------------------------------------------------------------------------------

    def _delete(self, world: World, change: int, owner: int) -> Iterator[Move[World]]:
        """`Writer.delete` after the commit, or `invalidate_pattern`, whose scan is one step a key."""
        xid, stage = change, world.deletes[change]
        database = world.database
        if xid >= len(database.xids) or database.xids[xid] <= 0 or stage < 0:
            return
        kind = database.kinds[xid]
        if kind == "o":
            return
        covered = postgres.versions(database, 1 << xid, self._config.keys)
        nothing = (0,) * self._config.keys
        keys = sum(1 << key for key, version in enumerate(covered) if version)
        pattern, name = kind == "*" or self._config.own_pattern, f"agent {owner} deletes for {xid}"
        scanned = self._config.keys
        twice = Defence.PATTERN_TWICE not in self._off
        if self._config.serve_stale:
            scanned *= 2
        if pattern and 0 < stage <= scanned:
            redis, what = self._scanned(world.redis, stage - 1)
            after = self._server.changed(self._staged(world, change, stage + 1), redis)
            yield f"{name}: scans {what}", after, None
            return
        ends = not pattern or stage > scanned
        if pattern and stage == 0 and not twice:
            yield f"{name}: begins", self._staged(world, change, 1), None
            return
        redis, message = self._direct(world, keys, covered if ends else nothing, pattern)
        for note, agents in self._server.published(world.agents, message):
            there = self._server.changed(world._replace(agents=agents), redis)
            lost = self._staged(there, change, -1)
            yield f"{name}: no reply (direct){note}", lost, None
            if not ends:
                yield f"{name}: announced (direct){note}", self._staged(there, change, 1), None
                continue
            me = agents[owner]._replace(own=newest(agents[owner].own, covered))
            loads = there.loads
            if Defence.DELETE_DROPS not in self._off:
                me, loads = dropped(me, keys), self._agents.soiled(owner, loads, keys)
            told = lost._replace(agents=replaced(agents, owner, me), loads=loads)
            yield f"{name}: returned (direct){note}", told, None

    def _scanned(self, redis: Redis, at: int) -> tuple[Redis, str]:
        """One step of a pattern's scans: the keys, then their stale values."""
        later, key = divmod(at, self._config.keys)
        if self._config.serve_stale and bool(later) != (Defence.KEYS_THEN_STALE in self._off):
            return scripts.drop_stale(redis, 1 << key), f"the stale value of {'ab'[key]}"
        return scripts.unlink(redis, 1 << key), "ab"[key]

    def _direct(
        self, world: World, keys: Mask, covered: Versions, pattern: bool
    ) -> tuple[Redis, Message | None]:
        lsn: int | None = postgres.lsn(world.database) if self._config.lsn_known and not pattern else None
        before = world.redis
        redis, message = scripts.direct(
            before,
            keys,
            covered,
            lsn,
            self._config.log_max,
            same_run=same_run(world, self._config, self._off),
            pattern=pattern,
            skipped=self._server.skipped(world),
            stale=Defence.DIRECT_DROPS_STALE not in self._off,
        )
        if Defence.NEED_LSN_DIRECT in self._off and lsn is not None:
            redis = redis._replace(need_lsn=before.need_lsn)
        if Defence.PRIMARY_UNTIL in self._off:
            redis = redis._replace(primary_until=before.primary_until)
        return redis, message

    def _staged(self, world: World, change: int, stage: int) -> World:
        return world._replace(deletes=replaced(world.deletes, change, stage))

    # --- promises about answers ---------------------------------------------------------------------

    def _answered(
        self, world: World, version: int, floor: int, place: Reads, agent: Agent | None
    ) -> str | None:
        """What is broken when an agent answers with this version."""
        if agent is None or world.failovers or world.flushes or world.evictions:
            return None
        return OWN_WRITE if version < floor else None

    def _believed(self, world: World, version: int, place: Reads, agent: Agent | None) -> str | None:
        """Whether an agent answers with older data of a Redis that it must have noticed to be another."""
        if agent is None or postgres.history(world.database) or world.database.crashes:
            return None
        noticed = agent.link == "away" or agent.met == run(world)
        return ANSWER if noticed and version < agent.processed[place.key] else None

    def _became(self, world: World, number: int, load: Load) -> World:
        return world._replace(loads=replaced(world.loads, number, load))
