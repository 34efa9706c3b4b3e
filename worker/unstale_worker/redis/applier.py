"""Carries a plan out against Redis: atomic scripts of about 1,000 keys; the last one stores the position.

Every script requires fence, run, epoch and position; one that is refused, fails, or whose reply is lost means
the same: read the state and start again. Only the last script moves the position, and it is sent only after
all others of its batch were acknowledged.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from unstale.errors import LeadershipLost, PositionMoved, RedisUnavailable
from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Lane
from unstale.redis_tier.scripts import Argument, Script
from unstale.runtime import failpoints
from unstale_worker.redis.key_scan import scan
from unstale_worker.redis.script_batches import BEFORE_GROUPS, RENEWED_WEIGHT, Body, renewed, split
from unstale_worker.redis.state import Seen, State
from unstale_worker.rules import Renewal
from unstale_worker.sources import Page

STATE: Final = Script("unstale_worker.redis", "state")
APPLY: Final = Script("unstale_worker.redis", "apply")
DROP: Final = Script("unstale_worker.redis", "drop")
RECOVER: Final = Script("unstale_worker.redis", "recover")
NEW_EPOCH: Final = Script("unstale_worker.redis", "new_epoch")
WATERMARK: Final = Script("unstale_worker.redis", "watermark")

PIPELINED: Final = 16
"""Scripts sent before their replies are awaited: hides the round trip, and Redis serves others between."""


class Applier:
    """The only writer of the state, on behalf of the leader with this fence.

    Example:
        >>> applier = Applier(lane, Names(), fence=7, log_max_bytes=32 << 20)
        >>> state = await applier.state()
    """

    def __init__(
        self, lane: Lane, names: Names, *, fence: int, log_max_bytes: int, script_keys: int = 1_000
    ) -> None:
        self._lane, self._names, self._fence = lane, names, str(fence)
        self._log_max_bytes, self._script_keys = log_max_bytes, script_keys
        self._server_ahead: float | None = None
        self.keys = 0
        """Keys invalidated so far."""
        self.unlinked = 0
        """Keys that existed."""
        self.messages = 0
        """Log entries written so far."""

    def __repr__(self) -> str:
        return f"<Applier fence={self._fence} keys={self.keys} messages={self.messages}>"

    async def state(self) -> State:
        """Read the state; raises `LeadershipLost` when another fence stands there."""
        reply = await self._run(STATE, [self._names.state], [])
        if reply[1] not in (b"hash", b"none"):
            raise RedisUnavailable(
                f"the key {self._names.state} holds a {reply[1].decode()}; delete it and it is made anew"
            )
        state = State.read(reply[0], reply[2:])
        self._set_clock(reply[3])
        if state.fence != self._fence:
            raise LeadershipLost(
                f"fence {state.fence or 'none'} stands in Redis, and this worker has {self._fence}"
            )
        return state

    async def apply(
        self,
        state: State,
        page: Page,
        *,
        keys: Iterable[str],
        patterns: Sequence[str],
        store: bool,
        say: Seen | None = None,
        renewals: Mapping[str, Renewal] = MappingProxyType({}),
        stale: bool = False,
    ) -> tuple[State, str]:
        """Invalidate; with ``store`` also move the position to the page's, and say a watermark.

        Of ``keys``, those in ``renewals`` are made new; with ``stale`` the patterns' stale values go too.
        Returns the state after it, and the ``primary_until`` that stands after a watermark.
        """
        names = self._names
        wanted = [key for key in keys if not key.startswith(names.tag)]
        if patterns:
            await self._drop(state, patterns, lsn=page.lsn, stale=stale)
            if failpoints.on:
                await failpoints.reach("applier.after_drop")
        before: list[Argument] = [names.channel, self._fence, state.epoch, state.position]
        after: list[Argument] = [self._log_max_bytes, page.lsn]
        final: list[Argument] = [page.position, page.flushed, page.database] if store else []
        if say is not None:
            final += [say.snapshot, state.rules, say.age_ms(time.monotonic()), say.primary_until]
            final += self._began(say)
        most = max(1, self._script_keys // RENEWED_WEIGHT) if renewals else self._script_keys
        bodies = list(split(wanted, patterns, most_keys=most))
        if store and not bodies:
            bodies.append(Body([], b"[]", b"[]"))
        last = len(bodies) - 1 if store else len(bodies)
        calls = []
        for number, body in enumerate(bodies):
            arguments = [*before, body.keys_json, body.patterns_json, *after]
            arguments += final if number == last else ()
            chunk = body.keys
            if renewals:
                chunk, groups = renewed(chunk, renewals, names)
                if groups:
                    arguments += [""] * (BEFORE_GROUPS - len(arguments)) + groups
            calls.append(APPLY.call(keys=[names.state, names.log, *chunk], args=arguments))
        for start in range(0, last, PIPELINED):
            if failpoints.on:
                await failpoints.reach("applier.before_script")
            self._count(await self._pipelined(APPLY, calls[start : min(start + PIPELINED, last)]))
        pending = b""
        if store:
            if failpoints.on:
                await failpoints.reach("applier.before_last_script")
            (reply,) = await self._pipelined(APPLY, calls[last:])
            self._count([reply])
            pending = reply[3]
            self._set_clock(reply[4])
        self.keys += len(wanted)
        return (state.advanced(page) if store else state), pending.decode()

    async def watermark(self, state: State, seen: Seen) -> str:
        """Publish up to where everything is applied; returns the ``primary_until`` that stands now."""
        reply = await self._run(
            WATERMARK,
            [self._names.state, self._names.log],
            [
                self._names.channel, self._fence, state.epoch, state.position,
                seen.snapshot, seen.lsn, state.rules, seen.age_ms(time.monotonic()), seen.primary_until,
                *(self._began(seen) or [""]), seen.flushed, seen.database,
            ],
        )  # fmt: skip
        accepted(reply)
        self._set_clock(reply[2])
        return bytes(reply[1]).decode()

    async def new_epoch(self, state: State) -> None:
        """Begin a new history on another run, from the stored position."""
        epoch = secrets.token_hex(16)
        reply = await self._run(
            NEW_EPOCH,
            [self._names.state, self._names.log],
            [self._names.channel, self._fence, state.position, epoch],
        )
        accepted(reply)

    async def recover(
        self,
        state: State,
        *,
        rules: str,
        published: bytes,
        patterns: Iterable[str],
        snapshot: Callable[[], Awaitable[Page]],
        stale: bool = False,
    ) -> Seen:
        """Snapshot first, then drop every owned key, then store the snapshot under a new epoch.

        With ``stale`` their stale values go too.

        The last script requires the run that was seen before the snapshot, so a failover in between, which
        may bring old keys back, refuses it.
        """
        began_there = self.server_time()
        page = await snapshot()
        seen = Seen.of(page, began=page.began, primary_until="", began_there=began_there)
        await self._drop(state, sorted(set(patterns)), lsn=page.lsn, stale=stale)
        if failpoints.on:
            await failpoints.reach("applier.before_recover")
        reply = await self._run(
            RECOVER,
            [self._names.state, self._names.log, self._names.rules],
            [
                self._names.channel, self._fence, state.position, state.live_run, secrets.token_hex(16),
                page.position, page.lsn, page.flushed, page.database, rules, published,
                page.snapshot, seen.age_ms(time.monotonic()), *self._began(seen),
            ],
        )  # fmt: skip
        accepted(reply)
        return seen

    async def published(self) -> bytes | None:
        """The rules that are published now."""
        found: Any = await self._lane.get(self._names.rules)
        return bytes(found) if found is not None else None

    def _set_clock(self, server_ms: bytes) -> None:
        """Note how far the server's clock is ahead of ours, at least: it read its own before we did."""
        self._server_ahead = float(server_ms) - time.monotonic() * 1000

    def server_time(self) -> str:
        """Now by the server's clock, in milliseconds, at the earliest; '' while unknown.

        To be asked when a read *begins*. Ours stands still while this machine sleeps, and the next reply then
        puts the server's further ahead: a beginning that is converted later would be too late by just that,
        and an old read pass for a fresh one.
        """
        if self._server_ahead is None:
            return ""
        return f"{time.monotonic() * 1000 + self._server_ahead:.3f}"

    @staticmethod
    def _began(seen: Seen) -> list[Argument]:
        """When the read began by the server's clock, so that its age there is never understated.

        A worker may be paused at any moment, also between its look at the clock and the script.
        """
        return [seen.began_there] if seen.began_there else []

    async def _drop(self, state: State, patterns: Sequence[str], *, lsn: str, stale: bool) -> None:
        """Raise need_lsn, then unlink what a SCAN of the primary finds; if fence, run and position stand."""
        arguments = [self._fence, state.position, state.live_run, lsn]
        accepted(await self._run(DROP, [self._names.state, self._names.log], arguments))
        async for found in scan(self._command, self._names, patterns, stale=stale):
            for start in range(0, len(found), self._script_keys):
                chunk = found[start : start + self._script_keys]
                reply = await self._run(DROP, [self._names.state, self._names.log, *chunk], arguments)
                accepted(reply)
                self.unlinked += int(reply[1])

    async def _command(self, *parts: Argument) -> Any:
        try:
            return await self._lane.execute_command(*parts)
        except RedisError as error:
            raise unavailable(error) from error

    async def _run(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            reply: list[Any] = await script(self._lane, keys=keys, args=arguments)
        except RedisError as error:
            raise unavailable(error) from error
        return reply

    async def _pipelined(self, script: Script, calls: Sequence[tuple[Argument, ...]]) -> list[list[Any]]:
        """Send several calls of one script; again after a NOSCRIPT, which only repeats removals."""
        replies: list[Any] = await self._lane.pipeline(*calls)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._command("SCRIPT LOAD", script.text)
            replies = await self._lane.pipeline(*calls)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise unavailable(reply) from reply
        return replies

    def _count(self, replies: Sequence[list[Any]]) -> None:
        for reply in replies:
            accepted(reply)
            self.messages += bool(reply[1])
            self.unlinked += int(reply[2])


def accepted(reply: Sequence[Any]) -> None:
    """Raise what a refusal means."""
    if reply[0] == b"ok":
        return
    reason = bytes(reply[1]).decode()
    if reason == "fence":
        raise LeadershipLost("another worker raised the fence")
    if reason == "type":
        raise RedisUnavailable("the state or log key holds another type; delete it and it is made anew")
    raise PositionMoved(reason)


def unavailable(error: RedisError) -> RedisUnavailable:
    """Our error for redis-py's; the text names the kind, never the URL."""
    check = "; check REDIS_URL and the server" if isinstance(error, RedisConnectionError) else ""
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return RedisUnavailable(f"Redis did not carry out a command ({said}){check}")
