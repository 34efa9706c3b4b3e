"""Plans what one page of the outbox invalidates."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import orjson

from unstale.protocol.partitions import partition_of
from unstale.protocol.reasons import table_number
from unstale.protocol.tags import is_record
from unstale_worker.rules import Plan, Renewal, Rules
from unstale_worker.runtime.slices import Slices
from unstale_worker.sources import OutboxEntry, Page, WatchVersion

ENTRIES_A_SLICE: Final = 256
LARGE: Final = 128
"""Values of an entry that is planned alone: all its rows have one cause, which is cheaper."""
ROWS_A_SLICE: Final = 2_000
"""A few milliseconds of work, after which other tasks may run."""

ANNOTATIONS: Final = (0, 0)
"""Watch and version of an entry that ``unstale.because()`` wrote; its only key is a JSON object."""

MAX_ANNOTATION_BYTES: Final = 2_048

logger = logging.getLogger("unstale.planning")  # an agent process plans too, and may lack structlog


class Versions(Protocol):
    """Looks up what each version of a watch writes; a `Source` does."""

    async def watch_version(self, watch: int, version: int) -> WatchVersion | None:
        """See `Source.watch_version`."""
        ...


class Share(NamedTuple):
    """The keys of one partition, and those among them that are refreshed or have a spare value."""

    keys: Collection[str]
    renewals: Mapping[str, Renewal]


class _Rows(NamedTuple):
    """The rows of one watch version.

    Attributes:
        flat: Their values, row after row.
        numbers: The number of each entry in its page.
    """

    flat: list[str | None]
    numbers: list[int]

    def causes(self, width: int, entries: Sequence[OutboxEntry]) -> list[int]:
        """Return the number of the entry of each row, if a row has ``width`` values."""
        if len(self.flat) == len(self.numbers) * width:
            return self.numbers
        return [number for number in self.numbers for _ in range(len(entries[number].keys or ()) // width)]


async def plan_page(page: Page, rules: Rules, versions: Versions) -> Plan:
    """Plan what the entries of ``page`` invalidate, without running fan-out queries. Raises `Unavailable`.

    Entries of one watch version are planned together, so the cost is per row and not per entry. Other tasks
    run in between, as a page of many rows takes longer than the leader's lease lives on a busy machine.
    """
    plan = Plan()
    together: dict[tuple[int, int], _Rows] = {}
    whole: set[tuple[int, int]] = set()
    large: list[int] = []
    slices = Slices()
    for number, (watch, version, keys) in enumerate(page.entries):
        if number % ENTRIES_A_SLICE == 0:
            await slices.pause()
        if keys is None:
            whole.add((watch, version))
            continue
        if len(keys) >= LARGE:
            large.append(number)
            continue
        rows = together.get((watch, version))
        if rows is None:
            rows = together[watch, version] = _Rows([], [])
        flat, numbers = rows
        flat.extend(keys)
        numbers.append(number)
    if notes := together.pop(ANNOTATIONS, None):
        _note(page, notes, plan.annotations)
    for key in whole | together.keys() | {page.entries[number][:2] for number in large}:
        written = await versions.watch_version(*key)
        if written is None:
            logger.error("an outbox entry names the unknown watch %d; dropping every owned key", key[0])
            plan.patterns.update(rules.patterns)
            continue
        plan.tables[key[0]] = table_number(written.schema, written.table)
        table, width = (written.schema, written.table, written.key_columns), max(1, len(written.key_columns))
        if key in whole:
            rules.plan(*table, None, plan)
        parts = [(together[key].flat, together[key].causes(width, page.entries))] if key in together else []
        for number in large:
            keys = page.entries[number].keys or ()
            if page.entries[number][:2] == key:
                parts.append((list(keys), [number] * (len(keys) // width)))
        for flat, causes in parts:
            if len(flat) != len(causes) * width:  # no whole rows
                rules.plan(*table, None, plan)
                continue
            for start in range(0, max(1, len(causes)), ROWS_A_SLICE):
                end = start + ROWS_A_SLICE
                rules.plan(*table, flat[start * width : end * width], plan, causes[start:end])
                await slices.pause()
    return plan


def _note(page: Page, notes: _Rows, into: dict[int, Mapping[str, object]]) -> None:
    """Add the annotations; several of one transaction become one, if that is not too long."""
    for number, text in zip(notes.numbers, notes.flat, strict=True):
        xid = page.xids[number]
        try:
            added = dict(orjson.loads(text or "{}"))
            both = {**into.get(xid, {}), **added}
            size = len(orjson.dumps({"": both}))
        except (ValueError, TypeError):  # nested too deep, or not written by unstale.because()
            into[xid] = {"left out": "unreadable"}
        else:
            into[xid] = both if size <= MAX_ANNOTATION_BYTES else {**added, "left out": "others"}


async def renewals_of(plan: Plan, rules: Rules) -> dict[str, Renewal]:
    """Return the keys of ``plan`` that are refreshed or have a spare value; other tasks run in between."""
    found: dict[str, Renewal] = {}
    if rules.refreshes or rules.keeps_older:
        slices, keys = Slices(), list(plan.keys)
        for start in range(0, len(keys), ROWS_A_SLICE):
            found |= rules.renewals(keys[start : start + ROWS_A_SLICE], plan.purged)
            await slices.pause()
    return found


async def shares_of(plan: Plan, renewals: Mapping[str, Renewal], count: int) -> Sequence[Share]:
    """Divide the keys of ``plan`` among the partitions; other tasks run in between.

    The record of a tag is in every partition, beside the keys that carry the tag.
    """
    if count == 1:
        return (Share(plan.keys, renewals),)
    shares = [list[str]() for _ in range(count)]
    slices, keys = Slices(), list(plan.keys)
    for start in range(0, len(keys), ROWS_A_SLICE):
        for key in keys[start : start + ROWS_A_SLICE]:
            if is_record(key):
                for share in shares:
                    share.append(key)
            else:
                shares[partition_of(key, count)].append(key)
        await slices.pause()
    return [Share(share, {key: renewals[key] for key in share if key in renewals}) for share in shares]
