"""Applies plans to Redis with atomic scripts of about 1,000 keys each.

Every script requires the fence, run, epoch and position that the state had. If a script is refused or fails,
or its reply is lost, the worker reads the state and starts again. Only the last script of a batch moves the
position, and it is sent only after all others were acknowledged.
"""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from unstale.errors import LeadershipLost, PositionMoved, RedisUnavailable
from unstale.protocol.names import Names
from unstale.redis_tier.moves import SlotWatch
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.refusal import refusal
from unstale.redis_tier.scripts import Argument, Script
from unstale.runtime import failpoints
from unstale_worker.redis.key_scan import scan
from unstale_worker.redis.script_batches import (
    REFRESH_WEIGHT,
    ScriptBody,
    group_refreshes,
    script_header,
    split,
    watermark_fields,
)
from unstale_worker.redis.stamps import Stamps
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.rules import Renewal
from unstale_worker.runtime.slices import Slices
from unstale_worker.sources import Page

STATE: Final = Script("unstale_worker.redis", "state")
APPLY: Final = Script("unstale_worker.redis", "apply")
DROP: Final = Script("unstale_worker.redis", "drop")
RECOVER: Final = Script("unstale_worker.redis", "recover")
NEW_EPOCH: Final = Script("unstale_worker.redis", "new_epoch")
ENTER: Final = Script("unstale_worker.redis", "enter")
WATERMARK: Final = Script("unstale_worker.redis", "watermark")
RULES: Final = Script("unstale_worker.redis", "rules")
SHORTEN: Final = Script("unstale_worker.redis", "shorten")

PIPELINED: Final = 16
"""Scripts sent before their replies are awaited: hides the round trip, and Redis serves others in between."""


class FenceRaised(LeadershipLost):
    """A partition has a higher fence than this worker's leadership."""

    def __init__(self, fence: int) -> None:
        super().__init__(f"a partition has the fence {fence}")
        self.fence = fence


class Applier:
    """Writes the state, log and keys on behalf of the leader with this fence; nobody else does.

    Example:
        >>> applier = Applier(multiplexer, Names(), fence=7, log_max_bytes=32 << 20)
        >>> state = await applier.state()
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        names: Names,
        *,
        fence: int,
        log_max_bytes: int,
        script_keys: int = 1_000,
    ) -> None:
        self._multiplexer, self._names, self._fence = multiplexer, names, str(fence)
        self._log_max_bytes, self._script_keys = log_max_bytes, script_keys
        self._server_ahead: float | None = None
        self._stamps = Stamps(multiplexer)
        self.keys = 0
        """Keys invalidated so far."""
        self.unlinked = 0
        """Keys among them that existed."""
        self.messages = 0
        """Log entries written so far."""

    def __repr__(self) -> str:
        return f"<Applier fence={self._fence} keys={self.keys} messages={self.messages}>"

    @property
    def names(self) -> Names:
        """The names of the partition that this writes to."""
        return self._names

    async def enter(self) -> None:
        """Store the fence in a partition that is not the one of the lease; raises `FenceRaised`."""
        try:
            fence = await ENTER(self._multiplexer, keys=[self._names.state], args=[self._fence])
        except RedisError as error:
            raise unavailable(error) from error
        if int(fence) > int(self._fence):
            raise FenceRaised(int(fence))

    def reconnect(self) -> None:
        """Use a new connection from the next script on, because another server may be the primary."""
        self._multiplexer.renew()

    async def state(self) -> StoredState:
        """Read the state; raises `LeadershipLost` if it holds another fence."""
        self._stamps.check_connection()
        reply = await self._run(STATE, [self._names.state], [])
        if reply[1] not in (b"hash", b"none"):
            raise RedisUnavailable(
                f"the key {self._names.state} holds a {reply[1].decode()} instead of a hash; delete it, "
                "and the worker creates it again"
            )
        state = StoredState.read(reply[0], reply[2:])
        self._set_clock(reply[3])
        if state.fence != self._fence:
            raise LeadershipLost(
                f"Redis has the fence {state.fence or 'none'}, and this worker has {self._fence}"
            )
        return replace(state, unproved=not self._stamps.proved(state))

    async def apply(
        self,
        state: StoredState,
        page: Page,
        *,
        keys: Iterable[str],
        patterns: Sequence[str],
        store: bool,
        seen: Seen | None = None,
        renewals: Mapping[str, Renewal] = MappingProxyType({}),
        beside: bool = False,
        broken: str | None = None,
        near: Sequence[str] = (),
        reason: Callable[[ScriptBody], bytes] = lambda _: b"",
    ) -> tuple[StoredState, str]:
        """Invalidate keys and patterns.

        Args:
            state: The state the scripts require.
            page: The page of the outbox that is applied.
            keys: Keys to invalidate; unstale's own are left alone.
            patterns: Patterns whose existing keys are invalidated.
            store: Move the position to the page's.
            seen: With ``store``, publish a watermark of this read in the same script.
            renewals: Those of ``keys`` that are refreshed, and how.
            beside: Drop the patterns' stale and spare values too.
            broken: Without ``store``: store these tables in the state, as a JSON array, in the last script.
            near: Patterns of which agents drop their near copies; the keys stay.
            reason: Returns what the log keeps as the reason of a script; see `unstale.protocol.reasons`.

        Returns:
            The state afterwards, and the ``primary_until`` that stands after a watermark.
        """
        names = self._names
        wanted = [key for key in keys if not key.startswith(names.reserved)]
        if patterns:
            await self._drop(state, patterns, lsn=page.lsn, beside=beside)
            if failpoints.on:
                await failpoints.reach("applier.after_drop")
        if names.cluster:
            renewals = {names.stored(key): renewal for key, renewal in renewals.items()}
        common: dict[str, Any] = {"channel": names.channel, "epoch": state.epoch}
        common |= {"position": state.position, "lsn": page.lsn, "log_bytes": self._log_max_bytes}
        final: dict[str, Any] = {}
        if store:
            final = {"new_position": page.position, "flushed": page.flushed, "database": page.database}
        if seen is not None:
            final["watermark"] = watermark_fields(seen, rules=state.rules)
        noted = {} if broken is None else {"broken": broken}
        most = max(1, self._script_keys // REFRESH_WEIGHT) if renewals else self._script_keys
        slices, bodies = Slices(), list[ScriptBody]()
        for body in split(wanted, [*patterns, *near], most_keys=most):
            bodies.append(body)
            await slices.pause()
        if store and not bodies:
            bodies.append(ScriptBody([], b"[]", b"[]"))
        last = len(bodies) - 1 if store else len(bodies)
        plain_header = None if self._stamps.needed else self._header(**common)

        def call(body: ScriptBody, more: dict[str, Any]) -> tuple[Argument, ...]:
            chunk = body.keys
            if names.cluster:
                chunk = list(map(names.stored, chunk))
            if renewals:
                chunk, refresh = group_refreshes(chunk, renewals, names)
                if refresh is not None:
                    more = {**more, "refresh": refresh}
            header = self._header(**common, **more) if more or plain_header is None else plain_header
            arguments = [header, body.keys_json, body.patterns_json, reason(body)]
            return APPLY.call(keys=[names.state, names.log, *chunk], args=arguments)

        for start in range(0, last, PIPELINED):
            some = bodies[start : min(start + PIPELINED, last)]
            calls = [call(body, noted if body is bodies[-1] else {}) for body in some]
            if failpoints.on:
                await failpoints.reach("applier.before_script")
            self._count(await self._pipelined(APPLY, calls))
        pending = b""
        if store:
            if failpoints.on:
                await failpoints.reach("applier.before_last_script")
            (reply,) = await self._pipelined(APPLY, [call(bodies[last], final)])
            self._count([reply])
            pending = reply[3]
            self._set_clock(reply[4])
        self.keys += len(wanted)
        return (state.advanced(page) if store else state), pending.decode()

    async def watermark(self, state: StoredState, seen: Seen) -> str:
        """Publish up to where everything is applied; returns the ``primary_until`` that stands now."""
        header = self._header(
            channel=self._names.channel,
            epoch=state.epoch,
            position=state.position,
            lsn=seen.lsn,
            flushed=seen.flushed,
            database=seen.database,
            watermark=watermark_fields(seen, rules=state.rules),
        )
        reply = await self._run(WATERMARK, [self._names.state, self._names.log], [header])
        accepted(reply)
        self._set_clock(reply[2])
        return bytes(reply[1]).decode()

    async def new_epoch(self, state: StoredState, *, why: str = "", published: bytes | None = None) -> None:
        """Begin a new epoch from the stored position: on another run, or to let agents read ``published``."""
        header = self._header(
            channel=self._names.channel,
            position=state.position,
            new_epoch=secrets.token_hex(16),
            why=why,
        )
        keys, args = [self._names.state, self._names.log], [header]
        if published is not None:
            keys.append(self._names.rules)
            args.append(published)
        accepted(await self._run(NEW_EPOCH, keys, args))

    async def recover(
        self,
        state: StoredState,
        *,
        rules: str,
        published: bytes,
        why: str = "",
        patterns: Iterable[str],
        snapshot: Callable[[], Awaitable[Page]],
        beside: bool = False,
    ) -> Seen:
        """Take a snapshot, drop every owned key, then store the snapshot as the position of a new epoch.

        With ``beside`` the keys' stale and spare values are dropped too. The last script requires the run
        that answered before the snapshot: a failover in between may bring old keys back, so it refuses the
        script.
        """
        began_there = self.server_time()
        page = await snapshot()
        seen = Seen.of(page, began=page.began, primary_until="", began_there=began_there)
        await self._drop(state, sorted(set(patterns)), lsn=page.lsn, beside=beside)
        if failpoints.on:
            await failpoints.reach("applier.before_recover")
        header = self._header(
            channel=self._names.channel,
            position=state.position,
            run=state.live_run,
            new_epoch=secrets.token_hex(16),
            new_position=page.position,
            lsn=page.lsn,
            flushed=page.flushed,
            database=page.database,
            watermark=watermark_fields(seen, rules=rules),
            why=why,
        )
        keys = [self._names.state, self._names.log, self._names.rules]
        accepted(await self._run(RECOVER, keys, [header, published]))
        return seen

    async def run(
        self,
        script: Script,
        state: StoredState,
        keys: Sequence[str | bytes] = (),
        arguments: Sequence[Argument] = (),
        **fields: Any,
    ) -> None:
        """Run a script that requires ``state``; with more ``keys``, ``arguments`` and header ``fields``."""
        header = self._header(epoch=state.epoch, position=state.position, **fields)
        accepted(await self._run(script, [self._names.state, self._names.log, *keys], [header, *arguments]))

    async def shorten(self, keys: Sequence[bytes], most: int) -> bool:
        """Let these keys live for at most ``most`` milliseconds; return False if another worker leads."""
        return await self._shorten(keys, str(most))

    async def shortened(self, lives: str) -> bool:
        """Note that what the state's ``lives`` says is done; return False if another worker leads."""
        return await self._shorten((), lives)

    async def _shorten(self, keys: Sequence[bytes], argument: str) -> bool:
        call = SHORTEN(self._multiplexer, keys=[self._names.state, *keys], args=[self._fence, argument])
        try:
            return bool(await call)
        except RedisError as error:
            raise unavailable(error) from error

    async def existing(self, patterns: Sequence[str]) -> AsyncIterator[Sequence[bytes]]:
        """Yield the names of the keys that match ``patterns``, in chunks of one script; not unstale's own."""
        async for found in self._existing(patterns, beside=False):
            for start in range(0, len(found), self._script_keys):
                yield found[start : start + self._script_keys]

    async def keep_published(self, state: StoredState, published: bytes) -> bool:
        """Publish the rules again if Redis lost them; return True if it had."""
        keys = [self._names.state, self._names.log, self._names.rules]
        digest = hashlib.sha1(published, usedforsecurity=False).hexdigest()

        async def stand(text: bytes) -> bool:
            header = self._header(epoch=state.epoch, position=state.position)
            reply = await self._run(RULES, keys, [header, digest, text])
            accepted(reply)
            return bool(reply[1])

        if await stand(b""):
            return False
        await stand(published)
        return True

    async def published(self) -> bytes | None:
        """Return the rules that are published now."""
        found: Any = await self._multiplexer.get(self._names.rules)
        return bytes(found) if found is not None else None

    def server_time(self) -> str:
        """Return the server's time in milliseconds, at the earliest; '' while it is unknown.

        Ask when a read *begins*. This process' clock stands still while the machine sleeps, and the next
        reply then puts the server further ahead. A beginning converted after that would be too late by the
        time asleep, and an old read would pass for a fresh one.
        """
        if self._server_ahead is None:
            return ""
        return f"{time.monotonic() * 1000 + self._server_ahead:.3f}"

    def _set_clock(self, server_ms: bytes) -> None:
        """Note how far the server's clock is ahead of ours, at least: it was read before ours is now."""
        self._server_ahead = float(server_ms) - time.monotonic() * 1000

    async def _drop(self, state: StoredState, patterns: Sequence[str], *, lsn: str, beside: bool) -> None:
        """Raise need_lsn, then unlink what a SCAN of the primary finds."""
        keys = [self._names.state, self._names.log]

        def header() -> bytes:
            return self._header(position=state.position, run=state.live_run, lsn=lsn)

        accepted(await self._run(DROP, keys, [header()]))
        async for found in self._existing(patterns, beside=beside):
            for start in range(0, len(found), self._script_keys):
                some = found[start : start + self._script_keys]
                reply = await self._run(DROP, [*keys, *some], [header()])
                accepted(reply)
                self.unlinked += int(reply[1])

    async def _existing(self, patterns: Sequence[str], *, beside: bool) -> AsyncIterator[list[bytes]]:
        watch = SlotWatch(self._command, self._names)
        await watch.begin()
        async for found in scan(self._command, self._names, patterns, beside=beside):
            yield found
        await watch.end()

    def _header(self, **fields: Any) -> bytes:
        """Encode the header of a script that is sent next."""
        return script_header(fence=self._fence, **self._stamps.next(), **fields)

    async def _command(self, *parts: Argument) -> Any:
        try:
            return await self._multiplexer.execute_command(*parts)
        except RedisError as error:
            raise unavailable(error) from error

    async def _run(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            reply: list[Any] = await script(self._multiplexer, keys=keys, args=arguments)
        except BaseException as error:  # it may have run
            self._stamps.lost()
            if isinstance(error, RedisError):
                raise unavailable(error) from error
            raise
        return reply

    async def _pipelined(self, script: Script, calls: Sequence[tuple[Argument, ...]]) -> list[list[Any]]:
        """Send several calls of one script. After a NOSCRIPT send all again, which only repeats removals."""
        try:
            replies: list[Any] = await self._multiplexer.pipeline(*calls)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                first = ("EVAL", script.text, *calls[0][2:])  # loads it; SCRIPT LOAD may be refused
                replies = await self._multiplexer.pipeline(first, *calls[1:])
            for reply in replies:
                if isinstance(reply, RedisError):
                    raise unavailable(reply) from reply
        except BaseException:  # some may have run
            self._stamps.lost()
            raise
        return replies

    def _count(self, replies: Sequence[list[Any]]) -> None:
        for reply in replies:
            accepted(reply)
            self.messages += bool(reply[1])
            self.unlinked += int(reply[2])


def accepted(reply: Sequence[Any]) -> None:
    """Raise the error that a script's refusal stands for; return if the script ran."""
    if reply[0] == b"ok":
        return
    reason = bytes(reply[1]).decode()
    if reason == "fence":
        raise LeadershipLost("another worker raised the fence")
    if reason == "type":
        raise RedisUnavailable(
            "the state or log key holds another type; delete it, and the worker creates it again"
        )
    raise PositionMoved(reason)


def unavailable(error: RedisError) -> RedisUnavailable:
    """Convert redis-py's error into ours; the text names its kind and never contains the URL.

    It is a `RedisRefused` if the same ``REDIS_URL`` would meet the error again.
    """
    refused = refusal(error)
    if refused is not None:
        return refused
    check = "; check REDIS_URL and the server" if isinstance(error, RedisConnectionError) else ""
    text = f"{type(error).__name__}: {str(error)[:200]}"
    return RedisUnavailable(f"Redis did not carry out a command ({text}){check}")
