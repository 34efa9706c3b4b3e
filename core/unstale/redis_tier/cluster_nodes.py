"""Asks the nodes of a cluster which one serves a slot."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from unstale.protocol.partitions import slot_of
from unstale.redis_tier.asking import SHARE, NoPrimary, Place, ask_all, question
from unstale.redis_tier.url import RedisUrl

MOST_ASKED: Final = 9
"""Nodes that are asked at the same time; a majority of them names the primary."""


@dataclass(frozen=True, slots=True)
class Topology:
    """One node's answer.

    Attributes:
        owner: The primary that serves the slot; None: the slot is served by none.
        nodes: Every node with slots, the primaries first.
    """

    owner: Place | None
    nodes: tuple[Place, ...]


class ClusterNodes:
    """The nodes of one cluster, and the primary of one slot.

    The nodes of the URL and others that are known are asked at the same time. What most of them say counts,
    so a node that was cut off cannot mislead. (redis-py believes the first.) The nodes are remembered, and
    the answer is not: each new connection asks again.

    Example:
        >>> nodes = ClusterNodes(url, "{unstale:0}", timeout=1)
        >>> await nodes.get_master_address()
        ('10.0.0.7', 7000)
    """

    is_master: Final = True
    check_connection: Final = False
    # With `get_master_address`, this is all that redis-py's connection needs of its pool.

    def __init__(self, url: RedisUrl, tag: str, *, timeout: float) -> None:
        self._url, self._slot, self._timeout = url, slot_of(tag), timeout * SHARE
        self._known: tuple[Place, ...] = ()

    async def get_master_address(self) -> Place:
        """Return host and port of the slot's primary; raises `NoPrimary` after ``timeout * SHARE`` s."""
        places = list(dict.fromkeys([*self._known, *self._url.nodes]))[:MOST_ASKED]

        def named(answers: Sequence[Topology]) -> tuple[Place | None, int]:
            return Counter(answer.owner for answer in answers).most_common(1)[0] if answers else (None, 0)

        asked = await ask_all(
            places,
            self._ask,
            enough=lambda answers: named(answers)[1] > len(places) // 2,
            seconds=self._timeout,
        )
        owner, _ = named([answer for answer in asked.answers if answer.owner is not None])
        if owner is None:
            problems = asked.problems if not asked.answers else ["none of them serves the slot now"]
            raise NoPrimary(
                f"no node of the cluster {self._url.place} could name the primary of slot {self._slot}: "
                f"{'; '.join(problems)}. Check the hosts in REDIS_URL, and CLUSTER INFO on one of them"
            )
        self._known = next(answer.nodes for answer in asked.answers if answer.owner == owner)
        return owner

    async def _ask(self, host: str, port: int) -> Topology | str:
        """Return the answer of one node, or its problem in words."""
        options = dict(self._url.options)
        try:
            reply = await question((host, port), options, self._url.tls, self._timeout, "CLUSTER", "SLOTS")
            return _topology(reply, self._slot, asked=host)
        except (AuthenticationError, NoPermissionError) as error:
            return f"one refused the user or password ({str(error)[:120]})"
        except ResponseError as error:
            return f"one is not a node of a cluster, or refused the command ({str(error)[:120]})"
        except (RedisError, OSError) as error:
            return f"one cannot be reached ({str(error)[:120]})"
        except (ValueError, TypeError, IndexError):
            return "one gave an answer that no node gives"

    def __repr__(self) -> str:
        return f"<ClusterNodes of {self._url.place}, slot {self._slot}>"


def _topology(reply: Sequence[Any], slot: int, *, asked: str) -> Topology:
    """Read the reply of CLUSTER SLOTS; a node that does not name its host is reached as the asked one."""
    owner: Place | None = None
    primaries: dict[Place, None] = {}
    replicas: dict[Place, None] = {}
    for first, last, *nodes in reply:
        places = [((node[0] or b"").decode() or asked, int(node[1])) for node in nodes]
        primaries[places[0]] = None
        replicas |= dict.fromkeys(places[1:])
        if int(first) <= slot <= int(last):
            owner = places[0]
    return Topology(owner, (*primaries, *replicas))


def holding(nodes: str, slot: int) -> str | None:
    """Return what identifies the time for which a node serves a slot undisturbed; None if it does not now.

    ``nodes`` is its reply to CLUSTER NODES. A slot that moves key by key is not served undisturbed: some of
    its keys are elsewhere. After a move the owner's epoch is another one.
    """
    for line in nodes.splitlines():
        parts = line.split()
        if len(parts) < 8 or "myself" not in parts[2].split(","):
            continue
        ranges = [part.split("-") for part in parts[8:] if not part.startswith("[")]
        moving = any(part.startswith((f"[{slot}->-", f"[{slot}-<-")) for part in parts[8:])
        if moving or not any(int(one[0]) <= slot <= int(one[-1]) for one in ranges):
            return None
        return f"{parts[0]}:{parts[6]}"
    return None
