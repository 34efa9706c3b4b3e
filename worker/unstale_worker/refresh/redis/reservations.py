"""Ready keys of Python loaders: which process may call which loader now."""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from unstale.errors import ConfigurationError
from unstale.protocol import codec
from unstale.protocol.names import Names
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.scripts import Argument, Script
from unstale_worker.refresh.redis.calls import RedisCalls, milliseconds
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader, RefreshSpec

RESERVE: Final = Script("unstale_worker.refresh.redis", "refresh_reserve")
HOLD: Final = Script("unstale_worker.refresh.redis", "refresh_hold")

RANGE: Final = 10**13
"""Width of a range of scores: times in ms since 1970 stay below it until the year 2286."""
MOST_LOADERS: Final = 800
"""Python loaders in one rules file: a score is an exact number below 2**53, which is 900 ranges."""
RESERVE_MOST: Final = 64
"""Keys in one reservation: about a quarter of a millisecond of the server's time."""
READY_MOST: Final = 1_000
"""Keys in one command that makes them ready."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A key that this process may load now.

    Attributes:
        spec: The refresh whose loader is called.
        key: The key.
        lease: Names the loader's slot, and becomes the lease at the key.
    """

    spec: RefreshSpec
    key: str
    lease: bytes


class Reservations(RedisCalls):
    """Ready keys of Python loaders, and each loader's slots, rate and pause over all processes.

    The keys stand in the refresh set. A score below `RANGE` is the time when a key is due. The leader makes a
    due key of Python loader number n ready: its score is then n times `RANGE` plus that time. A process
    reserves ready keys and calls their loaders. A reserved key is due again after ``takeover`` seconds,
    unless its process extends that.

    Every method raises `RedisUnavailable`.

    Example:
        >>> await reservations.make_ready(spec, ["user:42:greeting"], now=claimed.now)
        >>> (reservation,) = await reservations.reserve(8)
        >>> await reservations.release(reservation, called=True)
    """

    def __init__(self, multiplexer: Multiplexer, names: Names, rules: Rules, *, takeover: float) -> None:
        super().__init__(multiplexer, names)
        self.takeover = takeover
        self._rules = rules.hash
        self._specs = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
        if len(self._specs) > MOST_LOADERS:
            raise ConfigurationError(
                f"{rules.file} has {len(self._specs)} refreshes with a Python loader; "
                f"at most {MOST_LOADERS} are possible. Join those whose keys differ only in a segment."
            )
        self._numbers = {spec.template.text: number for number, spec in enumerate(self._specs, 1)}
        self._turn = 0

    async def make_ready(self, spec: RefreshSpec, keys: Sequence[str], *, now: int) -> None:
        """Hand claimed keys to the processes that call loaders; ``now`` is the server's time in ms.

        Keys that left the set meanwhile stay out of it.
        """
        score = self._numbers[spec.template.text] * RANGE + now
        for start in range(0, len(keys), READY_MOST):
            members: list[Argument] = []
            for key in keys[start : start + READY_MOST]:
                members += (score, self._names.stored(key))
            await self._command("ZADD", self._names.refresh, "XX", *members)

    async def reserve(self, most: int, *, of: Collection[str] | None = None) -> list[Reservation]:
        """Reserve up to ``most`` ready keys, as many as their loaders' limits allow; one atomic step.

        ``of`` names the refreshes whose loaders can be called here, by their template; None: all.
        """
        specs = self._specs[self._turn :] + self._specs[: self._turn]
        if of is not None:
            specs = [spec for spec in specs if spec.template.text in of]
        self._turn = (self._turn + 1) % max(1, len(self._specs))
        token = secrets.token_hex(12) + "."
        keys = [self._names.refresh, self._names.state]
        arguments: list[Argument] = [
            self._rules, milliseconds(self.takeover), RANGE, min(most, RESERVE_MOST), codec.lease(token),
        ]  # fmt: skip
        for spec in specs:
            pattern, rate = spec.template.text, spec.rate
            keys += (
                self._names.refresh_pause(str(spec.loader)),
                self._names.refresh_running(pattern),
                self._names.refresh_rate(pattern),
            )
            arguments += (
                self._numbers[pattern],
                spec.concurrency,
                0 if rate is None else rate.count,
                0 if rate is None else milliseconds(rate.seconds),
            )
        reply = await self._run(RESERVE, keys, arguments)
        return [
            Reservation(
                specs[position - 1], self._names.key_of(key.decode()), codec.lease(f"{token}{number}")
            )
            for number, (position, key) in enumerate(zip(reply[::2], reply[1::2], strict=True), 1)
        ]

    async def hold(self, reservation: Reservation) -> None:
        """Keep the loader's slot for another ``takeover`` seconds."""
        running = self._names.refresh_running(reservation.spec.template.text)
        await self._run(HOLD, [running], [reservation.lease, milliseconds(self.takeover)])

    async def release(self, reservation: Reservation, *, called: bool) -> None:
        """Free the loader's slot; a loader that was not called does not count for the rate either."""
        pattern = reservation.spec.template.text
        await self._command("ZREM", self._names.refresh_running(pattern), reservation.lease)
        if not called and reservation.spec.rate is not None:
            await self._command("ZREM", self._names.refresh_rate(pattern), reservation.lease)

    async def pause(self, loader: str, *, seconds: float) -> None:
        """Keep every process from calling ``loader`` for a while; a longer pause that stands remains."""
        name, pause = self._names.refresh_pause(loader), milliseconds(seconds)
        await self._command("SET", name, "1", "PX", pause, "NX")
        await self._command("PEXPIRE", name, pause, "GT")
