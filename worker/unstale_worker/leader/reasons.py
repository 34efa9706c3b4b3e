"""The reasons that the log keeps for the scripts of one batch."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from operator import itemgetter

from unstale.protocol.reasons import OPERATION_NAMES, changes_reason, table_code
from unstale_worker.leader.planning import Versions
from unstale_worker.redis.script_batches import ScriptBody
from unstale_worker.rules import Plan
from unstale_worker.sources import Page


async def summed_up(page: Page, versions: Versions) -> dict[str, int]:
    """Return how many changes of each table and operation a page has, for the debug log."""
    summed: Counter[str] = Counter()
    operations = page.operations or "-" * len(page.entries)
    for (watch, version, operation), count in Counter(
        (entry.watch, entry.version, operation)
        for entry, operation in zip(page.entries, operations, strict=True)
    ).items():
        written = await versions.watch_version(watch, version)
        table = f"watch {watch}" if written is None else f"{written.schema}.{written.table}"
        summed[f"{table} {OPERATION_NAMES[operation]}"] += count
    return dict(summed)


class BatchReasons:
    """Why each script of one page was sent: which changes concern its keys.

    Args:
        page: The page.
        plan: Its plan, with the tables and annotations that `plan_page` found.
        read_at: When the read of the batch began, by the clock of Redis in milliseconds; '' if unknown.
        read_before: The same of the read before it.
    """

    def __init__(self, page: Page, plan: Plan, *, read_at: str, read_before: str) -> None:
        self._page, self._plan = page, plan
        count = len(page.entries)
        known = len(page.xids) == len(page.operations) == count
        self._xids: Sequence[int] = page.xids if known else [0] * count
        self._operations = page.operations if known else "-" * count
        self._read_ms = round(float(read_at or 0))
        self._gap_ms = self._read_ms - round(float(read_before)) if read_before else 0

    def __call__(self, body: ScriptBody) -> bytes:
        """Return the reason of one script; beside 5 µs to read and apply a change, it takes 0.2 µs a key."""
        if not body.keys:
            order = self._last_of_each_table()
            return self._encoded(order, None) if order else b""
        numbers = list(map(self._plan.keys.__getitem__, body.keys))
        order = list(dict.fromkeys(numbers))
        if len(order) == len(numbers):
            return self._encoded(order, None)
        places = dict(zip(order, range(len(order)), strict=True))
        return self._encoded(order, list(map(places.__getitem__, numbers)))

    def _encoded(self, order: list[int], numbers: list[int] | None) -> bytes:
        codes, xids = self._codes, list(map(self._xids.__getitem__, order))
        noted = self._plan.annotations
        return changes_reason(
            codes if len(codes) == 1 else [codes[number] for number in order],
            xids,
            numbers,
            read_ms=self._read_ms,
            gap_ms=self._gap_ms,
            annotations={place: noted[xid] for place, xid in enumerate(xids) if xid in noted}
            if noted
            else {},
        )

    @cached_property
    def _codes(self) -> Sequence[int]:
        """The code of each entry, or one if all have the same."""
        tables, operations, entries = self._plan.tables, self._operations, self._page.entries
        watches = set(map(itemgetter(0), entries))
        if len(watches) == 1 and operations.count(operations[0]) == len(operations):
            return [table_code(tables.get(entries[0].watch, 0), operations[0])]
        return [
            table_code(tables.get(entry.watch, 0), operation)
            for entry, operation in zip(entries, operations, strict=True)
        ]

    def _last_of_each_table(self) -> list[int]:
        """Return the entries that removed patterns: of each table the last one, or the last without keys."""
        found: dict[int, int] = {}
        entries = self._page.entries
        for number, entry in enumerate(entries):
            known = found.get(entry.watch)
            if entry.watch and (known is None or entry.keys is None or entries[known].keys is not None):
                found[entry.watch] = number
        return sorted(found.values())
