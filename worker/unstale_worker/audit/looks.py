"""Findings of repeated looks at cached keys, by loader. Pure."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

MOST_AGES: Final = 100_000
"""Ages of stale values that are kept for percentiles."""


@dataclass(slots=True)
class Watched:
    """One cached key.

    Attributes:
        stale_since: When it was first seen stale, without a break; None while it is true.
    """

    stale_since: float | None = None


@dataclass(slots=True)
class Seen:
    """Counts of the keys of one loader.

    Attributes:
        looks: Looks at a cached value that had a result.
        stale: Of these, how many found a value that differed from the database.
        ages: For stale looks, since when the value was known to be stale, at least, in seconds.
        periods: Times from the first stale look to the first one that is not.
        longest: The longest time for which a value was seen stale, in seconds.
        longest_key: Its key.
        without_ttl: Looks at values that never expire.
        refused: Looks without a result, by reason.
    """

    looks: int = 0
    stale: int = 0
    ages: list[float] = field(default_factory=list)
    periods: int = 0
    longest: float = 0.0
    longest_key: str = ""
    without_ttl: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def found_stale(self, key: str, watched: Watched, now: float) -> None:
        """Note a look at ``now`` that found a stale value."""
        if watched.stale_since is None:
            watched.stale_since = now
        age = now - watched.stale_since
        self.stale += 1
        if len(self.ages) < MOST_AGES:
            self.ages.append(age)
        else:
            self.ages[random.randrange(MOST_AGES)] = age
        if age >= self.longest:
            self.longest, self.longest_key = age, key

    def ended(self, watched: Watched) -> None:
        """Note a look that found a true value, or none."""
        self.periods += watched.stale_since is not None
        watched.stale_since = None

    def age(self, share: float) -> float | None:
        """Return a percentile of the ages; None without any."""
        ordered = sorted(self.ages)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def as_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return {
            "looks": self.looks,
            "stale": self.stale,
            "stale_share": self.stale / self.looks if self.looks else None,
            "stale_for_s": {"p50": self.age(0.5), "p99": self.age(0.99), "longest": self.longest},
            "longest_key": self.longest_key,
            "periods": self.periods,
            "without_ttl": self.without_ttl,
            "refused": dict(self.refused.most_common()),
        }

    def lines(self, template: str) -> Iterator[str]:
        """Yield the figures as text."""
        if not self.looks:
            yield f"{template}: no cached value was found that could be compared"
        else:
            yield (
                f"{template}: {self.stale / self.looks:.3%} of {self.looks:,} looks found a stale value, "
                f"in {self.periods:,} periods that ended"
            )
        if self.ages:
            yield (
                f"  stale for at least: median {self.age(0.5):.1f} s, p99 {self.age(0.99):.1f} s, "
                f"longest {self.longest:.1f} s ({self.longest_key})"
            )
        if self.without_ttl:
            yield f"  {self.without_ttl / self.looks:.0%} of the looks met a value that never expires"
        for reason, count in self.refused.most_common(3):
            yield f"  refused {count:,}: {reason}"
