"""``wait_for``: transaction tokens, and the callers that wait for one to be applied."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unstale.errors import CacheClosed, WaitTimeout
from unstale.freshness.trust import Freshness
from unstale.protocol.messages import lsn

_TOKEN: Final = re.compile(
    r"(?P<database>[0-9]{1,20}(?::[0-9]{1,10}){1,3}):(?P<xid>[0-9]{1,20}):(?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8})"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A transaction token, as returned by ``unstale.token()``: ``<database identity>:xid:lsn``.

    Attributes:
        database: Database identity: ``server:timeline:database:outbox``, as numbers.
        xid: Id of the transaction.
        lsn: End of the WAL when the token was created, before the commit.
    """

    database: str
    xid: int
    lsn: int

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Parse a token; raises ValueError."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:60]!r} is not a token; pass the result of `select unstale.token()`")
        return cls(found["database"], int(found["xid"]), lsn(found["lsn"]))

    def expect(self, database: str | None) -> None:
        """Raise ValueError if ``database``, which the worker follows, is another database."""
        if database is not None and not _same_place(self.database.split(":"), database.split(":")):
            raise ValueError(
                f"the token is from database {self.database}, but the worker follows {database}; "
                "get the token from the database that the worker follows"
            )


def _same_place(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return True if two identities name one database of one server, in whatever history."""
    return one[0] == other[0] and all(a == b for a, b in zip(one[2:3], other[2:3], strict=False))


class TokenWaits:
    """All callers that wait for a token."""

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
            self._waits.remove(wait)

    def settle(self) -> None:
        """Wake the callers whose transaction has now been applied."""
        for token, future in tuple(self._waits):
            if self._done(token) and not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Raise `CacheClosed` in every waiting caller."""
        for _, future in self._waits:
            if not future.done():
                future.set_exception(CacheClosed())

    def _done(self, token: Token) -> bool:
        """Return True if a processed watermark includes this transaction, not another one with its id.

        A promotion or a restore begins another history, which the token names. After a crash, Postgres may
        give the id of a lost transaction to a new one. But a transaction that lies before the flushed
        position of the watermark cannot be lost.
        """
        watermark = self._freshness.watermark
        return (
            watermark is not None
            and watermark.database == token.database
            and lsn(watermark.flushed) > token.lsn
            and watermark.seen.includes(token.xid)
        )
