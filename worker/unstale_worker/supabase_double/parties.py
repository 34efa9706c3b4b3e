"""The parts of the Realtime service that its sockets use, and the parts of a socket that channels use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from unstale_worker.supabase_double.changes import Binding
from unstale_worker.supabase_double.faults import Faults
from unstale_worker.supabase_double.keys import Claims, Keys
from unstale_worker.supabase_double.phoenix import Frame


class Service(Protocol):
    """The service of one project."""

    keys: Keys
    faults: Faults
    idle: float
    sockets: list[Any]
    joins: int
    heartbeats: int

    async def unpublished(self, bindings: Sequence[Binding]) -> str | None:
        """Return the sentence about the first subscription that the publication lacks."""
        ...

    async def broadcast(
        self,
        name: str,
        event: str,
        payload: Any,
        *,
        sender: Any = None,
        private: bool | None = None,
        **meta: Any,
    ) -> int:
        """Send to the channels of a name; return the number of receivers."""
        ...

    async def channel_rights(self, claims: Claims, name: str) -> tuple[bool, bool]:
        """Return whether a role may receive from a private channel, and send to it."""
        ...

    async def listen(self) -> None:
        """Follow the broadcasts of the database."""
        ...


class Connection(Protocol):
    """The socket of one client."""

    service: Service

    async def send(self, frame: Frame) -> None:
        """Send a frame."""
        ...

    def forget(self, channel: Any) -> None:
        """End a channel."""
        ...
