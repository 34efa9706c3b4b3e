"""What the pool asks of each thing it holds open."""

from typing import Protocol

from unstale.companion.pools.vitals import Vitals


class Dependency(Protocol):
    """The clients of one outside service in one event loop."""

    @property
    def name(self) -> str:
        """``openai``, ``supabase``, ``database`` or ``http``."""

    @property
    def vitals(self) -> Vitals:
        """How it does."""

    @property
    def alive(self) -> bool:
        """False once somebody closed the shared client; the pool then makes another."""

    @property
    def in_flight(self) -> int:
        """Requests that hold a connection now."""

    @property
    def clients(self) -> int:
        """Client objects handed out."""

    async def check(self) -> None:
        """Ask it for a sign of life, and tell ``vitals``; may raise what the client library raises."""

    async def renew(self) -> None:
        """Let new requests use new connections; those in flight end undisturbed."""

    async def close(self, *, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for what is in flight, then close everything."""
