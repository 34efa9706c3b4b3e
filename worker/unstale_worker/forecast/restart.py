"""The effect on cached values of a worker that starts with other rules. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import is_record
from unstale_worker.rules import PythonLoader, RowLoader, Rules, difference
from unstale_worker.rules.refresh import Loader, overlap

DROP: Final = "drop"
SHORTEN: Final = "shorten"
KEEP: Final = "keep"
RECOVERY: Final = "everything is dropped: it cannot be told what changed"


@dataclass(frozen=True, slots=True)
class PatternFate:
    """The effect on the keys of one pattern.

    Attributes:
        pattern: The pattern, as a glob.
        action: ``drop``, ``shorten`` (no key lives longer than a shorter TTL says) or ``keep``.
        why: The reason; empty if the keys are kept.
        keys: How many keys of it Redis holds; None if they were not counted.
        loaders: What loads a key again: the reader's loader, and the loaders of ``[refresh]``.
    """

    pattern: str
    action: str
    why: str
    keys: int | None
    loaders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restart:
    """The result of comparing two rule sets.

    Attributes:
        before: What the rules are compared with.
        same: True if both are the same rules.
        patterns: The fate of each pattern of both, sorted.
        recovery: Why every owned key is dropped; empty if only the patterns that changed are.
    """

    before: str
    same: bool
    patterns: tuple[PatternFate, ...]
    recovery: str = ""

    @property
    def dropped(self) -> tuple[PatternFate, ...]:
        """The patterns whose keys are dropped."""
        return tuple(fate for fate in self.patterns if fate.action == DROP)

    @property
    def loads(self) -> int | None:
        """The most loads that follow: one for each dropped key; None if the keys were not counted."""
        counts = [fate.keys for fate in self.dropped]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def restart(
    before: PublishedRules,
    rules: Rules,
    *,
    name: str,
    recovery: str = "",
    pending: Iterable[str] = (),
    counts: Mapping[str, int] | None = None,
) -> Restart:
    """Compare rules with those ``before``.

    Args:
        before: The other rules, as they are published.
        rules: The rules that a worker would start with.
        name: What the other rules are, for people.
        recovery: Why everything is dropped, if it is.
        pending: Patterns that an adoption of rules under way has still to drop.
        counts: Number of keys in Redis by pattern.
    """
    now = PublishedRules.decode(rules.published())
    changed, pending = difference(before, now), frozenset(pending)
    lives = set(changed.lives)
    fates = []
    for pattern in sorted({*before.patterns, *now.patterns, *pending}):
        action, why = KEEP, ""
        if recovery:
            action, why = DROP, recovery
        elif pattern in changed.dropped or pattern in pending:
            action, why = DROP, changed.dropped.get(pattern, "not dropped yet by the rules before")
        elif _lives_changed(pattern, before, now) or pattern in lives:
            action, why = SHORTEN, _ttl_change(pattern, before, now)
        count = None if counts is None else counts.get(pattern, 0)
        fates.append(PatternFate(pattern, action, why, count, loaders_of(rules, pattern)))
    same = before.hash == now.hash and not recovery and not pending
    return Restart(name, same, tuple(fates), recovery)


def loaders_of(rules: Rules, pattern: str) -> tuple[str, ...]:
    """Return what loads a key of ``pattern``, as text."""
    templates = [each for watch in rules.watches for each in watch.keys if each.pattern == pattern]
    specs = [spec for spec in rules.refreshes if any(overlap(spec.template, each) for each in templates)]
    return ("the reader's loader", *(f"[refresh] {_loader(spec.loader)}" for spec in specs))


def _loader(loader: Loader) -> str:
    if isinstance(loader, PythonLoader):
        return str(loader)
    return f"row of {loader.table}" if isinstance(loader, RowLoader) else "sql"


def _lives_changed(pattern: str, before: PublishedRules, now: PublishedRules) -> bool:
    return not is_record(pattern) and before.ttl_of(pattern) != now.ttl_of(pattern)


def _ttl_change(pattern: str, before: PublishedRules, now: PublishedRules) -> str:
    old, new = before.ttl_of(pattern), now.ttl_of(pattern)

    def text(seconds: float | None) -> str:
        return "the default" if seconds is None else f"{seconds:g} s"

    return f"TTL: {text(old)} before, {text(new)} now" if old != new else "the TTL of its refresh changed"
