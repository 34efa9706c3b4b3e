"""What happens to Redis by itself, and what everybody's steps share: failovers, fresh ids, publishing."""

from collections.abc import Iterator
from itertools import product

from . import scripts
from .checker import Move
from .defences import Defence
from .world import Agent, Config, Mask, Message, Redis, Worker, World

OUT_OF_REACH = 10
"""More entries than a worker writes here."""
STALE_BOUND = "stale: a stale value outlives the bound that began with the change that made it stale"


def run(world: World) -> int:
    """The live server's run: every failover makes another one."""
    return world.failovers


def same_run(world: World, config: Config, off: frozenset[Defence]) -> bool:
    """Whether the epoch belongs to the live server, as far as that can be told."""
    if not config.run_id:
        return True
    apart = run(world) - world.redis.run
    return apart % 2 == 0 if Defence.RUN_UNIQUE in off else apart == 0


class Server:
    """Redis and its channel."""

    def __init__(self, config: Config, off: frozenset[Defence]) -> None:
        self._config, self._off = config, off

    def start(self) -> Redis:
        """The state after a first start: everything is applied, and nothing was logged yet."""
        nothing = (0,) * self._config.keys
        fence = 1 if self._config.workers > 1 else 0
        stale = (None,) * self._config.keys if self._config.refreshed else ()
        keys = (None,) * self._config.keys
        stamp = 0 if self._config.run_id else 1
        return Redis(keys, 1, 0, 0, fence=fence, invalidated=nothing, stale=stale, read_epoch=1, stamp=stamp)

    def moves(self, world: World) -> Iterator[Move[World]]:
        """Evictions, expiry and every kind of loss."""
        redis, config = world.redis, self._config
        for key, entry in enumerate(redis.keys):
            if entry is not None:
                gone = redis._replace(keys=(*redis.keys[:key], None, *redis.keys[key + 1 :]))
                yield f"{'ab'[key]} expires or is evicted", self.changed(world, gone), None
        for key, stale in enumerate(redis.stale):
            if stale is not None:
                gone = scripts.drop_stale(redis, 1 << key)
                late = STALE_BOUND if stale.until > stale.since else None
                yield f"the bound of serve_stale of {'ab'[key]} is over", self.changed(world, gone), late
        if world.failovers < config.failovers:
            left = config.failovers - world.failovers - 1
            for back, old in enumerate(world.before):
                before = world.before[back + 1 :] if left else ()
                yield (
                    f"failover that loses the last {back + 1} writes",
                    self._restamped(world._replace(redis=old, before=before, failovers=world.failovers + 1)),
                    None,
                )
        empty = self.start()
        stateless = empty._replace(epoch=0, run=0, position=None, fence=0, read_epoch=0, stamp=0)
        if world.flushes < config.flushes:
            yield "FLUSHALL", self.changed(world._replace(flushes=world.flushes + 1), stateless), None
        if world.evictions < config.state_evictions and redis.epoch:
            lost = stateless._replace(
                keys=redis.keys, log=redis.log, stale=redis.stale, queue=redis.queue, owed=redis.owed
            )
            yield (
                "the state is evicted",
                self.changed(world._replace(evictions=world.evictions + 1), lost),
                None,
            )

    def changed(self, world: World, redis: Redis) -> World:
        """One atomic change of Redis; what it was before is kept while a failover may go back to it."""
        if redis == world.redis:
            return world
        if world.failovers < self._config.failovers:
            return self._restamped(world._replace(redis=redis, before=(world.redis, *world.before[:1])))
        return self._restamped(world._replace(redis=redis))

    def published(
        self, agents: tuple[Agent, ...], message: Message | None
    ) -> list[tuple[str, tuple[Agent, ...]]]:
        """Every way in which a message may reach some agents and not others."""
        if message is None or not agents:
            return [("", agents)]
        ways: list[tuple[Agent, ...]] = []
        for agent in agents:
            if agent.link == "away":
                ways.append((agent,))
            elif len(agent.inbox) >= self._config.inbox:
                ways.append((agent if self._config.silent else _cut_off(agent),))
            else:
                heard = agent._replace(inbox=(*agent.inbox, message))
                ways.append((heard, agent) if self._config.silent else (heard,))
        found = []
        for after in product(*ways):
            lost = [str(number) for number, agent in enumerate(after) if agent is agents[number]]
            found.append((f" (lost to agent {','.join(lost)})" if lost else "", after))
        return found

    def stamped(self, world: World, redis: Redis, worker: Worker) -> tuple[Redis, Worker]:
        """A worker's script leaves a stamp that nothing alive remembers, and the worker expects it."""
        if self._config.run_id:
            return redis, worker
        used = {state.stamp for state in (world.redis, *world.before)}
        used.update(other.stamp for other in world.workers)
        stamp = next(number for number in range(1, 99) if number not in used)
        return redis._replace(stamp=stamp), worker._replace(stamp=stamp)

    def _restamped(self, world: World) -> World:
        """The same world: of stamps it only counts which are equal, so they are numbered as they appear."""
        if self._config.run_id:
            return world
        names = {0: 0}
        for redis in (world.redis, *world.before):
            names.setdefault(redis.stamp, len(names))
        for worker in world.workers:
            names.setdefault(worker.stamp, len(names))
        return world._replace(
            redis=world.redis._replace(stamp=names[world.redis.stamp]),
            before=tuple(old._replace(stamp=names[old.stamp]) for old in world.before),
            workers=tuple(worker._replace(stamp=names[worker.stamp]) for worker in world.workers),
        )

    def following(self, world: World) -> Mask:
        """The agents that are connected, where a watermark must say so."""
        if self._config.run_id or Defence.READ_AFTERWARDS in self._off:
            return 0
        return sum(1 << number for number, agent in enumerate(world.agents) if agent.link != "away")

    def skipped(self, world: World) -> int:
        """How many ids an agent's own entry skips, so that its id is none that was lost."""
        if self._config.run_id or Defence.SKIPPED_IDS in self._off:
            return 0
        used = {entry.id for redis in world.before for entry in redis.log}
        used.update(agent.last for agent in world.agents)
        used.update(message.id for agent in world.agents for message in agent.inbox)
        return max([world.redis.last, *used]) - world.redis.last + OUT_OF_REACH

    def fresh_epoch(self, world: World) -> int:
        """The smallest number that nothing alive remembers."""
        if Defence.EPOCH_RANDOM in self._off:
            return world.redis.epoch + 1
        states = (world.redis, *world.before)
        used = {number for redis in states for number in (redis.epoch, redis.read_epoch)}
        for agent in world.agents:
            used.add(agent.epoch)
            used.update(message.epoch for message in agent.inbox)
        for worker in world.workers:
            if worker.known is not None:
                used.add(worker.known.epoch)
        return next(number for number in range(1, 99) if number not in used)

    def fresh_token(self, world: World) -> int:
        """The smallest number that no lease and no read bears."""
        used = {load.token for load in world.loads}
        for redis in (world.redis, *world.before):
            # The last one is the token, also of a value that carries a lease.
            used.update(
                entry[-1]
                for entry in redis.keys
                if entry is not None and (entry[0] != "value" or len(entry) == 3)
            )
        return next(number for number in range(1, 99) if number not in used)


def _cut_off(agent: Agent) -> Agent:
    return agent._replace(link="away", attached=False, known=False, inbox=())
