"""The difference between two rule sets: patterns with another meaning, and changed TTLs. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from unstale.protocol.key_watches import KeyWatch
from unstale.protocol.messages import PublishedRules
from unstale_worker.rules.identifiers import NameMistake
from unstale_worker.rules.plan import Watch
from unstale_worker.rules.reads import ReadSpec
from unstale_worker.rules.refresh import RefreshSpec, overlap
from unstale_worker.rules.template import Template

RULES_VERSION: Final = 1
"""Raise it when the same rules begin to invalidate other keys: every pattern then counts as changed."""

NEW: Final = "new: no rule owned its keys, so changes did not invalidate them"
REMOVED: Final = "removed: no rule owns its keys any more"
WATCHES: Final = "changed: tables, columns, query or template of its watches"
LOST: Final = (
    "changed: it lost a table or a template. Agents that still use it hear of none of its changes: keep it "
    "in the rules until they are replaced, or give the new keys another name"
)
REFRESHES: Final = "changed: its refresh or stale_if_error, so what is kept may come from another loader"
UNKNOWN: Final = "unknown: the rules in force were published by a version that did not record what they mean"


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of comparing new rules with those in force.

    Attributes:
        dropped: Each pattern whose keys must be dropped, with the reason; sorted.
        ttls: Globs of ``[ttl]`` that changed: what is stored must not live longer than the new TTL.
        refresh_ttls: Patterns of which the TTL of a refresh changed; likewise.
    """

    dropped: Mapping[str, str]
    ttls: tuple[str, ...] = ()
    refresh_ttls: tuple[str, ...] = ()

    @property
    def lives(self) -> tuple[str, ...]:
        """Globs of all keys whose TTL changed."""
        return (*self.refresh_ttls, *self.ttls)


def difference(before: PublishedRules, now: PublishedRules) -> Difference:
    """Compare the rules ``now`` with those ``before``, as both are published.

    A pattern that both have is dropped only if a change counts that did not count before, if it lost a table
    or a template, or if its keys may be loaded differently. All else about it may stay: values that were
    filled under the old rules were invalidated for the same changes, or for more.

    Example:
        >>> old = PublishedRules("1", ("a:*", "b:*"), meanings=(("a:*", "1.."), ("b:*", "2..")))
        >>> new = PublishedRules("2", ("a:*", "c:*"), meanings=(("a:*", "1.."), ("c:*", "3..")))
        >>> sorted(difference(old, new).dropped)
        ['b:*', 'c:*']
    """
    old, new = dict(before.meanings), dict(now.meanings)
    dropped: dict[str, str] = {}
    lives: list[str] = []
    for pattern in sorted({*before.patterns, *now.patterns}):
        if pattern not in before.patterns:
            dropped[pattern] = NEW
        elif pattern not in now.patterns:
            dropped[pattern] = REMOVED
        elif pattern not in old:
            dropped[pattern] = UNKNOWN
        else:
            was, now_is = _parts(old[pattern]), _parts(new.get(pattern, ""))
            gone = set(was[3].split(",")) - {*now_is[3].split(","), ""}
            if was[0] != now_is[0] and (gone or not _counted(pattern, before, now)):
                dropped[pattern] = LOST if gone else WATCHES
            elif was[1] != now_is[1]:
                dropped[pattern] = REFRESHES
            elif was[2] != now_is[2]:
                lives.append(pattern)
    return Difference(dropped, _changed_lives(before.ttl, now.ttl), tuple(lives))


def _counted(pattern: str, before: PublishedRules, now: PublishedRules) -> bool:
    """Return True if each change that counts for ``pattern`` by ``now`` did so by ``before``."""
    own = [watch for watch in now.applied if _pattern(watch) == pattern]
    return bool(own) and all(any(old.includes(watch) for old in before.applied) for watch in own)


def _pattern(watch: KeyWatch) -> str:
    """Return the glob of the keys of ``watch``; '' if its template is not legible."""
    try:
        return Template.published(watch.template).pattern
    except NameMistake:
        return ""


def meanings(
    watches: Sequence[Watch], refreshes: Sequence[RefreshSpec], reads: Sequence[ReadSpec] = ()
) -> tuple[tuple[str, str], ...]:
    """Return for each pattern what `difference` compares.

    These are the hashes of its watches, of its refreshes and of their TTLs; and one hash for each pair of a
    table and a template.
    """
    patterns = sorted({pattern for watch in watches for pattern in watch.patterns})
    return tuple((pattern, _meaning(pattern, watches, refreshes, reads)) for pattern in patterns)


def _meaning(
    pattern: str, watches: Sequence[Watch], refreshes: Sequence[RefreshSpec], reads: Sequence[ReadSpec]
) -> str:
    own = [(watch, template) for watch in watches for template in watch.keys if template.pattern == pattern]
    forms = [(watch, [template.literals, template.columns]) for watch, template in own]
    changes = {watch: [*watch.normal[:3], watch.key_watches[0].query] for watch, _ in own}
    watched = sorted(json.dumps([*changes[watch], *form]) for watch, form in forms)
    links = sorted({_hash([watch.table.schema, watch.table.name, *form])[:8] for watch, form in forms})
    # In file order, as the first that matches a key counts.
    specs = [spec for spec in refreshes if any(overlap(spec.template, template) for _, template in own)]
    refreshed: list[object] = [spec.normal[:-1] for spec in specs]
    # While the rules keep no spare values of a key, no change bounds one that is left.
    refreshed += [
        ["spare", read.template.text, read.stale_if_error]
        for read in reads
        if read.stale_if_error and any(overlap(read.template, template) for _, template in own)
    ]
    ttls = _hash([spec.ttl for spec in specs])
    return f"{_hash(watched)}.{_hash(refreshed)}.{ttls}.{','.join(links)}"


def _hash(parts: Iterable[object]) -> str:
    content = list(parts)
    return hashlib.sha256(json.dumps([RULES_VERSION, content]).encode()).hexdigest()[:16] if content else ""


def _parts(meaning: str) -> list[str]:
    return [*meaning.split("."), "", "", ""][:4]


def _changed_lives(old: Sequence[tuple[str, float]], new: Sequence[tuple[str, float]]) -> tuple[str, ...]:
    """Return the globs of keys that may have another TTL; the first match counts, so the order does too."""
    both = set(old) & set(new)
    if [pair for pair in old if pair in both] != [pair for pair in new if pair in both]:
        both = set()
    return tuple(dict.fromkeys(glob for glob, seconds in (*old, *new) if (glob, seconds) not in both))
