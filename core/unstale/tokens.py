"""``wait_for``: tokens of transactions, and who waits for one to be applied here."""

import asyncio
from dataclasses import dataclass

from unstale.errors import CacheClosed, WaitTimeout
from unstale.following import Follower
from unstale.lane import CLOSED


@dataclass(frozen=True, slots=True)
class Token:
    """A transaction, as ``unstale.token()`` names it: ``system_identifier:timeline:xid``."""

    system: str
    timeline: int
    xid: int

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read the text; raises ValueError."""
        system, _, rest = text.partition(":")
        timeline, _, xid = rest.partition(":")
        if not (system.isdecimal() and timeline.isdecimal() and xid.isdecimal() and text.isascii()):
            raise ValueError(f"{text[:60]!r} is not a token; take what `select unstale.token()` returns")
        return cls(system, int(timeline), int(xid))

    def expect(self, database: str | None) -> None:
        """Raise ValueError if the position in Redis belongs to another database."""
        if database is not None and database.partition(":")[0] != self.system:
            raise ValueError(
                f"the token is of database {self.system}, and the worker follows {database}; "
                "ask the database that the worker reads"
            )


class TokenWaits:
    """Everybody who waits for a token."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._waits: list[tuple[Token, asyncio.Future[None]]] = []

    async def wait(self, token: Token, *, timeout: float) -> None:
        """Return once a processed watermark includes the token's transaction; raises `WaitTimeout`."""
        if self._done(token):
            return
        wait = (token, asyncio.get_running_loop().create_future())
        self._waits.append(wait)
        try:
            async with asyncio.timeout(timeout):
                await wait[1]
        except TimeoutError:
            raise WaitTimeout(
                f"the transaction was not applied within {timeout:g} s; check that a worker leads "
                "(`unstale stats`)"
            ) from None
        finally:
            if wait in self._waits:
                self._waits.remove(wait)

    def settle(self) -> None:
        """Wake those whose transaction is applied now."""
        for token, future in tuple(self._waits):
            if self._done(token) and not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Nobody will be woken any more."""
        for _, future in self._waits:
            if not future.done():
                future.set_exception(CacheClosed(CLOSED))

    def _done(self, token: Token) -> bool:
        seen = self._follower.seen
        return seen is not None and seen.includes(token.xid)
