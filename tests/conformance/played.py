"""Plays one case of ``following.json`` with the objects of the Python client.

Only the network is replaced: a server that answers as the case says, and a subscription on which arrives what
the case publishes. Time is virtual.
"""

import asyncio
import math
import random
from collections.abc import Callable
from typing import Any, Final, cast

import orjson
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from conformance.virtual_time import VirtualTimeLoop, settle
from unstale.freshness.published_rules import KnownRules
from unstale.freshness.subscriber import NEWEST, Subscriber
from unstale.freshness.trust import Freshness
from unstale.near_cache.in_flight import InFlightRead
from unstale.near_cache.local_state import LocalState
from unstale.protocol.names import Names
from unstale.reading.read_path import ReadPath
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.log_reader import LogReader
from unstale.redis_tier.multiplexer import Multiplexer
from unstale.redis_tier.tier import RedisTier

EPOCH_TIME: Final = 1_800_000_000.0
"""Clock of the played Redis, in seconds, when a case begins."""
TOLERANCE: Final = 0.001

Step = dict[str, Any]


class PlayedRedis:
    """Answers commands as the case says, and notes what was asked."""

    pausing = False

    def __init__(self, now: Any) -> None:
        self._now = now
        self.answers: dict[str, Any] = {}
        self.replays: list[object] = []

    async def execute_command(self, *parts: Any) -> Any:
        """Answer one command."""
        match parts:
            case ["EVALSHA", _, 2, _, _, after, _]:
                self.replays.append("newest" if after == NEWEST else int(after))
                reply = self._replay(int(after))
                await asyncio.sleep(self.answers["delay"])
                return reply
            case ["HGET", _, "applied_at"]:
                age = self.answers["applied_age_ms"]
                if age == "refused":
                    raise NoPermissionError("this user has no permissions to run the 'hget' command")
                return None if age is None else str(round(self._clock() * 1000 - age)).encode()
            case ["TIME"]:
                seconds = int(self._clock())
                return [seconds, round((self._clock() - seconds) * 1e6)]
            case ["GET", _]:
                rules = self.answers["rules"]
                text = rules if isinstance(rules, str) else orjson.dumps(rules).decode()
                return None if rules is None else text.encode()
            case _:
                raise AssertionError(f"no case says what Redis answers to {parts[0]}")

    def _clock(self) -> float:
        return EPOCH_TIME + cast(float, self._now())

    def _replay(self, after: int) -> list[Any]:
        said = self.answers
        if said["epoch"] is None:
            return [None, said["last"], 0, [], 0, b"", b""]
        entries = [
            [b"%d-0" % number, [b"m", body.encode()]] for number, body in said["entries"] if number > after
        ]
        age = b"" if said["age_ms"] is None else str(said["age_ms"]).encode()
        complete, rules = int(said["complete"]), said["rules_hash"].encode()
        return [said["epoch"].encode(), said["last"], complete, entries, said["stands"], age, rules]


class PlayedSubscription:
    """One pub/sub connection."""

    def __init__(self, network: "PlayedNetwork") -> None:
        self._network = network
        self._replies: asyncio.Queue[list[Any] | Exception] = asyncio.Queue()
        self.held: list[list[Any]] = []

    async def send_command(self, *parts: str) -> None:
        """Answer SUBSCRIBE at once, and PING unless the case holds PONGs back."""
        if parts[0] == "PING":
            pong = [b"pong", parts[1].encode()]
            if self._network.holds_pongs:
                self.held.append(pong)
            else:
                self._replies.put_nowait(pong)
        else:
            self._replies.put_nowait([b"subscribe", parts[1].encode(), 1])
            for payload in self._network.inbox:
                self.arrive(payload)
            self._network.inbox = []

    def arrive(self, payload: bytes) -> None:
        """Deliver a message."""
        self._replies.put_nowait([b"message", b"", payload])

    def pongs(self) -> None:
        """Deliver the PONGs that were held back."""
        for pong in self.held:
            self._replies.put_nowait(pong)
        self.held = []

    def lose(self) -> None:
        """End the connection."""
        self._replies.put_nowait(RedisConnectionError("connection closed by server"))

    async def read_response(self, timeout: float) -> list[Any]:
        """Return the next reply."""
        reply = await self._replies.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, *, nowait: bool) -> None:
        """Forget the connection."""


class PlayedNetwork:
    """Opens subscriptions; see `Connections`."""

    place, tls, database, asks_for_primary = "played", False, 0, False

    def __init__(self) -> None:
        self.opened = 0
        self.refuses = self.holds_pongs = False
        self.inbox: list[bytes] = []
        self.current: PlayedSubscription | None = None

    def new(self) -> PlayedSubscription:
        """Return a connection that is not open yet."""
        return PlayedSubscription(self)

    async def open(self, connection: PlayedSubscription) -> None:
        """Open it, unless the case refuses."""
        if self.refuses:
            raise RedisConnectionError("connection refused")
        self.opened += 1
        self.current = connection

    async def led_elsewhere(self, connection: PlayedSubscription) -> bool:
        """Return False: there is one server."""
        return False


class Player:
    """Plays the steps of one case, and compares after each that says what to expect."""

    def __init__(self, loop: VirtualTimeLoop, case: Step) -> None:
        settings = case["settings"]
        self._loop = loop
        self._reads: dict[str, InFlightRead] = {}
        self._replays_seen = 0
        self.redis, self.network = PlayedRedis(loop.time), PlayedNetwork()
        connections, names = cast(Connections, self.network), Names()
        self.tier = RedisTier(connections, names, timeout=1.0, log_max_bytes=2**20, clock=loop.time)
        self.log = LogReader(connections, names, timeout=1.0, clock=loop.time)
        self.tier.multiplexer = self.log.multiplexer = cast(Multiplexer, self.redis)
        self.local = LocalState(
            max_entries=settings["near_max_entries"], max_bytes=2**20, clock=loop.time, listener=None
        )
        self.freshness = Freshness(
            self.local,
            clock=loop.time,
            max_silence=settings["max_silence"],
            detached_ttl=settings["detached_ttl"],
        )
        self.rules = KnownRules(self.tier, default_ttl=60.0, jitter=0.0)
        self.path = ReadPath(
            self.tier,
            self.local,
            self.freshness,
            self.rules,
            clock=loop.time,
            lease_ttl=3.0,
            detached_ttl=settings["detached_ttl"],
        )
        self.subscriber = Subscriber(
            connections,
            self.log,
            self.local,
            self.freshness,
            self.rules,
            clock=loop.time,
            timeout=1.0,
            max_silence=settings["max_silence"],
            on_subscribed=lambda: None,
            on_watermark=lambda: None,
        )

    async def play(self, case: Step) -> None:
        """Play all steps; an `AssertionError` names the step."""
        try:
            for number, step in enumerate(case["steps"], 1):
                await self._do(dict(step))
                await settle()
                told = self.told(step.get("expect", {}))
                assert told == step.get("expect", {}), f"{case['name']}, step {number}: {step}"
        finally:
            await self.subscriber.close()

    async def _do(self, step: Step) -> None:
        match step:
            case {"start": {}}:
                self.subscriber.start()
            case {"redis": answers}:
                self.redis.answers |= answers
            case {"publish": payload}:
                assert self.network.current is not None
                self.network.current.arrive(_bytes(payload))
            case {"inbox": payloads}:
                self.network.inbox = [_bytes(payload) for payload in payloads]
            case {"pongs": "held" | "answered" as how}:
                self.network.holds_pongs = how == "held"
                if how == "answered" and self.network.current is not None:
                    self.network.current.pongs()
            case {"advance": seconds}:
                await asyncio.sleep(seconds)
            case {"pause": seconds, "meanwhile": payloads}:
                assert self.network.current is not None
                for payload in payloads:
                    self.network.current.arrive(_bytes(payload))
                self._loop.now += seconds
            case {"lose": {}}:
                assert self.network.current is not None
                self.network.current.lose()
            case {"connections": "refused" | "accepted" as how}:
                self.network.refuses = how == "refused"
            case {"read": asked}:
                self._reads[asked["as"]] = self._open(asked)
            case {"keep": {"read": name, "value": value, "seconds": seconds}}:
                self._keep(self._reads[name], value, seconds)
            case {"put": put}:
                self._keep(self._open(put), put["value"], put["seconds"])
            case {"look": {}}:
                pass
            case _:
                raise AssertionError(f"{step} is no step")

    def _open(self, asked: Step) -> InFlightRead:
        return self.local.in_flight.open(asked["key"], frozenset(asked.get("tags", ())))

    def _keep(self, read: InFlightRead, value: object, seconds: float) -> None:
        self.local.keep(read, orjson.dumps(value), seconds, self.freshness.trusted_until)
        self.local.in_flight.close(read)

    def told(self, expected: Step) -> Step:
        """Return the client's state, as far as ``expected`` names it."""
        replays, self._replays_seen = self.redis.replays[self._replays_seen :], len(self.redis.replays)
        questions: dict[str, Callable[[Any], object]] = {
            "attached": lambda _: self.freshness.attached,
            "believes_redis": lambda _: self.freshness.believes_redis,
            "staleness": lambda value: _near(self.freshness.staleness, value),
            "epoch": lambda _: self.freshness.epoch,
            "last": lambda _: self.freshness.last,
            "rules": lambda _: self.rules.hash,
            "held": lambda keys: {key: self.path.held(key) is not None for key in keys},
            "valid": lambda names: {name: self._reads[name].valid for name in names},
            "replays": lambda _: replays,
            "connections": lambda _: self.network.opened,
        }
        return {name: questions[name](value) for name, value in expected.items()}


def play(case: Step) -> None:
    """Play one case; raises `AssertionError` where the client does something else."""
    random.seed(7)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        runner.run(Player(loop, case).play(case))


def _bytes(payload: object) -> bytes:
    return payload.encode() if isinstance(payload, str) else orjson.dumps(payload)


def _near(found: float, wanted: object) -> object:
    """Return ``wanted`` if ``found`` is it: null is infinite, and two numbers are the ends of a range."""
    if isinstance(wanted, list):
        return wanted if wanted[0] <= found <= wanted[1] else found
    if isinstance(wanted, int | float) and abs(found - wanted) < TOLERANCE:
        return wanted
    return None if found == math.inf else found
