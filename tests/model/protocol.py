"""The whole protocol and its promises."""

from collections.abc import Iterable, Iterator

from . import database as postgres
from .checker import Move
from .database import DatabaseSteps
from .defences import Defence
from .following import AgentSteps
from .leading import WorkerSteps
from .reading import OWN_WRITE, TOKEN, ReadSteps
from .server import Server, run
from .world import Agent, Config, Load, World

TIER = "tier: Redis holds less than the stored position promises"
PURGE = "purge: a value from before a purge is still kept as a stale one"
REFRESH = "refresh: a key that was cached when it changed is neither filled nor waiting to be"
NEAR = "near: an attached agent holds less than what it has processed"
SETTLED_TIER = "settled: nothing is left to do, and Redis differs from the database"
SETTLED_NEAR = "settled: nothing is left to do, and a near cache differs from the database"


class Protocol:
    """A model for `checker.explore`: what may happen, and what must never be."""

    def __init__(self, config: Config, off: Iterable[Defence] = ()) -> None:
        self.config, self.off = config, frozenset(off)
        self._database = DatabaseSteps(config, self.off)
        self._server = Server(config, self.off)
        self._workers = WorkerSteps(config, self.off, self._server, self._database)
        self._agents = AgentSteps(config, self.off)
        self._reads = ReadSteps(config, self.off, self._server, self._agents)

    def start(self) -> World:
        """A first start has just been done."""
        config = self.config
        return World(
            database=self._database.start(),
            redis=self._server.start(),
            before=(),
            failovers=0,
            flushes=0,
            evictions=0,
            terms=1,
            kills=0,
            workers=self._workers.start(),
            agents=self._agents.start(),
            loads=(Load(),) * len(config.reads),
            deletes=(0,) * len(config.owners),
        )

    def moves(self, world: World) -> Iterator[Move[World]]:
        """Everything that may happen next."""
        yield from self._database.moves(world)
        yield from self._server.moves(world)
        yield from self._workers.moves(world)
        yield from self._agents.moves(world)
        yield from self._reads.moves(world)

    def broken(self, world: World) -> str | None:
        """The promise that does not hold here."""
        return self._tier(world) or self._near(world) or self._refreshed(world) or self._settled(world)

    def at_rest(self, world: World) -> bool:
        """Nothing is left to do, or within these bounds nobody may lead any more."""
        return self._is_settled(world) or self._workers.leaderless(world)

    # --- promises -----------------------------------------------------------------------------------

    def _tier(self, world: World) -> str | None:
        redis, database = world.redis, world.database
        if (
            redis.position is None
            or redis.database != postgres.history(database)
            or (database.crashes and self._copied)
        ):
            return None
        promised = None
        for key, entry in enumerate(redis.keys):
            if entry is None or entry[0] != "value":
                continue
            if promised is None:
                promised = postgres.versions(database, redis.position, self.config.keys)
            if entry[1] < max(promised[key], redis.invalidated[key]):
                return TIER
        return None

    def _refreshed(self, world: World) -> str | None:
        redis, database = world.redis, world.database
        if redis.owed & ~redis.queue:
            return REFRESH
        if redis.position is None or redis.database != postgres.history(database):
            return None
        for key, stale in enumerate(redis.stale):
            if stale is not None and stale.version < postgres.purges(database, redis.position, key):
                return PURGE
        return None

    @property
    def _copied(self) -> bool:
        return self.config.same_timeline

    def _near(self, world: World) -> str | None:
        redis = world.redis
        history = postgres.history(world.database)
        calm = not (world.failovers or world.flushes or world.evictions or history)
        for agent in world.agents:
            if not agent.attached:
                continue
            current = (agent.epoch, redis.run, redis.database) == (redis.epoch, run(world), history)
            for key, version in enumerate(agent.near):
                if version is None:
                    continue
                if calm and version < agent.own[key]:
                    return OWN_WRITE
                if (calm or current) and version < agent.processed[key]:
                    return NEAR
            if self.config.tokens and self._waited(world, agent):
                return TOKEN
        return None

    def _waited(self, world: World, agent: Agent) -> bool:
        """`wait_for` would return at once, and yet something older is served."""
        database, told = world.database, agent.seen
        if told is None:
            return False
        mask = told.snapshot
        if Defence.TOKEN_DURABLE not in self.off:
            if told.database != postgres.history(database):
                return False
            mask = sum(
                1 << xid
                for xid, began_at in enumerate(database.began_at)
                if mask >> xid & 1 and told.flushed > began_at
            )
        reached = postgres.versions(database, mask, self.config.keys)
        for key, version in enumerate(reached):
            there = world.redis.keys[key]
            held = (agent.near[key], there[1] if there is not None and there[0] == "value" else None)
            if any(old is not None and old < version for old in held):
                return True
        return False

    def _settled(self, world: World) -> str | None:
        if not self._is_settled(world):
            return None
        for key in range(self.config.keys):
            version, entry = postgres.now(world.database, key), world.redis.keys[key]
            if entry is not None and entry[0] == "value" and entry[1] != version:
                return SETTLED_TIER
            if any(agent.near[key] not in (None, version) for agent in world.agents):
                return SETTLED_NEAR
        return None

    def _is_settled(self, world: World) -> bool:
        if any(load.step != "idle" for load in world.loads):
            return False
        if any(world.redis.stale) or (world.redis.queue and any(p.refresher for p in self.config.reads)):
            return False
        return self._agents.at_rest(world) and self._workers.at_rest(world)
