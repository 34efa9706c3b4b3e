"""Counts comparisons, and says in nines what they show. Pure."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.audit.agenda import Due
from unstale_worker.audit.judging import Compared, Outcome

RULE_OF_THREE: Final = 3.0
"""If none of n comparisons was bad, the share of bad ones is below 3/n with a confidence of 95 %."""


@dataclass(slots=True)
class Line:
    """The comparisons of one table and delay.

    Attributes:
        outcomes: How many had each outcome.
        late: Those in flight whose change had been open for longer than the bound.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    late: int = 0

    @property
    def compared(self) -> int:
        """Comparisons with a cached value and a result."""
        return self.outcomes[Outcome.EQUAL] + self.outcomes[Outcome.IN_FLIGHT] + self.outcomes[Outcome.WRONG]

    @property
    def consistent(self) -> float | None:
        """Share of compared values that were equal to the database; None without any."""
        return self.outcomes[Outcome.EQUAL] / self.compared if self.compared else None

    @property
    def nines(self) -> float | None:
        """The same as a number of nines; without a difference, as many as so many comparisons can show."""
        return nines(self.compared - self.outcomes[Outcome.EQUAL], self.compared)

    def as_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return {
            "compared": self.compared,
            **{outcome.value: self.outcomes[outcome] for outcome in Outcome},
            "late": self.late,
            "consistent_share": self.consistent,
            "nines": self.nines,
        }


def nines(bad: int, of: int) -> float | None:
    """Return the nines of a share: 1 of 1,000 bad is 3.0; None if that is not one nine or cannot be told."""
    if not of:
        return None
    share = bad / of if bad else min(1.0, RULE_OF_THREE / of)
    return round(max(0.0, -math.log10(share)), 2)


class Tally:
    """The figures of one audit.

    Attributes:
        lines: By table and delay.
        refusals: Why comparisons were refused, and how often.
        seconds: Time that was observed.
        promised_within: Of that, how long the staleness that the watermark promised was within the bound.
        seen_within: Of that, how long no change was open for longer than the bound.
        unknown: Of that, how long Redis or the database did not answer.
        worst_promised: Largest staleness that was promised.
        worst_seen: Largest age of an open change.
        broken_promises: Looks at which a change was open that the watermark claimed to be applied.
        outages: How often a server did not answer.
        confirming: Differences that were not found again at the second look, and so are not counted.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound
        self.lines: dict[tuple[str, str], Line] = {}
        self.refusals: Counter[str] = Counter()
        self.seconds = self.promised_within = self.seen_within = self.unknown = 0.0
        self.worst_promised = self.worst_seen = 0.0
        self.broken_promises = self.outages = self.confirming = 0

    def add(self, due: Due, compared: Compared, *, open_for: float | None) -> None:
        """Count one comparison; ``open_for`` is the age in seconds of a change in flight, if known."""
        line = self.lines.setdefault((due.table, due.delay), Line())
        line.outcomes[compared.outcome] += 1
        if compared.outcome is Outcome.REFUSED:
            self.refusals[compared.reason] += 1
        if compared.outcome is Outcome.IN_FLIGHT and open_for is not None and open_for > self.bound:
            line.late += 1

    def watched(self, seconds: float, *, promised: float | None, seen: float) -> None:
        """Add a span of time, and what was promised and seen at its end."""
        self.seconds += seconds
        if promised is not None:
            self.worst_promised = max(self.worst_promised, promised)
            self.promised_within += seconds * (promised <= self.bound)
        self.worst_seen = max(self.worst_seen, seen)
        self.seen_within += seconds * (seen <= self.bound)

    def unanswered(self, seconds: float) -> None:
        """Add a span of time in which a server did not answer."""
        self.seconds += seconds
        self.unknown += seconds
        self.outages += 1

    def total(self, lines: Iterable[Line] | None = None) -> Line:
        """Return the sum of all lines."""
        whole = Line()
        for line in self.lines.values() if lines is None else lines:
            whole.outcomes.update(line.outcomes)
            whole.late += line.late
        return whole

    def as_dict(self) -> dict[str, object]:
        """Return all figures as JSON-ready values."""
        total, known = self.total(), self.seconds - self.unknown
        good = total.outcomes[Outcome.EQUAL] + total.outcomes[Outcome.IN_FLIGHT] - total.late
        return {
            "observations": total.as_dict(),
            "lines": [
                {"table": table, "delay": delay, **line.as_dict()}
                for (table, delay), line in sorted(self.lines.items())
            ],
            "refusals": dict(self.refusals.most_common()),
            "unconfirmed": self.confirming,
            "staleness": {
                "bound_s": self.bound,
                "time_promised_within_share": self.promised_within / known if known else None,
                "time_seen_within_share": self.seen_within / known if known else None,
                "reads_within_share": good / total.compared if total.compared else None,
                "worst_promised_s": round(self.worst_promised, 3),
                "worst_seen_s": round(self.worst_seen, 3),
                "broken_promises": self.broken_promises,
            },
            "seconds": round(self.seconds, 1),
            "unanswered_seconds": round(self.unknown, 1),
            "outages": self.outages,
        }
