"""Tiers of Redis servers: how much a server tells, and which promises hold (docs/providers.md)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Tier(StrEnum):
    """A kind of Redis server, as far as promises depend on it."""

    SINGLE = "single"
    """One primary that tells its run id. All promises hold."""
    SENTINEL = "sentinel"
    """The same, found through Sentinels."""
    CLUSTER = "cluster"
    """A cluster, in which one slot has every key of a namespace."""
    NO_RUN_ID = "no-run-id"
    """One primary whose scripts may not call INFO."""


PROMISES: Final = {
    Tier.SINGLE: "all promises of docs/guarantees.md hold",
    Tier.SENTINEL: "all promises of docs/guarantees.md hold",
    Tier.CLUSTER: (
        "all promises of docs/guarantees.md hold. Every key of this namespace is in one slot, so one node of "
        "the cluster serves them all"
    ),
    Tier.NO_RUN_ID: (
        "scripts may not call INFO, so Redis does not tell which server answers. A failover that loses "
        "writes of the worker is noticed by its data. What is lost since the worker's last write, at most "
        "UNSTALE_WATERMARK_INTERVAL ago, goes unnoticed if no connection breaks: a value that an agent has "
        "deleted may then come back until the worker applies the change"
    ),
}
"""The sentence of each tier, for the log and for ``unstale doctor``."""


@dataclass(frozen=True, slots=True)
class CheckedRedis:
    """A server that can carry the protocol.

    Attributes:
        name: Its name and version, as far as it tells them.
        tier: Its tier.
    """

    name: str
    tier: Tier
