"""``wait_for``: tokens of transactions, and the callers that wait for one to be applied here."""

import asyncio
import re
from dataclasses import dataclass
from typing import Final

from unstale.errors import CacheClosed, WaitTimeout
from unstale.freshness.trust import Freshness
from unstale.protocol.messages import lsn

_TOKEN: Final = re.compile(
    r"(?P<database>[0-9]{1,20}:[0-9]{1,10}):(?P<xid>[0-9]{1,20}):(?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8})"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A transaction, as ``unstale.token()`` names it: ``system_identifier:timeline:xid:lsn``.

    Attributes:
        database: System identifier and timeline.
        xid: The transaction.
        lsn: Where the WAL ended when the token was made, before the commit.
    """

    database: str
    xid: int
    lsn: int

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read the text; raises ValueError."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:60]!r} is not a token; take what `select unstale.token()` returns")
        return cls(found["database"], int(found["xid"]), lsn(found["lsn"]))

    def expect(self, database: str | None) -> None:
        """Raise ValueError if the position in Redis belongs to another database."""
        own = self.database.partition(":")[0]
        if database is not None and database.partition(":")[0] != own:
            raise ValueError(
                f"the token is of database {own}, and the worker follows {database}; "
                "ask the database that the worker reads"
            )


class TokenWaits:
    """Every caller that waits for a token."""

    def __init__(self, freshness: Freshness) -> None:
        self._freshness = freshness
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
        """Wake the callers whose transaction is applied now."""
        for token, future in tuple(self._waits):
            if self._done(token) and not future.done():
                future.set_result(None)

    def close(self) -> None:
        """End every wait with `CacheClosed`."""
        for _, future in self._waits:
            if not future.done():
                future.set_exception(CacheClosed())

    def _done(self, token: Token) -> bool:
        """Return True if a processed watermark includes this very transaction, not another with its number.

        A promotion or a restore begins another timeline. After a crash the number of a rolled-back
        transaction is given to another one, but what was on disk at the watermark lies before anything later.
        """
        watermark = self._freshness.watermark
        return (
            watermark is not None
            and watermark.database == token.database
            and lsn(watermark.flushed) > token.lsn
            and watermark.seen.includes(token.xid)
        )
