"""``unstale replay``: announce the changes of the outbox again that were committed lately.

Each change is planned as the worker plans it. Its keys are then invalidated as ``cache.delete`` does, and its
patterns as ``cache.invalidate_pattern`` does. That needs no lease, moves no position and only removes, so it
is safe beside any worker, may be repeated, and may be interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from unstale.errors import ConfigurationError, UnstaleError
from unstale.protocol.reasons import OPERATION_NAMES, Kind
from unstale.protocol.tags import shown as printed
from unstale.redis_tier.cluster_tier import ClusterTier
from unstale.redis_tier.tier import RedisTier
from unstale_worker.leader.planning import ANNOTATIONS, plan_page
from unstale_worker.rules import Plan, Rules
from unstale_worker.sources import Page, Source

SHOWN: Final = 20
"""Keys and patterns of each kind that the result names."""


class TooFarBack(UnstaleError):
    """The outbox does not reach back as far as asked."""


@dataclass(slots=True)
class Replayed:
    """Result of a replay.

    Attributes:
        dry_run: True if nothing was announced.
        age: Seconds since the position at which it began, at least as many as asked; None: the beginning of
            the outbox.
        entries: Entries of the outbox by table and operation, as in ``update of public.profiles``. One stands
            for all rows of a statement, and may stand for the whole table.
        keys: Keys that were announced; one that several pages name counts for each.
        patterns: Patterns that were announced.
        first_keys: The first of the keys.
        first_patterns: The first of the patterns.
        failures: Queries of rules that failed; their patterns were announced instead.
    """

    dry_run: bool
    age: float | None
    entries: dict[str, int] = field(default_factory=dict)
    keys: int = 0
    patterns: int = 0
    first_keys: list[str] = field(default_factory=list)
    first_patterns: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def replay(
    source: Source,
    tier: RedisTier | ClusterTier,
    rules: Rules,
    *,
    since: float,
    table: str | None,
    dry_run: bool,
) -> Replayed:
    """Announce again what was committed in the last ``since`` seconds; raises `TooFarBack`.

    ``table`` restricts it to the changes of one table. Raises `ConfigurationError` for one that is not
    watched, and `Unavailable`.
    """
    start = await source.position_before(since)
    if start.position is None:
        raise TooFarBack(_too_far(since, start.reach))
    wanted = None if table is None else await _watches_of(source, table)
    result, cursor, position = Replayed(dry_run, start.age), None, start.position
    while True:
        page = await source.read(position, cursor)
        if not page.covered:  # purged between the question and the read, or between two pages
            raise TooFarBack(
                f"the outbox was purged during the replay, after {result.keys} keys; run it again with a "
                "shorter --since, or raise UNSTALE_RETENTION"
            )
        await _announce(source, tier, rules, _only(page, wanted), result)
        if not page.more:
            return result
        cursor = page.cursor


async def _announce(
    source: Source, tier: RedisTier | ClusterTier, rules: Rules, page: Page, result: Replayed
) -> None:
    plan = await plan_page(page, rules, source)
    if plan.queries:
        result.failures += map(str, await source.run_queries(rules, plan))
    await _count(page, source, result)
    _note(plan, result)
    if result.dry_run:
        return
    keys, patterns = list(plan.keys), sorted(plan.patterns)
    if keys:
        await tier.invalidate(keys, lsn=page.lsn, kind=Kind.REPLAY)
    for pattern in patterns:
        # The order of `cache.invalidate_pattern`, for the reasons given there.
        await tier.invalidate(patterns=[pattern], lsn=page.lsn, kind=Kind.REPLAY)
        for beside in (False, True):
            async for found in tier.scan(pattern, beside=beside):
                await tier.unlink(found)
        await tier.invalidate(patterns=[pattern], lsn=page.lsn, kind=Kind.REPLAY)


async def _watches_of(source: Source, table: str) -> frozenset[int]:
    """Return the watches of a table, also earlier ones."""
    schema, _, name = table.rpartition(".")
    versions = await source.watch_versions()
    found = frozenset(
        watch
        for (watch, _), version in versions.items()
        if (version.schema, version.table) == (schema or "public", name)
    )
    if not found:
        known = sorted({f"{version.schema}.{version.table}" for version in versions.values()})
        raise ConfigurationError(
            f"--table {table}: no such table is watched; these are: {', '.join(known) or 'none'}"
        )
    return found


def _only(page: Page, wanted: frozenset[int] | None) -> Page:
    """Return the page without entries of other watches, and without annotations."""
    kept = [
        number
        for number, (watch, version, _) in enumerate(page.entries)
        if (watch, version) != ANNOTATIONS and (wanted is None or watch in wanted)
    ]
    operations = page.operations or "-" * len(page.entries)
    return replace(
        page,
        entries=[page.entries[number] for number in kept],
        xids=[page.xids[number] for number in kept] if page.xids else (),
        operations="".join(operations[number] for number in kept),
    )


async def _count(page: Page, source: Source, result: Replayed) -> None:
    for entry, operation in zip(page.entries, page.operations, strict=True):
        written = await source.watch_version(entry.watch, entry.version)
        table = f"watch {entry.watch}" if written is None else f"{written.schema}.{written.table}"
        name = f"{OPERATION_NAMES[operation]} of {table}"
        result.entries[name] = result.entries.get(name, 0) + 1


def _note(plan: Plan, result: Replayed) -> None:
    result.keys += len(plan.keys)
    result.patterns += len(plan.patterns)
    _extend(result.first_keys, list(plan.keys))
    _extend(result.first_patterns, sorted(plan.patterns))


def _extend(shown: list[str], more: Sequence[str]) -> None:
    names = map(printed, more[: SHOWN * 2])
    shown += [name for name in names if name not in shown][: SHOWN - len(shown)]


def _too_far(since: float, reach: float | None) -> str:
    if not reach:
        return (
            f"--since {since:g}s: the outbox cannot tell what was committed since then, as no position was "
            "recorded yet; one is, every minute, while a worker runs"
        )
    return (
        f"--since {since:g}s: the outbox reaches back {reach:.0f} s only, as older changes were purged; use "
        f"--since {int(reach)}s or less, or drop everything with cache.invalidate_pattern"
    )
