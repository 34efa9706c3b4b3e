"""A real cluster of embedded servers: three primaries, each with a replica, on loopback."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from servers import eventually
from unstale.protocol.names import Names
from unstale.protocol.partitions import SLOTS, slot_of
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.dev_servers.installs import RedisProgram
from unstale_worker.dev_servers.process import free_port
from workers import redis_at

PRIMARIES: Final = 3
NODE_TIMEOUT_MS: Final = 2_000
"""A primary that is silent for so long is replaced by its replica."""
NAMES: Final = Names(cluster=True)
SLOT: Final = slot_of(NAMES.tag)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes: `PRIMARIES` primaries, then their replicas in the same order."""

    nodes: tuple[EmbeddedValkey, ...]

    @property
    def url(self) -> str:
        """The URL for agents and workers."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis://:{self.nodes[0].password}@{hosts}?cluster=true"

    async def close(self) -> None:
        """End every node."""
        for node in self.nodes:
            await node.close()

    async def ask(self, node: EmbeddedValkey, *words: str | int) -> Any:
        """Send a command to one node."""
        async with redis_at(node.url) as redis:
            return await redis.execute_command(*words)

    async def id_of(self, node: EmbeddedValkey) -> str:
        """Return the id of a node."""
        return str((await self.ask(node, "CLUSTER", "MYID")).decode())

    async def owner(self, slot: int = SLOT) -> EmbeddedValkey:
        """Return the node that all living nodes name as the slot's primary; waits until they agree."""

        async def agreed() -> EmbeddedValkey | None:
            named = set()
            for node in self.nodes:
                if await node.running():
                    named.add(await self.named(node, slot))
            (port,) = named if len(named) == 1 else (None,)
            return next((node for node in self.nodes if node.port == port), None)

        found = await eventually(agreed, message=f"the nodes agree on the primary of slot {slot}")
        assert found is not None
        return found

    async def other(self) -> EmbeddedValkey:
        """Return a primary that does not have unstale's slot."""
        owner = await self.owner()
        for slot in range(0, SLOTS, SLOTS // PRIMARIES):
            if (found := await self.owner(slot)) is not owner:
                return found
        raise AssertionError("one node has all slots")

    def replica_of(self, node: EmbeddedValkey) -> EmbeddedValkey:
        """Return the node that was made the replica of this one, or the other way round."""
        return self.nodes[(self.nodes.index(node) + PRIMARIES) % len(self.nodes)]

    async def move(self, source: EmbeddedValkey, target: EmbeddedValkey) -> None:
        """Move unstale's slot: in one step where the server can, as Valkey 9."""
        if source.program == "redis":
            await self.begin_move(source, target)
            await self.end_move(source, target)
            return
        target_id = await self.id_of(target)
        await self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", SLOT, SLOT, "NODE", target_id)

        async def moved() -> bool:
            return await self.owner() is target

        await eventually(moved, message="the slot has moved")

    async def begin_move(self, source: EmbeddedValkey, target: EmbeddedValkey) -> None:
        """Begin to move unstale's slot the classic way: key by key."""
        source_id, target_id = await self.id_of(source), await self.id_of(target)
        await self.ask(target, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", source_id)
        await self.ask(source, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", target_id)

    async def move_keys(self, source: EmbeddedValkey, target: EmbeddedValkey, keys: Sequence[str]) -> None:
        """Move keys, with their values and TTLs."""
        to = ("127.0.0.1", target.port, "", 0, 60_000, "REPLACE", "AUTH", target.password)
        await self.ask(source, "MIGRATE", *to, "KEYS", *keys)

    async def end_move(self, source: EmbeddedValkey, target: EmbeddedValkey) -> None:
        """Move what is left, and let every node know."""
        while keys := await self.ask(source, "CLUSTER", "GETKEYSINSLOT", SLOT, 1_000):
            await self.move_keys(source, target, [key.decode() for key in keys])
        target_id = await self.id_of(target)
        for node in (target, source, *self.nodes):
            if b"master" in (await self.ask(node, "ROLE"))[0]:
                await self.ask(node, "CLUSTER", "SETSLOT", SLOT, "NODE", target_id)

    async def repaired(self) -> None:
        """Start what was killed, wait until every replica is in sync, and empty all."""
        for node in self.nodes:
            await node.start()
            await self.ask(node, "CONFIG", "SET", "masterauth", node.password)
        await self.synced()
        for node in self.nodes:
            if b"master" in (await self.ask(node, "ROLE"))[0]:
                await self.ask(node, "FLUSHALL")

    async def synced(self) -> None:
        """Wait until every replica is in sync, and known to all."""
        await eventually(self._in_sync, message="every replica is in sync, and known to all")

    async def _in_sync(self) -> bool:
        for node in self.nodes:
            async with redis_at(node.url) as redis:
                info: Any = await redis.info("replication")
            if info["role"] == "slave" and info.get("master_link_status") != "up":
                return False
        slots = [await self.ask(node, "CLUSTER", "SLOTS") for node in self.nodes]
        return all(len(found) == 4 for reply in slots for found in reply)  # range, primary and replica

    async def named(self, node: EmbeddedValkey, slot: int) -> int | None:
        """Return the port of the slot's primary, as this node says."""
        try:
            for first, last, primary, *_ in await self.ask(node, "CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return int(primary[1])
        except RedisError:
            pass
        return None


async def start_cluster(*, args: Sequence[str] = (), program: RedisProgram = "valkey") -> Cluster:
    """Run a cluster whose nodes know each other, serve all slots, and have replicas in sync."""
    password = secrets.token_hex(8)
    nodes = []
    for _ in range(2 * PRIMARIES):
        node = EmbeddedValkey(
            program=program,
            args=[
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
                *args,
            ],
        )
        node.password = password
        nodes.append(node)
    made = Cluster(tuple(nodes))
    try:
        await asyncio.gather(*(node.__aenter__() for node in nodes))
        await _join(made)
    except BaseException:
        await made.close()
        raise
    return made


async def _join(made: Cluster) -> None:
    for number, node in enumerate(made.nodes):
        await made.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < PRIMARIES:
            first, last = number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES - 1
            await made.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
    bus = made.nodes[0].args[3]
    for node in made.nodes[1:]:
        await made.ask(node, "CLUSTER", "MEET", "127.0.0.1", made.nodes[0].port, bus)

    async def joined(lines: int) -> bool:
        for node in made.nodes:
            known = (await made.ask(node, "CLUSTER", "NODES")).decode().splitlines()
            info = (await made.ask(node, "CLUSTER", "INFO")).decode()
            if len(known) != lines or "handshake" in str(known) or "cluster_state:ok" not in info:
                return False
        return True

    await eventually(lambda: joined(len(made.nodes)), message="the nodes know each other")
    for number, node in enumerate(made.nodes[PRIMARIES:]):
        await made.ask(node, "CLUSTER", "REPLICATE", await made.id_of(made.nodes[number]))

    await made.synced()
