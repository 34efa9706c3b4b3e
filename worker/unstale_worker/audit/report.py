"""The result of an audit: one object for programs, and lines for people."""

from collections.abc import Iterator
from dataclasses import dataclass

from unstale_worker.audit.auditor import Auditor
from unstale_worker.audit.judging import Outcome
from unstale_worker.audit.opening import Scope
from unstale_worker.audit.tally import Line
from unstale_worker.audit.violations import Violation

HEAD = ("table", "delay", "compared", "equal", "in flight", "wrong", "absent", "refused", "nines")
ALL_REFUSED = "nothing was compared: every comparison was refused, for the reasons above"
NOTHING_COMPARED = (
    "nothing was compared: no audited key had a value in Redis. Let it run longer, or raise --rate; "
    "a key is compared after it changed, or when its row is drawn at random"
)


@dataclass(frozen=True, slots=True)
class Report:
    """Findings of an audit.

    Attributes:
        scope: What could be audited.
        auditor: What did it.
    """

    scope: Scope
    auditor: Auditor

    @property
    def sound(self) -> bool:
        """True if values were compared and no promise was found broken."""
        tally = self.auditor.tally
        return not (self.auditor.violations.count or tally.broken_promises) and tally.total().compared > 0

    def as_dict(self) -> dict[str, object]:
        """Return everything as JSON-ready values."""
        auditor, violations = self.auditor, self.auditor.violations
        return {
            "sound": self.sound,
            "audited": [spec.template.text for spec in self.scope.audited],
            "not_audited": self.scope.left_out,
            "not_sampled": auditor.not_sampled,
            **auditor.tally.as_dict(),
            "changes": {
                "entries": auditor.changes.seen,
                "keys_without_loader": auditor.changes.unauditable,
                "resets": auditor.changes.resets,
                "left_out": auditor.agenda.left_out,
                "still_waiting": len(auditor.agenda),
            },
            "violation_count": violations.count,
            "violations": [violation.as_dict() for violation in violations.found],
        }

    def lines(self) -> Iterator[str]:
        """Yield it as text, the observations first."""
        auditor, tally = self.auditor, self.auditor.tally
        for spec in self.scope.audited:
            yield f"audited      {spec.template.text}"
        for template, reason in self.scope.left_out.items():
            yield f"not audited  {template}: {reason}"
        for table, reason in auditor.not_sampled.items():
            yield f"not sampled  {table}: {reason}"
        yield ""
        rows: list[tuple[str, ...]] = [HEAD]
        rows += [(table, delay, *_figures(line)) for (table, delay), line in sorted(tally.lines.items())]
        rows.append(("all", "", *_figures(tally.total())))
        yield from _aligned(rows)
        yield ""
        for reason, count in tally.refusals.most_common(5):
            yield f"refused {count:,}: {reason}"
        if auditor.agenda.left_out:
            yield f"left out {auditor.agenda.left_out:,} comparisons: too many keys change at once"
        yield from self._staleness()
        for violation in auditor.violations.found[:10]:
            yield from violation_lines(violation)
        yield self._verdict()

    def _staleness(self) -> Iterator[str]:
        tally = self.auditor.tally
        known = tally.seconds - tally.unknown
        if known > 0:
            promised, seen = tally.promised_within / known, tally.seen_within / known
            yield (
                f"staleness promised within {tally.bound:g} s {promised:.3%} of the time "
                f"(worst {tally.worst_promised:.2f} s), seen within it {seen:.3%} "
                f"(worst {tally.worst_seen:.2f} s)"
            )
        if tally.outages:
            yield f"a server did not answer {tally.outages} times, {tally.unknown:.1f} s in all"
        if tally.broken_promises:
            yield (
                f"BROKEN: {tally.broken_promises} times a change was open that the watermark claimed to be "
                "applied"
            )

    def _verdict(self) -> str:
        compared, found = self.auditor.tally.total().compared, self.auditor.violations
        if found.count:
            lasting = len(found.lasting)
            return f"{found.count:,} violations in {compared:,} comparisons; {lasting} still last"
        if not compared:
            return ALL_REFUSED if self.auditor.tally.refusals else NOTHING_COMPARED
        return f"no violation in {compared:,} comparisons"


def violation_lines(violation: Violation) -> Iterator[str]:
    """Yield one violation as text."""
    fields = f" in {', '.join(violation.fields)}" if violation.fields else ""
    yield f"WRONG  {violation.key}: its value differs from the database{fields}"
    yield f"       found {violation.delay} ({violation.table}); loader at {violation.rule}"
    if violation.ended:
        yield f"       lasted at least {violation.lasted_s:.1f} s, then it was {violation.ended}"
    elif violation.lasted_s:
        yield f"       lasts for {violation.lasted_s:.1f} s at least"
    if violation.why is not None and violation.why.removals:
        last = violation.why.removals[0]
        what = f"{last.operation} of {last.table}" if last.table else last.kind
        yield f"       last removed by {what}, log entry {last.id}; see unstale why {violation.key}"
    elif violation.why is not None:
        yield "       the log knows nothing that removed it: does the loader read a table that no rule names?"


def _figures(line: Line) -> tuple[str, ...]:
    nines = "" if line.nines is None else f"{line.nines:.2f}"
    if line.compared and line.outcomes[Outcome.EQUAL] == line.compared:
        nines = f"≥ {nines}"
    counts = (
        line.compared,
        *(
            line.outcomes[outcome]
            for outcome in (
                Outcome.EQUAL, Outcome.IN_FLIGHT, Outcome.WRONG, Outcome.ABSENT, Outcome.REFUSED
            )
        ),
    )  # fmt: skip
    return (*(f"{count:,}" for count in counts), nines)


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
