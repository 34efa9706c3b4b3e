"""A cluster in the place of the two servers, and what happens to a cluster only."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

from chaos.connections import short
from chaos.faults import FAULTS, Fault
from chaos.stage import MAX_SILENCE, Stage
from chaos.valkeys import SYNC_SECONDS, Valkeys
from servers import eventually
from servers.clusters import NAMES, SLOT, Cluster, start_cluster
from servers.proxy import Proxy

_OWN: Final = NAMES.tag + ":"
_ELSEWHERE: Final = ("agent's connection", "worker's connection", "refresh worker's connection")
"""Places that need a proxy before Redis; a cluster's nodes name their own addresses."""
_OTHERWISE: Final = (
    *("split brain", "Redis restarted empty", "Redis restarted with older data", "Redis stopped"),
    "second namespace",
)
"""Kinds that a cluster has in other forms, or not at all: namespaces share no key there."""


class Nodes(Valkeys):
    """Three primaries with their replicas. ``primary`` is the one that has unstale's slot."""

    def __init__(self) -> None:
        self.fronts: list[Proxy] = []
        self._cluster: Cluster | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """All run inside."""
        self._cluster = await start_cluster()
        try:
            await self._look()
            yield self
        finally:
            await self._cluster.close()

    @property
    def nodes(self) -> Cluster:
        """The cluster."""
        assert self._cluster is not None
        return self._cluster

    def url(self, front: Proxy) -> str:
        """Return the URL of the cluster."""
        return self.nodes.url

    async def fail_over(self, *, held: float) -> tuple[float, float]:
        """Kill the primary after its replica was cut off for ``held`` seconds; 0: hand over in order."""
        await self.nodes.synced()
        old, new = self.primary, self.replica
        if held:
            await self.nodes.ask(new, "CONFIG", "SET", "masterauth", "another")
            await self.nodes.ask(old, "CLIENT", "KILL", "TYPE", "replica")
            await asyncio.sleep(held)
        began = time.monotonic()
        if held:
            await old.kill()
        else:
            await self.nodes.ask(new, "CLUSTER", "FAILOVER")

        async def promoted() -> bool:
            return await self.nodes.named(new, SLOT) == new.port

        await eventually(promoted, timeout=SYNC_SECONDS, message="the replica is promoted")
        ended = time.monotonic()
        await self.nodes.ask(new, "CONFIG", "SET", "masterauth", new.password)
        await old.start()
        await self.nodes.synced()
        await self._look()
        return began, ended

    async def pause(self, seconds: float) -> tuple[float, float]:
        """Stop the primary; if that takes long it has a successor when it goes on."""
        began, old = time.monotonic(), self.primary
        os.kill(old.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(old.pid, signal.SIGCONT)
        await self.nodes.synced()
        await self._look()
        return began, time.monotonic()

    async def move(self, *, half_way: float | None) -> None:
        """Move the slot to another primary: at once, or key by key with a pause of so many seconds."""
        source, target = self.primary, await self.nodes.other()
        if half_way is None:
            await self.nodes.move(source, target)
        else:
            await self.nodes.begin_move(source, target)
            keys = await self.nodes.ask(source, "CLUSTER", "GETKEYSINSLOT", SLOT, 10_000)
            await self.nodes.move_keys(source, target, [key.decode() for key in keys[::2]])
            await asyncio.sleep(half_way)
            await self.nodes.end_move(source, target)
        await self._look()

    async def evict(self, keys: list[str]) -> None:
        """Remove keys, as a full server does."""
        await super().evict([key if key.startswith(_OWN) else NAMES.stored(key) for key in keys])

    async def contents(self, patterns: tuple[str, ...]) -> dict[str, bytes]:
        """The strings whose keys match."""
        wanted = tuple(p if p.startswith(_OWN) else NAMES.stored(p) for p in patterns)
        return {NAMES.key_of(name): value for name, value in (await super().contents(wanted)).items()}

    async def _look(self) -> None:
        self.primary = await self.nodes.owner()
        self.replica = self.nodes.replica_of(self.primary)


def _nodes(stage: Stage) -> Nodes:
    assert isinstance(stage.valkeys, Nodes)
    return stage.valkeys


async def pause_primary(stage: Stage, chance: random.Random) -> None:
    began, reached = await _nodes(stage).pause(short(chance))
    stage.unpromised.append((began, reached + MAX_SILENCE))  # what it had not sent to its successor is lost


async def move_at_once(stage: Stage, chance: random.Random) -> None:
    await _nodes(stage).move(half_way=None)


async def move_key_by_key(stage: Stage, chance: random.Random) -> None:
    await _nodes(stage).move(half_way=chance.uniform(0, 3))


CLUSTER_FAULTS: Final = (
    *(each for each in FAULTS if each.place not in _ELSEWHERE and each.kind not in _OTHERWISE),
    Fault("primary paused", "redis", pause_primary),
    Fault("slot moved at once", "redis", move_at_once),
    Fault("slot moved key by key", "redis", move_key_by_key),
)
