"""Puts other rules in force: drops the keys of the patterns that changed, and nothing else."""

import json
from collections.abc import Callable, Sequence
from typing import Final

from unstale.protocol.messages import PublishedRules
from unstale.protocol.names import Names
from unstale.protocol.reasons import Kind
from unstale.redis_tier.scripts import Script
from unstale.runtime import failpoints
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.script_batches import always
from unstale_worker.redis.state import Adopting, StoredState
from unstale_worker.sources import Page

ADOPT: Final = Script("unstale_worker.redis", "adopt")


class Adoption:
    """Changes of the rules, on behalf of the leader whose `Applier` this uses.

    Example:
        >>> adoption = Adoption(applier, Names())
        >>> await adoption.adopt(state, page, now, adopting)
    """

    def __init__(self, applier: Applier, names: Names) -> None:
        self._applier, self._names = applier, names

    async def adopt(
        self,
        state: StoredState,
        page: Page,
        now: PublishedRules,
        adopting: Adopting,
        *,
        lives: Sequence[str] = (),
        beside: bool = False,
    ) -> None:
        """Put the rules ``now`` in force, and continue from the position.

        Agents read the new rules when everything is dropped. Until then the state says what is left to do.

        Args:
            state: The state the scripts require.
            page: A page that was read from the state's position just now.
            now: The rules.
            adopting: The rules before, and the patterns to drop.
            lives: Globs of keys whose TTL changed: stored values may live longer than it says.
            beside: Drop the patterns' stale and spare values too.
        """
        run = self._applier.run
        await run(ADOPT, state, adopting=adopting.encode())
        if failpoints.on:
            await failpoints.reach("adoption.begun")
        patterns = sorted(adopting.patterns)
        await self._applier.apply(
            state, page, keys=(), patterns=patterns, store=False, beside=beside, reason=always(Kind.RULES)
        )
        if failpoints.on:
            await failpoints.reach("adoption.before_published")
        left = dict.fromkeys([*state.shortening, *lives])
        also = {"lives": json.dumps(list(left))} if left else {}
        await run(ADOPT, state, [self._names.rules], [now.encode()], rules=now.hash, **also)

    async def shorten(self, globs: Sequence[str], life: Callable[[str], float | None]) -> bool:
        """Let stored values of keys that ``globs`` match live for ``life`` seconds at most; None: leave it.

        It may take seconds, and may run beside batches. Returns False if another worker leads.
        """
        async for found in self._applier.existing(globs):
            groups: dict[float, list[bytes]] = {}
            for key in found:
                seconds = life(self._names.key_of(key.decode("utf-8", "surrogateescape")))
                if seconds is not None:
                    groups.setdefault(seconds, []).append(key)
            for seconds, keys in groups.items():
                if failpoints.on:
                    await failpoints.reach("adoption.before_shorten")
                if not await self._applier.shorten(keys, max(1, round(seconds * 1000))):
                    return False
        return True

    def __repr__(self) -> str:
        return f"<Adoption {self._applier!r}>"
