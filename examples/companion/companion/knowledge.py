"""What the companion knows of a user, read through the cache, and where each read was answered."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, TypeAdapter

from companion.loaders import Loaders
from companion.values import Greeting, Memory, Preferences, Profile, State
from unstale import Cache

V = TypeVar("V", bound=BaseModel)
Load: TypeAlias = Callable[[int], Awaitable[V | None]]

MEMORIES = TypeAdapter(list[Memory])


class Origin(Enum):
    """What answered a read."""

    MEMORY = "memory"
    REDIS = "redis"
    STALE = "redis, from before a change"
    DATABASE = "database"
    MODEL = "model"
    OTHER_REQUEST = "a load of another request"


@dataclass(frozen=True, slots=True)
class Took:
    """How one value was come by.

    Attributes:
        origin: What answered.
        ms: Milliseconds it took.
    """

    origin: Origin
    ms: float


@dataclass(frozen=True, slots=True)
class Session:
    """All that a conversation begins with.

    Attributes:
        took: How each value was come by, by the last part of its key.
        staleness: No value is older than this many seconds, but for a greeting that is being written anew
            (``serve_stale`` in unstale.toml); None while the cache is detached.
    """

    user_id: int
    greeting: Greeting
    profile: Profile
    settings: Preferences
    state: State
    took: dict[str, Took]
    staleness: float | None


class Knowledge:
    """Reads through the cache, under the keys that ``unstale.toml`` keeps true.

    Example:
        >>> session = await Knowledge(cache, Loaders(pool)).session(42)
        >>> session.took["greeting_instructions"]
        Took(origin=<Origin.MEMORY: 'memory'>, ms=0.012)
    """

    def __init__(self, cache: Cache, loaders: Loaders) -> None:
        self._cache, self._loaders = cache, loaders

    async def profile(self, user_id: int) -> Profile | None:
        """Who the user is; None: there is no such user."""
        return await self._get("profile", user_id, self._loaders.profile, Profile)

    async def settings(self, user_id: int) -> Preferences | None:
        """What the user chose, and what their organization pays for."""
        return await self._get("settings", user_id, self._loaders.settings, Preferences)

    async def state(self, user_id: int) -> State | None:
        """Where the conversation stands."""
        return await self._get("state", user_id, self._loaders.state, State)

    async def greeting(self, user_id: int) -> Greeting | None:
        """What to say first."""
        return await self._get("greeting_instructions", user_id, self._loaders.greeting, Greeting)

    async def search(self, user_id: int, query: str) -> list[Memory]:
        """The memories that hold a text. No row can name these keys, so a tag invalidates them together."""
        found = await self._cache.get_or_load(
            f"search:{user_id}:{query}",
            lambda: self._loaders.search(user_id, query),
            tags=[f"user:{user_id}:memories"],
            model=MEMORIES,
        )
        return found or []

    async def session(self, user_id: int) -> Session | None:
        """All of it at once; None: there is no such user, or something of theirs is missing."""
        load = self._loaders
        (profile, a), (settings, b), (state, c), (greeting, d) = await asyncio.gather(
            self._timed("profile", user_id, load.profile, Profile),
            self._timed("settings", user_id, load.settings, Preferences),
            self._timed("state", user_id, load.state, State),
            self._timed("greeting_instructions", user_id, load.greeting, Greeting, source=Origin.MODEL),
        )
        if profile is None or settings is None or state is None or greeting is None:
            return None
        took = {"profile": a, "settings": b, "state": c, "greeting_instructions": d}
        staleness = self._cache.staleness
        known = round(staleness, 3) if math.isfinite(staleness) else None
        return Session(user_id, greeting, profile, settings, state, took, known)

    async def _get(self, name: str, user_id: int, load: Load[V], model: type[V]) -> V | None:
        return await self._cache.get_or_load(f"user:{user_id}:{name}", lambda: load(user_id), model=model)

    async def _timed(
        self, name: str, user_id: int, load: Load[V], model: type[V], *, source: Origin = Origin.DATABASE
    ) -> tuple[V | None, Took]:
        ran = False

        async def noted(user_id: int) -> V | None:
            nonlocal ran
            ran = True
            return await load(user_id)

        before, began = self._cache.counters(), time.perf_counter()
        value = await self._get(name, user_id, noted, model)
        seconds, after = time.perf_counter() - began, self._cache.counters()
        # What was counted meanwhile tells; of two that answered others at that moment, the older is named.
        if ran:
            origin = source
        elif after.stale_hits > before.stale_hits:
            origin = Origin.STALE
        elif after.redis_hits > before.redis_hits:
            origin = Origin.REDIS
        elif after.misses > before.misses:
            origin = Origin.OTHER_REQUEST
        else:
            origin = Origin.MEMORY  # such a hit lets nobody else run, so nobody else can have counted
        return value, Took(origin, round(seconds * 1000, 3))
