"""The worker: `Pipeline`, `Applier` and `Leadership`, one script or one read a step."""

from collections.abc import Iterator

from . import database as postgres
from . import scripts
from .checker import Move
from .database import DatabaseSteps
from .defences import Defence
from .server import Server, run, same_run
from .world import Agent, Config, Known, Mask, Page, Redis, Seen, Worker, World, replaced


class WorkerSteps:
    """Every worker, leading or not; what a step needs is in the world, nothing is remembered here."""

    def __init__(
        self, config: Config, off: frozenset[Defence], server: Server, database: DatabaseSteps
    ) -> None:
        self._config, self._off = config, off
        self._server, self._database = server, database

    def start(self) -> tuple[Worker, ...]:
        """The first one leads."""
        others = (Worker("standby"),) * (self._config.workers - 1)
        return (Worker("begin", 1 if others else 0), *others)

    def moves(self, world: World) -> Iterator[Move[World]]:
        """What each worker may do next."""
        for number, worker in enumerate(world.workers):
            name = f"worker {number}" if len(world.workers) > 1 else "worker"
            if worker.step not in ("begin", "standby"):
                yield f"{name} is killed and starts again", self._lost(world, number), None
            step = getattr(self, f"_{worker.step}")
            for label, after, broken in step(world, number, worker):
                yield f"{name} {label}", after, broken

    def _lost(self, world: World, number: int) -> World:
        """Whatever is in memory is gone: after a crash, a refusal, a lost reply or a lost lease."""
        alone = len(world.workers) == 1
        after = Worker("begin") if alone else Worker("standby")
        return world._replace(workers=replaced(world.workers, number, after))

    def _refused(self, world: World, number: int, worker: Worker) -> World:
        if world.redis.fence != worker.fence and Defence.FENCE not in self._off:
            return self._lost(world, number)
        return world._replace(workers=replaced(world.workers, number, Worker("begin", worker.fence)))

    # --- leadership and the state -------------------------------------------------------------------

    def _standby(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        if world.terms < self._config.terms:
            # A lease may run out at any moment: its holder may just be slow.
            redis = world.redis._replace(fence=world.redis.fence + 1)
            leading = Worker("begin", redis.fence)
            after = world._replace(workers=replaced(world.workers, number, leading), terms=world.terms + 1)
            yield f"leads with fence {redis.fence} (acquire)", self._server.changed(after, redis), None

    def _begin(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known = scripts.state(world.redis, run(world))
        if world.redis.fence != worker.fence and Defence.FENCE not in self._off:
            yield "sees another fence (state)", self._lost(world, number), None
        elif known.position is None or not known.epoch:
            yield "sees no position (state)", self._first_read(world, number, worker, known), None
        elif not same_run(world, self._off) and self._notices_run():
            after = worker._replace(step="new_epoch", known=known)
            yield "sees another run (state)", self._became(world, number, after), None
        else:
            yield "reads the state", self._became(world, number, worker._replace(step="ready", known=known)), None

    def _notices_run(self) -> bool:
        return Defence.NEW_EPOCH not in self._off and Defence.RUN_STORED not in self._off

    def _new_epoch(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        if scripts.refused(world.redis, run(world), worker, self._off, epoch=False):
            yield "is refused (new_epoch)", self._refused(world, number, worker), None
            return
        redis, message = scripts.new_epoch(world.redis, run(world), self._server.fresh_epoch(world))
        for note, agents in self._server.published(world.agents, message):
            after = world._replace(workers=replaced(world.workers, number, Worker("begin", worker.fence)))
            label = f"begins epoch {redis.epoch} (new_epoch){note}"
            yield label, self._server.changed(after._replace(agents=agents), redis), None

    # --- cycles -------------------------------------------------------------------------------------

    def _ready(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known = worker.known
        assert known is not None and known.position is not None
        if self._restart_seen(world, known):
            after = worker._replace(step="new_epoch")
            yield "remembers another run", self._became(world, number, after), None
            return
        if not self._database.counts(world.database, known.position, known.database, known.flushed):
            yield "finds that its position does not count", self._first_read(world, number, worker, known), None
        elif Defence.NEED_LSN_AFTER_READ in self._off and worker.page is None:
            early = Page(0, 0, 0, False, False, postgres.lsn(world.database), 0)
            yield "reads the LSN", self._became(world, number, worker._replace(page=early)), None
        else:
            page = self._database.read(world.database, known.position)
            if worker.page is not None:
                page = page._replace(lsn=worker.page.lsn)
            yield from self._planned(world, number, worker._replace(page=None), known, page)
        yield from self._watermark(world, number, worker)

    def _restart_seen(self, world: World, known: Known) -> bool:
        """Without the run beside the epoch, only a worker that lived through a failover notices it."""
        return Defence.RUN_STORED in self._off and known.live_run != run(world)

    def _planned(
        self, world: World, number: int, worker: Worker, known: Known, page: Page
    ) -> Iterator[Move[World]]:
        primary = known.primary_until
        if Defence.PRIMARY_UNTIL_READ_FIRST in self._off:
            primary = world.redis.primary_until
        seen = Seen(page.snapshot if self._config.tokens else 0, page.lsn if primary else 0, primary)
        todo = self._scripts(page, known)
        if todo:
            after = worker._replace(step="apply", page=page, scripts=todo, seen=seen)
            yield f"reads entries up to {page.position:b}", self._became(world, number, after), None
        elif worker.seen != seen:
            after = worker._replace(step="ready", seen=seen)
            yield "reads nothing new", self._became(world, number, after), None

    def _scripts(self, page: Page, known: Known) -> tuple[tuple[str, int], ...]:
        """The scripts of one page: drops of patterns, then removals, of which the last stores the position."""
        if not (page.keys or page.others or page.whole or page.position != known.position or page.more):
            return ()
        every = (1 << self._config.keys) - 1
        drops = [("need_lsn", 0)] if self._config.replica else []
        drops += [("drop", 1 << key) for key in range(self._config.keys)]
        names = [1 << key for key in range(self._config.keys) if page.keys >> key & 1]
        names += [0] if page.others else []
        size = self._config.script_keys
        removals = [("apply", sum(names[first : first + size])) for first in range(0, len(names), size)]
        if page.whole:
            removals.append(("apply_pattern", every))
        if page.position != known.position:
            name, keys = removals.pop() if removals else ("apply", 0)
            removals.append((f"{name}_last", keys))
        todo = [*drops, *removals] if page.whole else removals
        if page.whole and Defence.DROP_LAST in self._off:
            todo = [*removals, *drops]
        return tuple(todo)

    def _apply(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        (name, keys), rest = worker.scripts[0], worker.scripts[1:]
        page, known = worker.page, worker.known
        assert page is not None and known is not None
        pattern = name in ("drop", "need_lsn")
        if scripts.refused(world.redis, run(world), worker, self._off, epoch=not pattern) or (
            pattern and known.live_run != run(world)
        ):
            yield f"is refused ({name})", self._refused(world, number, worker), None
            return
        if pattern:
            redis = self._drop(world.redis, name, keys, page)
            after = worker._replace(scripts=rest) if rest else self._done(worker, page)
            yield f"drops {keys:b} ({name})", self._server.changed(self._became(world, number, after), redis), None
            return
        if name.startswith("split"):
            yield from self._second_half(world, number, worker)
            return
        last = name.endswith("_last")
        if last and Defence.POSITION_WITH_EFFECTS in self._off:
            redis = scripts.store_position(world.redis, page)
            half = worker._replace(
                known=known._replace(position=page.position), scripts=((f"split_{name}", keys), *rest)
            )
            yield "stores the position first", self._server.changed(self._became(world, number, half), redis), None
            return
        redis, message = self._removed(world, name, keys, page, last=last)
        if Defence.PUBLISH_AFTER in self._off and world.agents:
            half = worker._replace(scripts=((f"split_{name}", keys), *rest))
            for note, agents in self._server.published(world.agents, message):
                yield (
                    f"announces {keys:b}{note}",
                    self._became(world, number, half)._replace(agents=agents),
                    None,
                )
            return
        moved = last or (Defence.POSITION_LAST in self._off)
        if moved:
            redis = scripts.store_position(redis, page)
        after = worker._replace(scripts=rest, known=scripts.state(redis, known.live_run)._replace(
            epoch=known.epoch, run=known.run, position=page.position if moved else known.position,
            primary_until=known.primary_until))  # fmt: skip
        if not rest:
            after = self._done(after, page)
        for note, agents in self._server.published(world.agents, message):
            label = f"removes {keys:b} as id {redis.last}{', stores the position' if moved else ''} ({name}){note}"
            yield label, self._server.changed(self._became(world, number, after)._replace(agents=agents), redis), None

    def _drop(self, redis: Redis, name: str, keys: Mask, page: Page) -> Redis:
        if name == "drop":
            return scripts.unlink(redis, keys)
        if Defence.NEED_LSN_BEFORE_DROP in self._off:
            return redis
        return scripts.raise_need_lsn(redis, page.lsn)

    def _removed(  # type: ignore[no-untyped-def]
        self, world: World, name: str, keys: Mask, page: Page, *, last: bool
    ):
        redis = world.redis
        reached = postgres.versions(world.database, page.position, self._config.keys)
        told = tuple(version if keys >> key & 1 else 0 for key, version in enumerate(reached))
        if "pattern" not in name:
            redis = scripts.unlink(redis, keys)
        if last or Defence.NEED_LSN_EACH_SCRIPT not in self._off:
            redis = scripts.raise_need_lsn(redis, page.lsn)
        if not keys and not page.others:
            return redis, None
        return scripts.append(redis, keys, told, self._config.log_max)

    def _second_half(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        """What is left of a script that was cut in two by a defence switched off."""
        (name, keys), rest = worker.scripts[0], worker.scripts[1:]
        page, known = worker.page, worker.known
        assert page is not None and known is not None
        redis, message = self._removed(world, name, keys, page, last=True)
        redis = scripts.store_position(redis, page)
        if Defence.PUBLISH_AFTER in self._off:
            message = None
        after = worker._replace(scripts=rest, known=known._replace(position=page.position))
        after = after if rest else self._done(after, page)
        for note, agents in self._server.published(world.agents, message):
            yield (
                f"does the rest of {name[6:]}{note}",
                self._server.changed(self._became(world, number, after)._replace(agents=agents), redis),
                None,
            )

    def _done(self, worker: Worker, page: Page) -> Worker:
        """A page is applied: the next one, or the cycle is over."""
        if page.more:
            return worker._replace(step="next_page", scripts=())
        return worker._replace(step="ready", page=None, scripts=())

    def _next_page(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        page, known = worker.page, worker.known
        assert page is not None and known is not None and known.position is not None
        if not self._database.counts(world.database, known.position, known.database, known.flushed):
            if Defence.LATER_PAGES not in self._off:
                label = "finds on a later page that its position does not count"
                yield label, self._first_read(world, number, worker, known), None
                return
            if world.database.purged & ~known.position:
                # What is gone is not delivered; the read answers with the position it was asked for.
                after = worker._replace(step="ready", page=None)
                yield "takes a purged page for the last one", self._became(world, number, after), None
                return
        following = self._database.read(
            world.database, known.position, upto=page.snapshot, beyond=page.last_xid
        )
        yield from self._planned(world, number, worker._replace(step="ready"), known, following)
        if not self._scripts(following, known):
            after = worker._replace(step="ready", page=None)
            yield "reads an empty last page", self._became(world, number, after), None

    # --- watermarks ---------------------------------------------------------------------------------

    def _watermark(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        known, seen, redis = worker.known, worker.seen, world.redis
        assert known is not None
        if seen is None or Defence.WATERMARK in self._off:
            return
        if scripts.refused(redis, run(world), worker, self._off, epoch=True):
            yield "is refused (watermark)", self._refused(world, number, worker), None
            return
        redis, message = scripts.say(redis, seen, tokens=self._config.tokens)
        said = worker._replace(
            known=known._replace(primary_until=redis.primary_until), seen=seen._replace(primary_until=0, lsn=0)
        )
        told = tuple(self._hears(agent) for agent in world.agents)
        if redis == world.redis and said == worker and not any(told):
            return
        agents = tuple(
            agent._replace(inbox=(*agent.inbox, message)) if hears else agent
            for agent, hears in zip(world.agents, told, strict=True)
        )
        # To each alone, so that losing it is among the possibilities.
        ways = {agents, *(replaced(world.agents, n, agents[n]) for n in range(len(agents)))}
        if redis != world.redis or said != worker:
            ways.add(world.agents)
        ways = ways if redis != world.redis or said != worker else ways - {world.agents}
        for after in sorted(ways, key=repr):
            there = self._became(world, number, said)._replace(agents=after)
            yield f"says {redis.last} (watermark)", self._server.changed(there, redis), None

    def _hears(self, agent: Agent) -> bool:
        """One watermark at a time is enough on the way to an agent."""
        return (
            agent.link != "away"
            and len(agent.inbox) < self._config.inbox
            and not any(message.kind == "watermark" for message in agent.inbox)
        )

    # --- recovery -----------------------------------------------------------------------------------

    def _first_read(self, world: World, number: int, worker: Worker, known: Known) -> World:
        page = self._database.first_read(world.database)
        every = [("drop", 1 << key) for key in range(self._config.keys)]
        if Defence.RECOVER_DROPS in self._off:
            every = []
        if self._config.replica:
            every = [("need_lsn", 0), *every]
        if Defence.RECOVER_SNAPSHOT_FIRST in self._off:
            every = [*every, ("snapshot", 0)]
        after = Worker("recover", worker.fence, known, page, (*every, ("recover", 0)))
        return self._became(world, number, after)

    def _recover(self, world: World, number: int, worker: Worker) -> Iterator[Move[World]]:
        (name, keys), rest = worker.scripts[0], worker.scripts[1:]
        page, known, redis = worker.page, worker.known, world.redis
        assert page is not None and known is not None
        if name == "snapshot":
            page = self._database.first_read(world.database)
            after = worker._replace(page=page, scripts=rest, known=known._replace(live_run=run(world)))
            yield "takes the snapshot", self._became(world, number, after), None
            return
        other = known.live_run != run(world) and Defence.RECOVER_RUN not in self._off
        if other or scripts.refused(redis, run(world), worker, self._off, epoch=False):
            yield f"is refused ({name} of recovery)", self._refused(world, number, worker), None
        elif name != "recover":
            after = self._became(world, number, worker._replace(scripts=rest))
            redis = self._drop(redis, name, keys, page)
            yield f"drops {keys:b} ({name} of recovery)", self._server.changed(after, redis), None
        else:
            reached = postgres.versions(world.database, page.position, self._config.keys)
            redis, message = scripts.recover(
                redis, run(world), self._server.fresh_epoch(world), page, reached, tokens=self._config.tokens
            )
            after = self._became(world, number, Worker("begin", worker.fence))
            for note, agents in self._server.published(world.agents, message):
                label = f"recovers at {page.position:b} in epoch {redis.epoch}{note}"
                yield label, self._server.changed(after._replace(agents=agents), redis), None

    def _became(self, world: World, number: int, worker: Worker) -> World:
        return world._replace(workers=replaced(world.workers, number, worker))

    # --- rest ---------------------------------------------------------------------------------------

    def at_rest(self, world: World) -> bool:
        """A leader has applied everything; the others stand by."""
        if len(world.workers) > 1 and world.terms == self._config.terms:
            leaders = [worker for worker in world.workers if worker.fence == world.redis.fence]
            if not any(worker.step != "standby" for worker in leaders):
                return False
        return any(self._caught_up(world, worker) for worker in world.workers) and all(
            worker.step in ("ready", "standby") for worker in world.workers
        )

    def _caught_up(self, world: World, worker: Worker) -> bool:
        known, redis = worker.known, world.redis
        if worker.step != "ready" or known is None or redis.position is None or not redis.epoch:
            return False
        if scripts.refused(redis, run(world), worker, frozenset({Defence.EPOCH_COMPARED}), epoch=False):
            return False
        if known.epoch != redis.epoch or (self._notices_run() and not same_run(world, self._off)):
            return False
        if not self._database.counts(world.database, redis.position, redis.database, redis.flushed):
            return False
        return not self._scripts(self._database.read(world.database, redis.position), known)
