"""An agent that follows the log: `Subscriber` and `Freshness`, one message a step."""

from collections.abc import Iterator

from .checker import Move
from .defences import Defence
from .server import run, same_run
from .world import Agent, Config, Load, Mask, Message, Redis, Versions, World, newest, replaced

Loads = tuple[Load, ...]


class AgentSteps:
    """Every agent's subscription."""

    def __init__(self, config: Config, off: frozenset[Defence]) -> None:
        self._config, self._off = config, off

    def start(self) -> tuple[Agent, ...]:
        """Attached to the first epoch, with an empty near cache."""
        nothing = (0,) * self._config.keys
        return (Agent("following", True, 1, 0, (None,) * self._config.keys, nothing, nothing),) * (
            self._config.agents
        )

    def moves(self, world: World) -> Iterator[Move[World]]:
        """What each subscription may do next."""
        for number, agent in enumerate(world.agents):
            for label, (after, loads) in self._steps(world, number, agent):
                there = world._replace(agents=replaced(world.agents, number, after), loads=loads)
                if after.link == "away" and agent.link != "away":
                    there = there._replace(
                        workers=tuple(
                            worker._replace(follows=worker.follows & ~(1 << number))
                            for worker in there.workers
                        )
                    )
                yield f"agent {number} {label}", there, None

    def _steps(self, world: World, number: int, agent: Agent) -> Iterator[tuple[str, tuple[Agent, Loads]]]:
        loads, off = world.loads, self._off
        if agent.attached and Defence.WATERMARK not in off:
            yield "hears no watermark for max_silence", (agent._replace(attached=False), loads)
        if agent.link != "away":
            lost = agent._replace(link="away", attached=False, known=False, inbox=())
            yield "loses its connection", (lost, loads)
        at_once = Defence.ATTACH_ON_WATERMARK in off or Defence.WATERMARK in off
        if Defence.SUBSCRIBE_FIRST in off:
            if agent.link == "away":
                after, loads, _ = self._replay(world, number, agent, loads)
                yield "replays the log", (after._replace(link="subscribed"), loads)
            elif agent.link == "subscribed":
                yield (
                    "subscribes afterwards",
                    (agent._replace(link="following", attached=at_once, inbox=()), loads),
                )
        elif agent.link == "away":
            yield "subscribes", (agent._replace(link="subscribed"), loads)
        elif agent.link == "subscribed":
            after, loads, _ = self._replay(world, number, agent, loads)
            if not self._config.run_id and Defence.RECONNECT_DROPS not in off:
                redis = world.redis
                after, loads = self._adopt(number, after, loads, redis.epoch, redis.last, redis.invalidated)
            # A watermark counts only after a PONG, and the first PING is sent from here on.
            after = after._replace(inbox=tuple(m for m in after.inbox if m.kind == "invalidation"))
            after = after._replace(link="following", attached=at_once)
            yield f"replays the log up to {after.last}", (after, loads)
            if self._announced(world):
                after = after._replace(attached=True, known=True)
                yield f"replays the log up to {after.last}, and finds a watermark", (after, loads)
        if agent.link == "following" and agent.inbox:
            message = agent.inbox[0]
            after, loads = self._hear(world, number, agent._replace(inbox=agent.inbox[1:]), message)
            what = f"{message.kind} {message.id} of epoch {message.epoch}"
            yield f"hears {what}, last is {after.last}", (after, loads)

    # --- messages -----------------------------------------------------------------------------------

    def _hear(self, world: World, number: int, agent: Agent, message: Message) -> tuple[Agent, Loads]:
        if message.kind == "invalidation":
            return self._invalidate(world, number, agent, message)
        return self._watermark(world, number, agent, message)

    def _invalidate(self, world: World, number: int, agent: Agent, message: Message) -> tuple[Agent, Loads]:
        loads = world.loads
        other = message.epoch != agent.epoch
        if other or (message.prev != agent.last and Defence.PREV not in self._off):
            agent, loads, same = self._replay(world, number, agent, loads)
            if not same and Defence.DOUBT not in self._off:
                return agent._replace(link="away", inbox=()), loads
            if message.epoch != agent.epoch and other:
                return agent, loads  # the state is not of it: nothing of this Redis
        agent, loads = self._drop(number, agent, loads, message.keys)
        if agent.epoch == message.epoch:
            agent = agent._replace(last=message.id, processed=newest(agent.processed, message.invalidated))
        return agent, loads

    def _watermark(self, world: World, number: int, agent: Agent, message: Message) -> tuple[Agent, Loads]:
        loads = world.loads
        if message.epoch != agent.epoch or message.id != agent.last:
            agent, loads, same = self._replay(world, number, agent, loads)
            if not same and Defence.DOUBT not in self._off:
                return agent._replace(link="away", inbox=()), loads
        late = self._config.run_id or Defence.READ_AFTERWARDS in self._off
        known = late or agent.known or message.follows >> number & 1
        if agent.epoch == message.epoch and agent.last >= message.id and known:
            agent = agent._replace(attached=True, known=True, seen=message.told)
        return agent, loads

    def _replay(self, world: World, number: int, agent: Agent, loads: Loads) -> tuple[Agent, Loads, bool]:
        """``replay.lua`` and what follows from it: one atomic read of epoch, newest id and log.

        The last one of the result: whether it is still the log that was followed.
        """
        redis = world.redis
        same = self._stands(world) and redis.epoch == agent.epoch and redis.last >= agent.last
        known = same and self._announced(world)
        agent = agent._replace(met=run(world))
        after, loads = self._caught_up(redis, number, agent, loads)
        return after._replace(known=known, attached=after.attached and known), loads, same

    def _stands(self, world: World) -> bool:
        if not self._config.run_id:
            return False  # it cannot be told
        return same_run(world, self._config, self._off) or Defence.REPLAY_RUN in self._off

    def _announced(self, world: World) -> bool:
        """Whether the state holds a watermark of its own run and epoch; its age is left to ``opening.py``."""
        redis = world.redis
        own = redis.read_epoch == redis.epoch or Defence.READ_EPOCH in self._off
        return self._stands(world) and bool(redis.epoch) and bool(redis.read_epoch) and own

    def _caught_up(self, redis: Redis, number: int, agent: Agent, loads: Loads) -> tuple[Agent, Loads]:
        if redis.epoch != agent.epoch and Defence.REPLAY_EPOCH not in self._off:
            return self._adopt(number, agent, loads, redis.epoch, redis.last, redis.invalidated)
        if redis.last < agent.last and Defence.LOG_BEHIND not in self._off:
            return self._adopt(number, agent, loads, redis.epoch, redis.last, redis.invalidated)
        new = [entry for entry in redis.log if entry.id > agent.last]
        if (
            redis.last > agent.last
            and len(new) < redis.last - agent.last
            and Defence.REPLAY_COMPLETE not in self._off
        ):
            return self._adopt(number, agent, loads, redis.epoch, redis.last, redis.invalidated)
        for entry in new:
            agent, loads = self._drop(number, agent, loads, entry.keys)
            agent = agent._replace(processed=newest(agent.processed, entry.invalidated))
        return agent._replace(last=redis.last), loads

    def _adopt(
        self, number: int, agent: Agent, loads: Loads, epoch: int, last: int, invalidated: Versions
    ) -> tuple[Agent, Loads]:
        """`Freshness.adopted`: nothing remembered counts, and a watermark is needed to be attached again."""
        agent, loads = self._flush(number, agent, loads)
        agent = agent._replace(
            epoch=epoch,
            last=last,
            processed=newest(agent.processed, invalidated),
            attached=False,
            known=False,
            seen=None,
        )
        return agent, loads

    # --- the near tier ------------------------------------------------------------------------------

    def _flush(self, number: int, agent: Agent, loads: Loads) -> tuple[Agent, Loads]:
        agent = agent._replace(near=(None,) * self._config.keys)
        if Defence.FLUSH_SOILS in self._off:
            return agent, loads
        return agent, self.soiled(number, loads, -1)

    def _drop(self, number: int, agent: Agent, loads: Loads, keys: Mask) -> tuple[Agent, Loads]:
        return dropped(agent, keys), self.soiled(number, loads, keys)

    def soiled(self, number: int, loads: Loads, keys: Mask) -> Loads:
        """`Marks.soil`: the reads of these keys that are in flight in this agent."""
        if not keys or Defence.MARKS in self._off:
            return loads
        places = self._config.reads
        return tuple(
            load._replace(clean=False)
            if load.step != "idle" and places[at].agent == number and keys >> places[at].key & 1
            else load
            for at, load in enumerate(loads)
        )

    def at_rest(self, world: World) -> bool:
        """Every agent is attached and has heard everything."""
        redis = world.redis
        for agent in world.agents:
            if agent.link != "following" or not agent.attached or agent.inbox:
                return False
            if Defence.WATERMARK not in self._off and (agent.epoch, agent.last) != (redis.epoch, redis.last):
                return False
        return True


def dropped(agent: Agent, keys: Mask) -> Agent:
    """The near cache without these keys."""
    if not keys:
        return agent
    near = tuple(None if keys >> key & 1 else version for key, version in enumerate(agent.near))
    return agent._replace(near=near)
