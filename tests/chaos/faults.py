"""Every kind of fault."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import asyncpg

from chaos.connections import CONNECTIONS, How, short
from chaos.ordinary_days import (
    build_partitions,
    deploy_rules,
    restore_in_place,
    start_second_namespace,
    swap_table,
)
from chaos.stage import MAX_SILENCE, Slot, Stage, slept_file
from chaos.world import keys, some_item, statement, tags_of
from chaos.writer import change_items
from unstale.protocol.names import Names
from unstale.protocol.tags import record

Act = Callable[[Stage, random.Random], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        kind: Its name in the table.
        place: What it happens to; no two faults happen to one place at once.
        act: Does it, and has healed it when it returns.
        needs: Another place to which nothing may happen meanwhile, or empty.
    """

    kind: str
    place: str
    act: Act
    needs: str = ""

    @property
    def places(self) -> frozenset[str]:
        """Every place that it needs for itself."""
        return frozenset(filter(None, (self.place, self.needs)))


# --- processes ----------------------------------------------------------------------------------


async def _kill(slot: Slot, seconds: float) -> None:
    await slot.process.kill()
    await asyncio.sleep(seconds)
    await slot.process.start()


async def _pause(slot: Slot, seconds: float) -> None:
    slot.process.stop()
    await asyncio.sleep(seconds)
    slot.process.go_on()


async def kill_worker(stage: Stage, chance: random.Random) -> None:
    await _kill(chance.choice(stage.workers), chance.uniform(0, 3))


async def kill_workers(stage: Stage, chance: random.Random) -> None:
    seconds = short(chance)
    await asyncio.gather(*(_kill(slot, seconds) for slot in stage.workers))


async def end_worker(stage: Stage, chance: random.Random) -> None:
    slot = chance.choice(stage.workers)
    await slot.process.finish()
    await slot.process.start()


async def stop_worker(stage: Stage, chance: random.Random) -> None:
    await _pause(chance.choice(stage.workers), short(chance))


async def kill_refresher(stage: Stage, chance: random.Random) -> None:
    await _kill(chance.choice(stage.refreshers), chance.uniform(0, 3))


async def kill_refreshers(stage: Stage, chance: random.Random) -> None:
    """All of them: a leader calls the loaders meanwhile, if they are away for long."""
    seconds = short(chance)
    await asyncio.gather(*(_kill(slot, seconds) for slot in stage.refreshers))


async def end_refresher(stage: Stage, chance: random.Random) -> None:
    slot = chance.choice(stage.refreshers)
    await slot.process.finish()
    await slot.process.start()


async def stop_refresher(stage: Stage, chance: random.Random) -> None:
    await _pause(chance.choice(stage.refreshers), short(chance))


async def kill_agent(stage: Stage, chance: random.Random) -> None:
    await _kill(chance.choice(stage.agents), chance.uniform(0, 1))


async def stop_agent(stage: Stage, chance: random.Random) -> None:
    await _pause(chance.choice(stage.agents), short(chance))


async def sleep_worker(stage: Stage, chance: random.Random) -> None:
    """Its machine sleeps: the worker's clock stands still, the servers' go on."""
    slot = chance.choice(stage.workers)
    await slot.process.ready()
    slot.process.stop()
    began = time.monotonic()
    await asyncio.sleep(short(chance))
    slept = slept_file(stage.folder, slot.process.name)
    slept.write_text(str(float(slept.read_text()) + time.monotonic() - began))
    slot.process.move_clock()
    slot.process.go_on()


async def move_agents_clock(stage: Stage, chance: random.Random) -> None:
    process = chance.choice(stage.agents).process
    await process.ready()
    process.move_clock()


# --- connections --------------------------------------------------------------------------------


def _to_redis(slots: Callable[[Stage], list[Slot]], how: How) -> Act:
    async def act(stage: Stage, chance: random.Random) -> None:
        await how(chance.choice(slots(stage)).redis, chance)

    return act


def _to_postgres(slots: Callable[[Stage], list[Slot]], how: How) -> Act:
    async def act(stage: Stage, chance: random.Random) -> None:
        proxy = chance.choice(slots(stage)).postgres
        assert proxy is not None
        await how(proxy, chance)

    return act


# --- servers ------------------------------------------------------------------------------------


async def lossy_failover(stage: Stage, chance: random.Random) -> None:
    began, reached = await stage.valkeys.fail_over(held=chance.uniform(0.1, 1.5))
    stage.unpromised.append((began, reached + MAX_SILENCE))


async def failover(stage: Stage, chance: random.Random) -> None:
    await stage.valkeys.fail_over(held=0)


async def split_brain(stage: Stage, chance: random.Random) -> None:
    """Two primaries; a front leads to one of them, or, uncut, from one to the other whenever it connects."""
    moving = {front for front in stage.valkeys.fronts if chance.random() < 0.5}
    cut = chance.random() < 0.7
    began, split = await stage.valkeys.split(moves=moving.__contains__, cut=cut)
    await asyncio.sleep(short(chance))
    uniting, reached = await stage.valkeys.unite(demoted_for=chance.choice((0.0, chance.uniform(0, 1))))
    # Who changes over loses what only the other one was told. Uncut, that may happen at any moment.
    if cut:
        stage.unpromised.append((began, split + MAX_SILENCE))
        stage.unpromised.append((uniting, reached + MAX_SILENCE))
    else:
        stage.unpromised.append((began, reached + MAX_SILENCE))


async def flush(stage: Stage, chance: random.Random) -> None:
    await stage.valkeys.flush()


async def restart_empty(stage: Stage, chance: random.Random) -> None:
    await stage.valkeys.restart_empty()


async def restart_older(stage: Stage, chance: random.Random) -> None:
    # For an agent it is what a failover is that lost the writes of so many seconds: another run, older data.
    began, reached = await stage.valkeys.restart_older(age=chance.uniform(0.2, 3))
    stage.unpromised.append((began, reached + MAX_SILENCE))


async def stop_redis(stage: Stage, chance: random.Random) -> None:
    stage.valkeys.stop()
    await asyncio.sleep(short(chance))
    stage.valkeys.go_on()


def _evict(choose: Callable[[random.Random], list[str]]) -> Act:
    async def act(stage: Stage, chance: random.Random) -> None:
        await stage.valkeys.evict(choose(chance))

    return act


async def kill_postgres(stage: Stage, chance: random.Random) -> None:
    await stage.postgres.kill()
    await asyncio.sleep(chance.uniform(0, 2))
    await stage.postgres.start()


async def kill_postgres_after_rollbacks(stage: Stage, chance: random.Random) -> None:
    """The crash forgets rolled-back transactions, and their numbers come again."""
    connection = await asyncpg.connect(stage.postgres.dsn())
    try:
        for _ in range(20):
            transaction = connection.transaction()
            await transaction.start()
            await change_items(connection, [some_item(chance)])
            await transaction.rollback()
    finally:
        connection.terminate()
    await stage.postgres.kill()
    await stage.postgres.start()


async def restore_postgres(stage: Stage, chance: random.Random) -> None:
    await stage.restores.restore(age=chance.uniform(0.1, 2.0))


async def move_postgres_clock(stage: Stage, chance: random.Random) -> None:
    connection = await asyncpg.connect(stage.postgres.superuser_dsn)
    try:
        await connection.execute(statement("clock_forward"))
    finally:
        await connection.close()


NAMES: Final = Names()
EVICTED: Final[Mapping[str, Callable[[random.Random], list[str]]]] = {
    "values": lambda chance: chance.sample(list(keys()), 40),
    "the records of tags": lambda chance: chance.sample(
        sorted({record(tag) for key in keys() for tag in tags_of(key) or ()}), 40
    ),
    "stale values": lambda chance: [NAMES.stale(key) for key in keys()],
    "the state": lambda chance: [NAMES.state],
    "the log": lambda chance: [NAMES.log],
    "the rules": lambda chance: [NAMES.rules],
    "the leader's lease": lambda chance: [NAMES.leader],
    "the claim of the namespace": lambda chance: [NAMES.claim],
    "the agents that report": lambda chance: [NAMES.agents],
    "the refresh set": lambda chance: [NAMES.refresh],
    "the refresh workers": lambda chance: [NAMES.refresh_workers],
    "the dead letters": lambda chance: [NAMES.dead_letters],
    "the counts of refreshes": lambda chance: [NAMES.refresh_counts],
    "the slots of a loader": lambda chance: [NAMES.refresh_running("memo:{id}")],
    "the rate of a loader": lambda chance: [NAMES.refresh_rate("memo:{id}")],
}
"""Each key of unstale's own, and values: a full server may remove any of them."""

_workers, _refreshers, _agents = attrgetter("workers"), attrgetter("refreshers"), attrgetter("agents")

FAULTS: Final = (
    Fault("worker killed", "worker", kill_worker),
    Fault("both workers killed", "worker", kill_workers),
    Fault("worker ended", "worker", end_worker),
    Fault("worker stopped", "worker", stop_worker),
    Fault("worker's machine asleep", "worker", sleep_worker),
    Fault("refresh worker killed", "refresh worker", kill_refresher),
    Fault("all refresh workers killed", "refresh worker", kill_refreshers),
    Fault("refresh worker ended", "refresh worker", end_refresher),
    Fault("refresh worker stopped", "refresh worker", stop_refresher),
    Fault("agent killed", "agent", kill_agent),
    Fault("agent stopped", "agent", stop_agent),
    Fault("agent's clock jumped", "agent", move_agents_clock),
    *(
        Fault(f"agent to Redis: {how}", "agent's connection", _to_redis(_agents, do))
        for how, do in CONNECTIONS.items()
    ),
    *(
        Fault(f"worker to Redis: {how}", "worker's connection", _to_redis(_workers, do))
        for how, do in CONNECTIONS.items()
    ),
    *(
        Fault(f"worker to Postgres: {how}", "worker's database", _to_postgres(_workers, do))
        for how, do in CONNECTIONS.items()
    ),
    *(
        Fault(
            f"refresh worker to Redis: {how}",
            "refresh worker's connection",
            _to_redis(_refreshers, CONNECTIONS[how]),
        )
        for how in ("cut", "half open", "held", "answers lost")
    ),
    # Its loaders hang in the middle of a read, and may go on after their change was overtaken.
    Fault(
        "refresh worker to Postgres: held",
        "refresh worker's database",
        _to_postgres(_refreshers, CONNECTIONS["held"]),
    ),
    Fault("failover, writes lost", "redis", lossy_failover),
    Fault("failover", "redis", failover),
    Fault("split brain", "redis", split_brain),
    Fault("FLUSHALL", "redis", flush),
    Fault("Redis restarted empty", "redis", restart_empty),
    Fault("Redis restarted with older data", "redis", restart_older),
    Fault("Redis stopped", "redis", stop_redis),
    *(Fault(f"evicted: {what}", "redis", _evict(choose)) for what, choose in EVICTED.items()),
    Fault("second namespace", "redis", start_second_namespace),
    Fault("Postgres killed", "postgres", kill_postgres),
    Fault("Postgres killed after rollbacks", "postgres", kill_postgres_after_rollbacks),
    Fault("Postgres restored from a copy", "postgres", restore_postgres),
    Fault("Postgres' clock jumped", "postgres", move_postgres_clock),
    Fault("table swapped", "postgres", swap_table),
    Fault("restored in place", "postgres", restore_in_place),
    # A copy from before new captures, restored beside it, would rightly end each worker that starts.
    Fault("rules deployed step by step", "worker", deploy_rules, needs="postgres"),
    Fault("partitions built at once", "postgres", build_partitions),
)
