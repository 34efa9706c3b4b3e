"""A worker around its batches: `Leadership`, `Pipeline._begin`, recovery, and watermarks."""

from collections.abc import Iterator

from . import database as postgres
from . import scripts
from .applying import Batches, became, lost, refused
from .checker import Move
from .database import DatabaseSteps
from .defences import Defence
from .server import Server, run, same_run
from .world import Agent, Config, Known, Worker, World, replaced


class WorkerSteps:
    """Every worker, leading or not; what a step needs is in the world, nothing is remembered here."""

    def __init__(
        self, config: Config, off: frozenset[Defence], server: Server, database: DatabaseSteps
    ) -> None:
        self._config, self._off = config, off
        self._server, self._database = server, database
        self._batches = Batches(config, off, server, database)
        self._steps = {
            "standby": self._standby,
            "begin": self._begin,
            "new_epoch": self._new_epoch,
            "ready": self._ready,
            "apply": self._batches.apply,
            "next_page": self._next_page,
            "recover": self._recover,
        }

    def start(self) -> tuple[Worker, ...]:
        """The first one leads."""
        others = (Worker("standby"),) * (self._config.workers - 1)
        stamp = 0 if self._config.run_id else 1
        return (Worker("begin", 1 if others else 0, stamp=stamp), *others)

    def moves(self, world: World) -> Iterator[Move[World]]:
        """What each worker may do next."""
        most = self._config.kills
        for number, worker in enumerate(world.workers):
            name = f"worker {number}" if len(world.workers) > 1 else "worker"
            if worker.step not in ("begin", "standby") and (most is None or world.kills < most):
                killed = lost(world, number)
                if most is not None:
                    killed = killed._replace(kills=world.kills + 1)
                yield f"{name} is killed", killed, None
            for label, after, broken in self._steps[worker.step](world, number, worker):
                yield f"{name} {label}", after, broken

    # --- leadership and the state -------------------------------------------------------------------

    def _standby(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        if world.terms < self._config.terms:
            # A lease may run out at any moment: its holder may just be slow.
            redis = world.redis._replace(fence=world.redis.fence + 1)
            after = became(world, number, Worker("begin", redis.fence))._replace(terms=world.terms + 1)
            yield f"leads with fence {redis.fence} (acquire)", self._server.changed(after, redis), None

    def _begin(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known = scripts.state(world.redis, run(world))
        if world.redis.fence != worker.fence and Defence.FENCE not in self._off:
            yield "sees another fence (state)", lost(world, number), None
        elif known.position is None or not known.epoch:
            worker = worker._replace(stamp=world.redis.stamp)
            yield "sees no position (state)", self._first_read(world, number, worker, known), None
        elif not self._own_history(world, worker):
            after = worker._replace(step="new_epoch", known=known)
            if not self._config.run_id:
                after = after._replace(stamp=world.redis.stamp)
            yield "sees another run (state)", became(world, number, after), None
        else:
            after = worker._replace(step="ready", known=known, stamp=world.redis.stamp)
            yield "reads the state", became(world, number, after), None

    def _own_history(self, world: World, worker: Worker) -> bool:
        """Whether the epoch goes on: the same run, or without a run id what this worker left there."""
        if self._config.run_id:
            return same_run(world, self._config, self._off) or not self._looks_at_run()
        return world.redis.stamp == worker.stamp or Defence.BEGIN_EPOCH in self._off

    def _looks_at_run(self) -> bool:
        return not self._off & {Defence.NEW_EPOCH, Defence.RUN_STORED}

    def _new_epoch(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        same = same_run(world, self._config, self._off)
        if scripts.refused(world.redis, worker, self._off, same_run=same, epoch=False):
            yield "is refused (new_epoch)", refused(world, number, worker, self._off), None
            return
        redis, message = scripts.new_epoch(world.redis, run(world), self._server.fresh_epoch(world))
        redis, began = self._server.stamped(world, redis, Worker("begin", worker.fence))
        after = became(world, number, began)
        for note, agents in self._server.published(world.agents, message):
            there = self._server.changed(after._replace(agents=agents), redis)
            yield f"begins epoch {redis.epoch} (new_epoch){note}", there, None

    # --- cycles -------------------------------------------------------------------------------------

    def _ready(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known = worker.known
        assert known is not None
        if Defence.RUN_STORED in self._off and known.live_run != run(world):
            # Only a worker that lived through the failover notices it.
            yield "remembers another run", became(world, number, worker._replace(step="new_epoch")), None
            return
        if not self._batches.counts(world, known):
            after = self._first_read(world, number, worker, known)
            yield "finds that its position does not count", after, None
        else:
            yield from self._batches.read(world, number, worker)
        if worker.seen is not None and Defence.WATERMARK not in self._off:
            yield from self._watermark(world, number, worker)

    def _next_page(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known = worker.known
        assert known is not None
        if not self._batches.counts(world, known) and Defence.LATER_PAGES not in self._off:
            after = self._first_read(world, number, worker, known)
            yield "finds, a page later, that its position does not count", after, None
        else:
            yield from self._batches.next_page(world, number, worker)

    def _watermark(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known, seen = worker.known, worker.seen
        assert known is not None
        assert seen is not None
        same = same_run(world, self._config, self._off)
        if scripts.refused(world.redis, worker, self._off, same_run=same, epoch=True):
            yield "is refused (watermark)", refused(world, number, worker, self._off), None
            return
        late = Defence.PRIMARY_UNTIL_READ_FIRST in self._off
        redis, message = scripts.publish_seen(world.redis, known.epoch, seen, any_primary=late)
        said = worker._replace(
            known=known._replace(primary_until=redis.primary_until),
            seen=seen._replace(primary_until=0, lsn=0),
        )
        redis, said = self._server.stamped(world, redis, said)
        message = message._replace(follows=worker.follows)
        there = self._server.changed(became(world, number, said), redis)
        if there != world:
            yield "says a watermark that nobody hears", there, None
        for at, agent in enumerate(world.agents):
            if self._hears(agent):  # others miss it: they hear the next one, or none
                heard = agent._replace(inbox=(*agent.inbox, message))
                agents = replaced(world.agents, at, heard)
                yield f"says {message.id} to agent {at} (watermark)", there._replace(agents=agents), None

    def _hears(self, agent: Agent) -> bool:
        """One watermark at a time is enough on the way to an agent."""
        return (
            agent.link != "away"
            and len(agent.inbox) < self._config.inbox
            and not any(message.kind == "watermark" for message in agent.inbox)
        )

    # --- recovery -----------------------------------------------------------------------------------

    def _first_read(self, world: World, number: int, worker: Worker, known: Known) -> World:
        """`Applier.recover`: the snapshot first, then the drops, then ``recover.lua``."""
        todo = () if Defence.RECOVER_DROPS in self._off else self._batches.drops()
        if Defence.RECOVER_SNAPSHOT_FIRST in self._off:
            todo = (*todo, ("snapshot", 0))
        page = self._database.first_read(world.database)
        todo = (*todo, ("recover", 0))
        after = Worker("recover", worker.fence, known, page, todo, stamp=worker.stamp)
        return became(world, number, after)

    def _recover(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        (name, keys), rest = worker.scripts[0], worker.scripts[1:]
        page, known, redis = worker.page, worker.known, world.redis
        assert page is not None
        assert known is not None
        if name == "snapshot":
            page = self._database.first_read(world.database)
            after = worker._replace(page=page, scripts=rest, known=known._replace(live_run=run(world)))
            yield "takes the snapshot", became(world, number, after), None
            return
        other = self._config.run_id and known.live_run != run(world) and Defence.RECOVER_RUN not in self._off
        if other or scripts.refused(redis, worker, self._off, same_run=True, epoch=False):
            yield f"is refused ({name} of recovery)", refused(world, number, worker, self._off), None
        elif name != "recover":
            redis, after = self._server.stamped(
                world, self._batches.dropped(redis, name, keys, page), worker._replace(scripts=rest)
            )
            there = self._server.changed(became(world, number, after), redis)
            yield f"drops {keys:b} ({name} of recovery)", there, None
        else:
            reached = postgres.versions(world.database, page.position, self._config.keys)
            epoch = self._server.fresh_epoch(world)
            redis, message = scripts.recover(redis, run(world), epoch, page, reached)
            redis, began = self._server.stamped(world, redis, Worker("begin", worker.fence))
            again = became(world, number, began)
            for note, agents in self._server.published(world.agents, message):
                there = self._server.changed(again._replace(agents=agents), redis)
                yield f"recovers at {page.position:b} in epoch {epoch} (recover){note}", there, None

    # --- rest ---------------------------------------------------------------------------------------

    def at_rest(self, world: World) -> bool:
        """A leader has applied everything; the others stand by, or do not know yet that they should."""
        return all(worker.step in ("ready", "standby") for worker in world.workers) and any(
            self._caught_up(world, worker) for worker in world.workers
        )

    def _caught_up(self, world: World, worker: Worker) -> bool:
        known, redis = worker.known, world.redis
        if worker.step != "ready" or known is None or redis.position is None or known.epoch != redis.epoch:
            return False
        if redis.fence != worker.fence and Defence.FENCE not in self._off:
            return False
        if self._looks_at_run() and not same_run(world, self._config, self._off):
            return False
        if redis.stamp != worker.stamp and Defence.STAMP not in self._off:
            return False
        current = known._replace(position=redis.position, database=redis.database, flushed=redis.flushed)
        if not self._batches.counts(world, current):
            return False
        page = self._database.read(world.database, redis.position)
        return not self._batches.scripts(page, current)

    def leaderless(self, world: World) -> bool:
        """Within these bounds nobody may lead any more."""
        return self._config.workers > 1 and world.terms == self._config.terms and not any(
            worker.step != "standby" and worker.fence == world.redis.fence for worker in world.workers
        )  # fmt: skip
