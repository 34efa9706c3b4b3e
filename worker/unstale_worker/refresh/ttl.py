"""TTLs of refreshed values, by the same rules as an agent's."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from unstale.protocol import codec
from unstale.protocol.globs import matches
from unstale.settings import WorkerSettings
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import RefreshSpec


@dataclass(frozen=True, slots=True)
class Ttls:
    """The TTLs of the rules and settings.

    Attributes:
        ttl: Pattern and seconds, in file order; the first match counts.
        default: Seconds for a key that no pattern matches.
        jitter: Share by which a TTL is shortened at random.
        negative: Most seconds for a value that is null; None: as long as any other.
        spare: Returns the seconds for which a spare value of a key is kept after the value.
    """

    ttl: tuple[tuple[str, float], ...]
    default: float
    jitter: float
    negative: float | None
    spare: Callable[[str], float] = lambda _: 0.0

    @classmethod
    def of(cls, rules: Rules, settings: WorkerSettings) -> "Ttls":
        """Return the TTLs of these rules and settings."""
        return cls(rules.ttl, settings.default_ttl, settings.ttl_jitter, settings.negative_ttl, rules.spare)

    def stored(self, key: str, spec: RefreshSpec, value: bytes) -> tuple[bytes, float]:
        """Return ``value`` as it is stored, and its TTL.

        The TTL is shortened at random, so that values do not expire together. A value that lives shorter than
        agents expect is marked, so that they do not keep it longer in memory.
        """
        published = next((seconds for pattern, seconds in self.ttl if matches(pattern, key)), None)
        ttl = spec.ttl or (self.default if published is None else published)
        if self.negative is not None and codec.is_nothing(value):
            ttl = min(ttl, self.negative)
        if ttl < (codec.UNPUBLISHED_TTL if published is None else published):
            value = codec.shorter_lived(value)
        return value, ttl * (1 - self.jitter * random.random())
