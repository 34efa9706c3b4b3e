"""Violations: each found once, kept with what removed its key last, and followed to its end."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson
from redis.asyncio import Redis

from unstale.errors import Unavailable
from unstale.protocol.names import Names
from unstale_worker.audit.agenda import Due
from unstale_worker.audit.judging import Compared, differing
from unstale_worker.rules import Rules
from unstale_worker.tracing.why import Why, why

MOST: Final = 1_000
"""Violations that are kept; more are only counted."""
REMOVALS: Final = 3
"""Removals of the key that are kept with it."""


@dataclass(slots=True)
class Violation:
    """A cached value that differs from the database although every change that could explain it is applied.

    Attributes:
        key: The key.
        table: The table whose change, or row, led to it.
        delay: The delay of the comparison.
        found_ms: When, by the clock of Redis, in milliseconds since 1970.
        fields: Names of the fields that differ; empty if a value is no object.
        rule: Where the loader is: file and line.
        why: What removed the key before, newest first; None if Redis did not answer any more.
        lasted_s: How long it was seen, at least.
        ended: How it ended: ``equal``, ``absent``, ``changed``, or ``in_flight`` if a newer change
            explains it; None while it lasts.
    """

    key: str
    table: str
    delay: str
    found_ms: float
    fields: tuple[str, ...]
    rule: str
    why: Why | None
    lasted_s: float = 0.0
    ended: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return JSON-ready values."""
        return asdict(self)


@dataclass(slots=True)
class Violations:
    """All violations of one audit.

    Attributes:
        found: Those that are kept.
        count: How many there were.
        record: Each is appended to this file when it is found, as a line of JSON.
        say: Called with each.
    """

    redis: Redis
    names: Names
    rules: Rules
    record: Path | None = None
    say: Callable[[Violation], object] = lambda _: None
    found: list[Violation] = field(default_factory=list)
    count: int = 0
    _lasting: dict[str, Violation] = field(default_factory=dict)

    @property
    def lasting(self) -> dict[str, Violation]:
        """Those that were still there at the last look, by key."""
        return self._lasting

    async def add(self, due: Due, compared: Compared) -> None:
        """Keep a confirmed difference, unless it is known and lasts."""
        if (known := self._lasting.get(due.key)) is not None:
            known.lasted_s = max(known.lasted_s, (compared.now_ms - known.found_ms) / 1000)
            return
        self.count += 1
        if len(self.found) >= MOST:
            return
        try:
            cause = await why(self.redis, self.names, self.rules, due.key, most=REMOVALS)
        except Unavailable:
            cause = None
        spec = self.rules.refresh_of(due.key)
        assert compared.cached is not None
        assert compared.loaded is not None
        violation = Violation(
            key=due.key,
            table=due.table,
            delay=due.delay,
            found_ms=compared.now_ms,
            fields=differing(compared.cached, compared.loaded),
            rule=f"{self.rules.file}:{spec.line}" if spec is not None else self.rules.file,
            why=cause,
        )
        self.found.append(violation)
        self._lasting[due.key] = violation
        if self.record is not None:
            with self.record.open("ab") as file:
                file.write(orjson.dumps(violation.as_dict()) + b"\n")
        self.say(violation)

    def ended(self, compared: Compared) -> None:
        """Note that a violation is gone."""
        if (known := self._lasting.pop(compared.key, None)) is not None:
            known.lasted_s = max(known.lasted_s, (compared.now_ms - known.found_ms) / 1000)
            known.ended = compared.outcome.value
