"""All Redis keys, channels, Postgres identifiers and lease prefixes that unstale uses.

No other module builds such a name, so each can be found, documented and changed in one place.
"""

import re
from dataclasses import dataclass
from typing import Final, NewType

Epoch = NewType("Epoch", str)
"""Random id (32 hex digits) of one unbroken history of the log."""

LogId = NewType("LogId", int)
"""Number of a log entry. The first one in a fresh Redis is 1, and each entry adds one."""

# --- Postgres -----------------------------------------------------------------------------------
SCHEMA: Final = "unstale"
WAKEUP_CHANNEL: Final = "unstale_wakeup"
WORKER_ROLE: Final = "unstale_worker"
APPLICATION_NAME: Final = "unstale-worker"
"""``application_name`` of the worker's sessions: ``unstale-worker:<consumer>:<fence>`` or ``…:standby``."""

# --- Redis --------------------------------------------------------------------------------------
LEASE: Final = b"\x00unstale:lease:"
"""First bytes of a lease that a loader holds. JSON text cannot begin with a NUL byte."""
SOFT_LEASE: Final = b"\x00unstale:soft:"
"""First bytes of a lease that a missed ``get`` holds. A loader takes it over instead of waiting."""
TAGGED: Final = SOFT_LEASE + b"tags\n"
"""First bytes of a value that was stored under tags. A release that knows no tags takes it for the lease of a
missed ``get``, so for a miss: it loads, and stores the value without tags."""
TAG: Final = "unstale:tag:"
"""Beginning of the key of a tag's record, which the tag itself follows; the same in every namespace."""


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of one namespace in one Redis database, or in one partition of a cluster.

    The braces are a Redis Cluster hash tag, so all keys are in one slot. On a single server cached keys have
    their own names. In a cluster the tag stands before them: see `stored`.

    Example:
        >>> Names().state
        '{unstale:0}:state'
        >>> Names().stored("user:42:profile"), Names(cluster=True).stored("user:42:profile")
        ('user:42:profile', '{unstale:0}user:42:profile')
    """

    namespace: str = "unstale"
    database: int = 0
    """Number of the Redis database. Pub/sub ignores databases, so the channel's name contains it."""
    partition: str = "0"
    """Label of the partition: see `unstale.protocol.partitions`."""
    cluster: bool = False
    """True for a partition of a cluster."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.namespace):
            raise ValueError(
                f"namespace {self.namespace!r}: expected 1 to 64 letters, digits, '_', '.' or '-'"
            )

    @property
    def tag(self) -> str:
        """The common prefix, ``{unstale:0}``."""
        return f"{{{self.namespace}:{self.partition}}}"

    # --- cached keys ----------------------------------------------------------------------------

    @property
    def prefix(self) -> str:
        """Text before the name of each cached key and tag: none on a single server."""
        return self.tag if self.cluster else ""

    @property
    def reserved(self) -> str:
        """Beginning of the keys that cannot be cached, because unstale's own have such names."""
        return ":" if self.cluster else self.tag

    def stored(self, key: str) -> str:
        """Return the name in Redis of a cached key, of a tag's record, or of a pattern of either."""
        if not self.cluster:
            return key
        if key.startswith(TAG):  # behind it, as scripts find the tag by what stands behind `TAG`
            return f"{TAG}{self.tag}{key[len(TAG) :]}"
        return self.tag + key

    def key_of(self, stored: str) -> str:
        """Return the key that `stored` gave this name."""
        if not self.cluster:
            return stored
        return TAG + stored[len(TAG) + len(self.tag) :] if stored.startswith(TAG) else stored[len(self.tag) :]

    @property
    def own(self) -> str:
        """Beginning of the names in Redis that are unstale's own, so not of a cached key or a record."""
        return f"{self.tag}:" if self.cluster else self.tag

    # --- unstale's own --------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Hash without TTL: epoch, run, position and related fields."""
        return f"{self.tag}:state"

    @property
    def rules(self) -> str:
        """String without TTL: the published rules, as JSON."""
        return f"{self.tag}:rules"

    @property
    def log(self) -> str:
        """Stream bounded by bytes: one entry per message."""
        return f"{self.tag}:log"

    @property
    def leader(self) -> str:
        """String with PX: the leader's lease."""
        return f"{self.tag}:leader"

    @property
    def claim(self) -> str:
        """Hash without TTL: which namespace uses this Redis database.

        It has the same name in every namespace, except in a cluster: there namespaces share no key.
        """
        return f"{self.tag}:namespace" if self.cluster else "unstale:namespace"

    @property
    def channel(self) -> str:
        """Pub/sub channel of messages and watermarks; for a database other than 0 it ends with the number.

        In a cluster it is a sharded channel. Other channels pass through all nodes, so a watermark could
        arrive behind the PONG to a later PING.
        """
        if self.cluster:
            return f"{self.tag}:invalidations:sharded"
        return f"{self.tag}:invalidations:{self.database}" if self.database else f"{self.tag}:invalidations"

    @property
    def subscribe(self) -> str:
        """The command that subscribes to `channel`."""
        return "SSUBSCRIBE" if self.cluster else "SUBSCRIBE"

    @property
    def publish(self) -> str:
        """The command that publishes on `channel`."""
        return "SPUBLISH" if self.cluster else "PUBLISH"

    def lock(self, name: str) -> str:
        """String with PX: the lease of the holder of the lock ``name``."""
        return f"{self.tag}:lock:{name}"

    @property
    def locks(self) -> str:
        """String with PX: the last fence number of any lock."""
        return f"{self.tag}:locks"

    def stale(self, key: str) -> str:
        """String with PX: the value of ``key``, by its name in Redis, from before its last change."""
        return f"{self.tag}:stale:{key}"

    def spare(self, key: str) -> str:
        """String with PX: a copy of the last value of ``key``; see `unstale.protocol.spares`."""
        return f"{self.tag}:spare:{key}"

    def inputs(self, key: str) -> str:
        """String with PX: fingerprint of the inputs of the value of ``key``, and when it was stored."""
        return f"{self.tag}:inputs:{key}"

    def beside(self, pattern: str) -> str:
        """Return one glob for the stale and the spare values of all keys that match ``pattern``."""
        return f"{self.tag}:s[tp]a[lr]e:{pattern}"

    @property
    def refresh(self) -> str:
        """Sorted set without TTL: keys to refresh, scored by the server's time in ms when each is due."""
        return f"{self.tag}:refresh"

    @property
    def dead_letters(self) -> str:
        """Hash without TTL: keys that could not be refreshed, with the reason."""
        return f"{self.tag}:dead"

    @property
    def refresh_counts(self) -> str:
        """Hash without TTL: totals of refreshes over all processes, and calls and tokens of each refresh."""
        return f"{self.tag}:refreshed"

    @property
    def refresh_workers(self) -> str:
        """Sorted set with PX: refresh workers, scored by the server's time in ms when last seen."""
        return f"{self.tag}:refresh-workers"

    def refresh_running(self, pattern: str) -> str:
        """Sorted set with PX: slots of running loads, scored by the server's time in ms when each expires."""
        return f"{self.tag}:running:{pattern}"

    def refresh_rate(self, pattern: str) -> str:
        """Sorted set with PX: loads in the last rate window, scored by the server's time in ms at start."""
        return f"{self.tag}:rate:{pattern}"

    def refresh_failures(self, key: str) -> str:
        """String with PX: number of failures in a row of the refresh of ``key``, by its name in Redis."""
        return f"{self.tag}:failures:{key}"

    def refresh_pause(self, loader: str) -> str:
        """String with PX: exists while no process may call ``loader``."""
        return f"{self.tag}:pause:{loader}"

    def refresh_budget(self, pattern: str, unit: str, field: str) -> str:
        """Hash with PX: loads in the current window of one budget; see ``refresh_spend.lua``."""
        return f"{self.tag}:budget:{unit}:{field}:{pattern}"

    @property
    def agents(self) -> str:
        """Sorted set with PX: ids of agents that report, scored by the server's time in ms of the newest."""
        return f"{self.tag}:agents"

    def agent(self, agent_id: str) -> str:
        """String with PX: the newest report of one agent, as JSON."""
        return f"{self.tag}:agents:{agent_id}"

    @property
    def audit(self) -> str:
        """String with PX: the newest result of ``unstale audit --publish``, as JSON."""
        return f"{self.tag}:audit"

    @property
    def permanent(self) -> frozenset[str]:
        """The keys that may live without a TTL; everything else unstale writes expires."""
        return frozenset(
            {
                *(self.state, self.rules, self.log, self.claim),
                *(self.refresh, self.dead_letters, self.refresh_counts),
            }
        )
