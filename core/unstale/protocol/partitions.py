"""Partitions: which one has a key, and under which name the key is stored there. Pure: no I/O.

A partition is one complete copy of the protocol in one hash slot: its own state, log, epoch, position and
channel. A single server has one partition, in which keys have their own names. In a cluster the names of a
partition begin with its tag, in braces, so that a script finds all its keys on one node.
"""

from binascii import crc_hqx
from functools import lru_cache
from typing import Final

from unstale.protocol.names import Names

SLOTS: Final = 16_384
"""Hash slots of a cluster."""
MOST: Final = 1_024
"""Most partitions of a cluster."""


class Partitions:
    """The partitions of one namespace in a cluster.

    Example:
        >>> partitions = Partitions("unstale", 16)
        >>> names = partitions.of("user:42:profile")
        >>> names.stored("user:42:profile")
        '{unstale:16.13.20}user:42:profile'

    Attributes:
        names: The names of each partition.
        home: The names of the leader's lease, and of the number of partitions: those of the only partition if
            there is one, and otherwise of a slot that has no cached key.
    """

    __slots__ = ("home", "names")

    def __init__(self, namespace: str, count: int) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"{count} partitions: expected 1 to {MOST}")
        labels = _labels(namespace, count)
        self.names = tuple(Names(namespace, partition=label, cluster=True) for label in labels)
        self.home = Names(namespace, cluster=True)

    def of(self, key: str) -> Names:
        """Return the names of the partition that has ``key``."""
        return self.names[partition_of(key, len(self.names))]

    def __repr__(self) -> str:
        return f"<Partitions {len(self.names)} of {self.names[0].namespace}>"


def partition_of(key: str, count: int) -> int:
    """Return the number of the partition that has ``key``, of ``count``.

    Keys with the same hash tag of their own, as in ``{user:42}:profile``, are in one partition.

    >>> partition_of("user:42:profile", 16)
    13
    """
    return _crc(key) % count


def slot_of(name: str) -> int:
    """Return the hash slot of a name in Redis.

    >>> slot_of("{unstale:0}:state")
    6555
    """
    return _crc(name) % SLOTS


def _crc(name: str) -> int:
    """Return the CRC16 of a name, or of the text in its first pair of braces if there is any."""
    _, opened, rest = name.partition("{")
    tag, closed, _ = rest.partition("}")
    return crc_hqx((tag if opened and closed and tag else name).encode("utf-8", "surrogatepass"), 0)


@lru_cache(maxsize=8)
def _labels(namespace: str, count: int) -> tuple[str, ...]:
    """Return the label of each partition: the one with which its slot is in the partition's share of slots.

    So partitions spread evenly over the nodes, whose slots are usually ranges. The label begins with the
    number of partitions: what processes with different numbers store never has one name.
    """
    return tuple(_label(namespace, number, count) for number in range(count))


def _label(namespace: str, number: int, count: int) -> str:
    plain = str(number) if count == 1 else f"{count}.{number}"
    label, tries = plain, 0
    while crc_hqx(f"{namespace}:{label}".encode(), 0) % SLOTS * count // SLOTS != number:
        tries += 1
        label = f"{plain}.{tries}"
    return label
