"""Interface of the services that the pool holds clients of."""

from typing import Protocol

from unstale.companion.pools.vitals import Vitals


class Dependency(Protocol):
    """The clients of one outside service in one event loop."""

    @property
    def name(self) -> str:
        """``openai``, ``openai_sync``, ``supabase``, ``database`` or ``http``."""

    @property
    def vitals(self) -> Vitals:
        """Its health: requests, errors, latency."""

    @property
    def alive(self) -> bool:
        """False once the shared client was closed by a user; the pool then makes another."""

    @property
    def in_flight(self) -> int:
        """Requests that hold a connection now."""

    @property
    def clients(self) -> int:
        """Number of client objects handed out."""

    async def check(self) -> None:
        """Send a health check and record the result in ``vitals``; may raise the client library's errors."""

    async def renew(self) -> None:
        """Use new connections for new requests; requests in flight end on the old ones."""

    async def close(self, *, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for requests in flight, then close everything."""
