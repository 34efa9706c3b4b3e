"""The effect on cached values of a worker that starts with other rules. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from unstale.protocol.globs import matches, overlap
from unstale.protocol.key_watches import Kept
from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import is_record, shown
from unstale_worker.rules import PythonLoader, RowLoader, Rules
from unstale_worker.rules.difference import Difference, difference
from unstale_worker.rules.former import watch_of
from unstale_worker.rules.refresh import Loader
from unstale_worker.rules.refresh import overlap as refreshes

DROP: Final = "drop"
SHORTEN: Final = "shorten"
KEEP: Final = "keep"
FORMER: Final = "former: not in these rules; applied until no agent uses it"
BY_PATTERN: Final = ", without its query: each change of {} drops all of its keys"
RECOVERY: Final = "everything is dropped: it cannot be told what changed"


@dataclass(frozen=True, slots=True)
class PatternFate:
    """The effect on the keys of one pattern.

    Attributes:
        pattern: The pattern, as a glob.
        action: ``drop``, ``shorten`` (no key lives longer than a shorter TTL says) or ``keep``.
        why: The reason; empty if the keys are kept as they are.
        keys: How many keys of it Redis holds, or how many tags; None if they were not counted.
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
        """The most loads that follow: one for each dropped key; None if that is not known.

        It is not if the keys were not counted, or if a tag is dropped: any number of values may have it.
        """
        if any(is_record(fate.pattern) and fate.keys != 0 for fate in self.dropped):
            return None
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
        rules: The rules that a worker would start with, and the former watches beside them.
        name: What the other rules are, for people.
        recovery: Why everything is dropped, if it is.
        pending: Patterns that an adoption of rules under way has still to drop.
        counts: Number of keys in Redis by pattern.
    """
    now = PublishedRules.decode(rules.published())
    changed = difference(before, now)
    whys = {pattern: "not dropped yet by the rules before" for pattern in pending} | dict(changed.dropped)
    fates = []
    for pattern in sorted({*before.patterns, *now.patterns, *whys}):
        action, why = KEEP, ""
        if recovery:
            action, why = DROP, recovery
        elif pattern in whys:
            action, why = DROP, whys[pattern]
        elif around := next((other for other in sorted(whys) if _contains(other, pattern)), None):
            action, why = DROP, f"its keys also match {shown(around)}, which is dropped"
        else:
            action, why = _life(pattern, before, now, changed)
            if action == KEEP and (others := [other for other in sorted(whys) if _meet(other, pattern)]):
                why = f"but for keys that also match {', '.join(map(shown, others))}, which is dropped"
        if former := [each for each in rules.kept if _pattern(each) == pattern]:
            why = "; ".join(filter(None, (why, _former(former))))
        count = None if counts is None else counts.get(pattern, 0)
        fates.append(PatternFate(pattern, action, why, count, loaders_of(rules, pattern)))
    same = before.hash == now.hash and not recovery and not whys
    return Restart(name, same, tuple(fates), recovery)


def _pattern(kept: Kept) -> str:
    return kept.alone or watch_of(kept.watch).keys[0].pattern


def _former(kept: Sequence[Kept]) -> str:
    """Say that former watches of one pattern are applied, and what the change of a fan-out table costs."""
    text = FORMER if all(each.alone for each in kept) else "what agents of the old rules need is applied too"
    tables = sorted({f"{each.watch.schema}.{each.watch.table}" for each in kept if each.watch.query})
    return text + (BY_PATTERN.format(", ".join(tables)) if tables else "")


def loaders_of(rules: Rules, pattern: str) -> tuple[str, ...]:
    """Return what loads a key of ``pattern``, as text."""
    templates = [each for watch in rules.watches for each in watch.keys if each.pattern == pattern]
    specs = [spec for spec in rules.refreshes if any(refreshes(spec.template, each) for each in templates)]
    return ("the reader's loader", *(f"[refresh] {_loader(spec.loader)}" for spec in specs))


def _loader(loader: Loader) -> str:
    if isinstance(loader, PythonLoader):
        return str(loader)
    return f"row of {loader.table}" if isinstance(loader, RowLoader) else "sql"


def _meet(one: str, other: str) -> bool:
    return is_record(one) is is_record(other) and overlap(one, other)


def _contains(outer: str, inner: str) -> bool:
    return is_record(outer) is is_record(inner) and matches(outer, inner)


def _life(pattern: str, before: PublishedRules, now: PublishedRules, changed: Difference) -> tuple[str, str]:
    """Return the action for the keys of ``pattern`` if only TTLs changed, and the reason."""
    globs = [glob for glob in changed.ttls if not is_record(pattern) and overlap(glob, pattern)]
    longer = ""
    for each in (pattern, *globs) if globs else ():
        old, new = before.ttl_of(each), now.ttl_of(each)
        if old == new:
            continue
        text = f"TTL{'' if each == pattern else f' of {each}'}: {_seconds(old)} before, {_seconds(new)} now"
        if old is None or new is None or new < old:
            return SHORTEN, text
        longer = longer or f"{text}, for what is stored from then on"
    if pattern in changed.refresh_ttls:
        return SHORTEN, "the TTL of its refresh changed"
    return KEEP, longer


def _seconds(ttl: float | None) -> str:
    return "the default" if ttl is None else f"{ttl:g} s"
