"""The refresh set in Redis: which keys are to be refreshed, and when each is due."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unstale.redis_tier.scripts import Script
from unstale_worker.refresh.redis.calls import RedisCalls, milliseconds

CLAIM: Final = Script("unstale_worker.refresh.redis", "refresh_claim")
ADOPT: Final = Script("unstale_worker.refresh.redis", "refresh_adopt")

VISIBILITY: Final = 20.0
"""Seconds after which a key that the leader claimed is due again; a refresh that runs extends that."""
CLAIM_MOST: Final = 1_000
"""Keys in one claim: about a millisecond of the server's time."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """Keys claimed together.

    Attributes:
        keys: In the order in which they became due.
        next_due: Seconds until the next key of the set is due; None: no key waits for its time.
        now: The server's time in ms since 1970.
    """

    keys: tuple[str, ...]
    next_due: float | None
    now: int


class RefreshSet(RedisCalls):
    """The refresh set, as the leader works on it.

    A key stays in the set until its refresh is stored, fails for good or is not wanted any more. Claiming it
    only moves the time when it is due. Every method raises `RedisUnavailable`, and may be repeated.

    Example:
        >>> claimed = await refresh_set.claim()
        >>> await refresh_set.forget([key for key in claimed.keys if rules.refresh_of(key) is None])
    """

    async def claim(self, *, most: int = CLAIM_MOST, visibility: float = VISIBILITY) -> Claimed:
        """Claim keys that are due; after ``visibility`` seconds they are due again.

        A member that is not UTF-8 cannot be a key. It is removed.
        """
        reply = await self._run(CLAIM, [self._names.refresh], [most, milliseconds(visibility)])
        found, following, now = reply
        members, strange = _decoded(found)
        keys = map(self._names.key_of, members)
        if strange:
            await self._command("ZREM", self._names.refresh, *strange)
        return Claimed(tuple(keys), None if int(following) < 0 else int(following) / 1000, int(now))

    async def adopt(self, *, after: float) -> int:
        """Make due now what an earlier leader claimed or made ready: keys due in over ``after`` seconds."""
        total, moved = 0, CLAIM_MOST
        while moved == CLAIM_MOST:
            moved = int(await self._run(ADOPT, [self._names.refresh], [milliseconds(after), CLAIM_MOST]))
            total += moved
        return total

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove keys for which the rules have no refresh any more."""
        if keys:
            await self._command("ZREM", self._names.refresh, *map(self._names.stored, keys))


def _decoded(members: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
    """Return the names among the members, and the members that are not UTF-8."""
    keys: list[str] = []
    strange: list[bytes] = []
    for member in members:
        try:
            keys.append(member.decode())
        except UnicodeDecodeError:
            strange.append(member)
    return keys, strange
