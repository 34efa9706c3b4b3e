"""Faults of Realtime, for tests; change the fields at run time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """Everything off: the service as it should be. Times in seconds."""

    refuse_upgrade: int | None = None
    """HTTP status that answers each request for a websocket."""
    reject_join: str | None = None
    """The ``reason`` by which each join is rejected."""
    private_only: bool = False
    """The project's setting: public channels are rejected."""
    join_delay: float = 0.0
    """Until a join is answered; meanwhile the socket handles nothing else, as at the service."""
    mute_joins: bool = False
    """Joins are not answered at all."""
    subscribe_delay: float = 0.0
    """From the join's answer to “Subscribed to PostgreSQL”."""
    subscribe_error: str | None = None
    """A ``system`` error instead of it."""
    subscribe_retry: float | None = None
    """After which the service itself tries again to subscribe after an error; the real one: 5 to 10."""
    mute_heartbeats: bool = False
    mute_changes: bool = False
    """Changes are lost, and nobody is told."""
    mute_broadcasts: bool = False
    """No broadcast arrives, not even an echo."""
    frozen: bool = False
    """Nothing at all is sent any more, and nothing closed: the way to the clients is dead."""
