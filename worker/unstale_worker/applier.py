"""Carries a plan out against Redis: atomic scripts of about 1,000 keys; the last one stores the position.

Every script requires fence, run, epoch and position; one that is refused, fails, or whose reply is lost means
the same: read the state and start again. Only the last script moves the position, and it is sent only after
all others of its batch were acknowledged.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from unstale.errors import LeadershipLost, PositionMoved, RedisUnavailable
from unstale.messages import MAX_MESSAGE_BYTES, key_list
from unstale.names import Names, glob_regex
from unstale.scripts import Argument, Script
from unstale_worker.sources import Page
from unstale_worker.state import State

STATE: Final = Script("unstale_worker", "state")
APPLY: Final = Script("unstale_worker", "apply")
DROP: Final = Script("unstale_worker", "drop")
RECOVER: Final = Script("unstale_worker", "recover")
NEW_EPOCH: Final = Script("unstale_worker", "new_epoch")
WATERMARK: Final = Script("unstale_worker", "watermark")

BODY_BYTES: Final = MAX_MESSAGE_BYTES - 512
"""Room for keys and patterns in a message: the rest is its epoch, ids and punctuation."""
PIPELINED: Final = 16
"""Scripts sent before their replies are awaited: hides the round trip, and Redis serves others between."""
SCAN_COUNT: Final = 1_000
"""Keys a SCAN step looks at: about 0.2 ms of the server's time."""
SINGLE_PASS: Final = 4
"""From this many patterns on, one SCAN of everything is matched here instead of one SCAN each."""


class Applier:
    """The only writer of the state, on behalf of the leader with this fence.

    Example:
        >>> applier = Applier(redis, Names(), fence=7, log_max_bytes=32 << 20)
        >>> state = await applier.state()
    """

    def __init__(
        self, redis: Redis, names: Names, *, fence: int, log_max_bytes: int, script_keys: int = 1_000
    ) -> None:
        self._redis, self._names, self._fence = redis, names, str(fence)
        self._log_max_bytes, self._script_keys = log_max_bytes, script_keys
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
        if state.fence != self._fence:
            raise LeadershipLost(
                f"fence {state.fence or 'none'} stands in Redis, and this worker has {self._fence}"
            )
        return state

    async def apply(
        self, state: State, page: Page, *, keys: Sequence[str], patterns: Sequence[str], store: bool
    ) -> State:
        """Invalidate; with ``store`` also move the position to the page's. Returns the state after it."""
        names = self._names
        reserved = names.tag
        wanted = [key for key in keys if not key.startswith(reserved)]
        if patterns:
            await self._drop(state, patterns)
        bodies = list(self._bodies(wanted, patterns))
        arguments = [names.channel, self._fence, state.epoch, state.position]
        final: list[Argument] = [page.position, page.flushed, page.database] if store else []
        calls: list[tuple[list[str], list[Argument]]] = [
            (
                [names.state, names.log, *chunk],
                [*arguments, keys_json, patterns_json, self._log_max_bytes, page.lsn],
            )
            for chunk, keys_json, patterns_json in bodies
        ]
        if store and not calls:
            calls.append(
                ([names.state, names.log], [*arguments, b"[]", b"[]", self._log_max_bytes, page.lsn])
            )
        head, tail = (calls[:-1], calls[-1:]) if store else (calls, [])
        for start in range(0, len(head), PIPELINED):
            self._count(await self._pipelined(APPLY, head[start : start + PIPELINED]))
        for script_keys, script_arguments in tail:
            self._count([await self._run(APPLY, script_keys, [*script_arguments, *final])])
        self.keys += len(wanted)
        return state.advanced(page) if store else state

    async def watermark(self, state: State, *, seen: str, lsn: str, age: float, primary_until: str) -> str:
        """Publish up to where everything is applied; returns the ``primary_until`` that stands now."""
        reply = await self._run(
            WATERMARK,
            [self._names.state, self._names.log],
            [
                self._names.channel, self._fence, state.epoch, state.position,
                seen, lsn, state.rules, f"{age * 1000:.3f}", primary_until,
            ],
        )  # fmt: skip
        accepted(reply)
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
        age_of: Callable[[Page], float],
    ) -> Page:
        """Snapshot first, then drop every owned key, then store the snapshot under a new epoch.

        The last script requires the run that was seen before the snapshot, so a failover in between, which
        may bring old keys back, refuses it. Returns the page that the position is of.
        """
        page = await snapshot()
        await self._drop(state, sorted(set(patterns)))
        reply = await self._run(
            RECOVER,
            [self._names.state, self._names.log, self._names.rules],
            [
                self._names.channel, self._fence, state.position, state.live_run, secrets.token_hex(16),
                page.position, page.lsn, page.flushed, page.database, rules, published,
                page.snapshot, f"{age_of(page) * 1000:.3f}",
            ],
        )  # fmt: skip
        accepted(reply)
        return page

    async def published(self) -> bytes | None:
        """The rules that are published now."""
        try:
            found: Any = await self._redis.get(self._names.rules)
        except RedisError as error:
            raise unavailable(error) from error
        return bytes(found) if found is not None else None

    def _bodies(
        self, keys: Sequence[str], patterns: Sequence[str]
    ) -> Iterator[tuple[list[str], bytes, bytes]]:
        """Split into scripts: so many keys, so many bytes of JSON, all patterns in the last ones."""
        for start in range(0, len(keys), self._script_keys):
            yield from self._fitting(list(keys[start : start + self._script_keys]), as_patterns=False)
        if patterns:
            yield from self._fitting(list(patterns), as_patterns=True)

    def _fitting(self, items: list[str], *, as_patterns: bool) -> Iterator[tuple[list[str], bytes, bytes]]:
        encoded = key_list(items)
        if len(encoded) > BODY_BYTES and len(items) > 1:
            middle = len(items) // 2
            yield from self._fitting(items[:middle], as_patterns=as_patterns)
            yield from self._fitting(items[middle:], as_patterns=as_patterns)
        elif as_patterns:
            yield [], b"[]", encoded
        else:
            yield items, encoded, b"[]"

    async def _drop(self, state: State, patterns: Sequence[str]) -> None:
        """Unlink what a SCAN of the primary finds; refused unless fence, run and position stand."""
        arguments = [self._fence, state.position, state.live_run]
        async for found in self._scan(patterns):
            for start in range(0, len(found), self._script_keys):
                chunk = found[start : start + self._script_keys]
                reply = await self._run(DROP, [self._names.state, self._names.log, *chunk], arguments)
                accepted(reply)
                self.unlinked += int(reply[1])

    async def _scan(self, patterns: Sequence[str]) -> AsyncIterator[list[bytes]]:
        """Existing keys that match, in steps; unstale's own are left out."""
        reserved = self._names.tag.encode()
        globs = list(patterns) if len(patterns) < SINGLE_PASS else ["*"]
        tests = [glob_regex(pattern).match for pattern in patterns] if globs == ["*"] else []
        for glob in globs:
            cursor = 0
            while True:
                try:
                    step: Any = await self._redis.scan(cursor, match=glob, count=SCAN_COUNT)
                except RedisError as error:
                    raise unavailable(error) from error
                cursor, found = step
                keys: list[bytes] = [key for key in found if not key.startswith(reserved)]
                if tests:
                    keys = [key for key in keys if any(test(key) for test in tests)]
                if keys:
                    yield keys
                if cursor == 0:
                    break

    async def _run(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Argument]
    ) -> list[Any]:
        try:
            reply: list[Any] = await script(self._redis, keys=keys, args=arguments)
        except RedisError as error:
            raise unavailable(error) from error
        return reply

    async def _pipelined(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[list[Any]]:
        async def send() -> list[list[Any]]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for keys, arguments in calls:
                    script.queue(pipeline, keys=keys, args=arguments)
                replies: list[list[Any]] = await pipeline.execute()
                return replies

        try:
            try:
                return await send()
            except NoScriptError:
                # Nothing of it moved the position, so sending it all again only repeats invalidations.
                await script.load(self._redis)
                return await send()
        except RedisError as error:
            raise unavailable(error) from error

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
    raise PositionMoved(reason)


def unavailable(error: RedisError) -> RedisUnavailable:
    """Our error for redis-py's; the text names the kind, never the URL."""
    return RedisUnavailable(f"Redis did not carry out a command ({type(error).__name__}: {str(error)[:200]})")
