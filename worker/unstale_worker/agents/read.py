"""Read the reports of the agents from Redis; changes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import MessageError
from unstale.protocol.agent_reports import AgentReport, Counted, Shape, decode_report
from unstale.protocol.key_watches import Kept
from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale_worker.redis.applier import unavailable

MOST_AGENTS: Final = 5_000
"""Agents that are read; the newest ones."""
CHUNK: Final = 200
"""Reports in one reply: about 1 MB."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent that reports.

    Attributes:
        id: Random id of its cache, for one life.
        ago: Seconds since the report, by the clock of Redis.
        at_ms: When that was: milliseconds since 1970.
        follows: ``same``: the rules in force. ``other``: other ones. ``none``: none yet.
        report: The report.
    """

    id: str
    ago: float
    at_ms: int
    follows: str
    report: AgentReport

    @property
    def label(self) -> str:
        """Its name, host and process: ``web (web-1:77)``."""
        place = f"{self.report.host}:{self.report.pid}"
        return f"{self.report.name} ({place})" if self.report.name else place


@dataclass(frozen=True, slots=True)
class Agents:
    """All agents that report.

    Attributes:
        rules: Hash of the rules in force.
        epoch: The history of the log in force.
        last: Id of the newest log entry.
        agents: The agents, by name, host and process.
        unreadable: Reports that could not be read, such as those of a later version.
        left_out: Agents beyond `MOST_AGENTS`.
        kept: Former watches that the leader applies.
        now: Unix time, by the clock of Redis.
    """

    rules: str
    epoch: str
    last: int
    agents: tuple[Agent, ...]
    unreadable: int = 0
    left_out: int = 0
    kept: tuple[Kept, ...] = ()
    now: float = 0.0

    def users_of(self, kept: Kept) -> list[Agent]:
        """Return the agents that may use a former watch.

        They were started before the rules lacked it, or have used keys that only former watches own.
        """
        return [
            agent
            for agent in self.agents
            if agent.at_ms / 1000 - agent.report.running < kept.since or kept.alone in agent.report.former
        ]

    @property
    def others(self) -> tuple[Agent, ...]:
        """The agents that follow other rules than those in force."""
        return tuple(agent for agent in self.agents if agent.follows == "other")

    @property
    def patterns(self) -> dict[str, Counted]:
        """Counts of all agents by pattern, those first that are read most."""
        total: dict[str, Counted] = {}
        for agent in self.agents:
            for name, counted in agent.report.patterns.items():
                total[name] = total.get(name, Counted()) + counted
        return dict(sorted(total.items(), key=lambda pair: -pair[1].reads))

    @property
    def shapes(self) -> dict[str, Shape]:
        """Counts of all agents by shape of keys that no rule owns, those first that are read most."""
        total: dict[str, Shape] = {}
        for agent in self.agents:
            for name, shape in agent.report.shapes.items():
                before = total.get(name, Shape(Counted()))
                total[name] = Shape(
                    before.counted + shape.counted, before.meant or shape.meant, before.former or shape.former
                )
        return dict(sorted(total.items(), key=lambda pair: -pair[1].counted.reads))


async def read_agents(redis: Redis, names: Names) -> Agents:
    """Read all reports; raises `RedisUnavailable`."""
    try:
        fields: Any = await redis.hmget(names.state, "rules", "epoch", "last")
        # The index is removed when no agent has reported for long, and a report when it is too old.
        index: Any = await redis.zrevrange(names.agents, 0, MOST_AGENTS - 1, withscores=True)
        count = await redis.zcard(names.agents)
        stored: Any = await redis.get(names.rules)
        seconds, microseconds = await redis.time()
        payloads: list[Any] = []
        for ids in _chunks([agent_id.decode("utf-8", "replace") for agent_id, _ in index]):
            payloads += await redis.mget([names.agent(agent_id) for agent_id in ids])
    except RedisError as error:
        raise unavailable(error) from error
    rules, epoch, last = ((value or b"").decode("utf-8", "replace") for value in fields)
    now = seconds * 1000 + microseconds / 1000
    found, unreadable = [], 0
    for (agent_id, at), payload in zip(index, payloads, strict=True):
        if payload is None:
            continue
        try:
            report = decode_report(payload)
        except MessageError:
            unreadable += 1
            continue
        follows = "none" if not report.rules else "same" if report.rules == rules else "other"
        ago = round(max(0.0, now - at) / 1000, 3)
        found.append(Agent(agent_id.decode("utf-8", "replace"), ago, int(at), follows, report))
    found.sort(key=lambda agent: (agent.report.name, agent.report.host, agent.report.pid, agent.id))
    return Agents(
        rules,
        epoch,
        int(last) if last.isdecimal() else 0,
        tuple(found),
        unreadable,
        max(0, count - MOST_AGENTS),
        _kept(stored),
        now / 1000,
    )


def _kept(stored: bytes | None) -> tuple[Kept, ...]:
    try:
        return () if stored is None else PublishedRules.decode(stored).kept
    except MessageError:
        return ()


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
