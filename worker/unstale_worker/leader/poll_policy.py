"""Decides when to read next: at once, after a pause, or on a notification. Pure.

While the worker sleeps, every commit notifies. That is quickest for few changes, but slows many down. Polling
costs the user's transactions nothing. The rate of changes decides between them, with a gap between the two
bounds so that it does not flap.

A read costs the server as much CPU as ten changes, so reads without a pause need servers with CPU to spare.
They are spaced out where changes are many, and where a cycle takes longer than it can.
"""

import math
from typing import Final

RATE_WINDOW: Final = 0.2
"""Seconds over which the rate of entries is averaged."""
SLEEP_BELOW: Final = 150.0
"""Entries a second below which the worker tries to sleep."""
WAKE_ABOVE: Final = 500.0
"""Entries a second above which the worker stops sleeping: NOTIFY serialises commits."""
AWAKE_SECONDS: Final = 5.0
"""Seconds for which the worker polls after commits had to wait for each other's NOTIFY."""
BUSY_ABOVE: Final = 2_500.0
"""Entries a second above which reads are spaced out. Fewer, larger batches leave the cores to the writers."""
BUSIEST: Final = 4_500.0
"""Entries a second from which the pause no longer grows."""
BUSY_PAUSE: Final = 0.020
"""Seconds between two reads at `BUSIEST`, which is also the latency it adds."""
ENTRY_SECONDS: Final = 20e-6
"""Seconds that a cycle may take for each entry, beside what the quickest one took."""
DELAY: Final = 0.002
"""Seconds of delay at which the pause is as long. It grows with the square of the delay, so the part of a
millisecond by which cycles differ on a quiet machine makes none."""
MOST_DELAY: Final = 0.010
"""Seconds of delay that count of one cycle: a batch of many rows takes longer, and tells nothing."""
DELAY_CYCLES: Final = 8
"""Cycles over which the delay is averaged, so that one slow cycle makes no long pause."""


class PollPolicy:
    """The rate of entries, and the pause between reads that follows from it.

    Example:
        >>> policy = PollPolicy(poll_min=0.002, poll_max=0.25)
        >>> policy.note(0, now=10.0)
        >>> policy.may_sleep
        True
    """

    __slots__ = ("_at", "_awake_until", "_delay", "_pause", "_poll_max", "_poll_min", "_quickest", "rate")

    def __init__(self, *, poll_min: float, poll_max: float) -> None:
        self._poll_min, self._poll_max = poll_min, poll_max
        self._pause = poll_min
        self._at = 0.0
        self._awake_until = 0.0
        self._quickest = math.inf
        self._delay = 0.0
        self.rate = 0.0
        """Entries a second, averaged."""

    def note(self, entries: int, *, now: float, took: float | None = None) -> None:
        """Note how many entries a read found, at ``now`` seconds of a monotonic clock.

        ``took`` is how many seconds it took to read and apply them. If that is longer than the quickest time
        so far, the cores or servers are busy with something else, probably with the writers.
        """
        if took is not None and entries:
            self._quickest = min(self._quickest, took)
            delay = min(max(0.0, took - self._quickest - entries * ENTRY_SECONDS), MOST_DELAY)
            self._delay += (delay - self._delay) / DELAY_CYCLES
        self.rate = self.rate * math.exp(-(now - self._at) / RATE_WINDOW) + entries / RATE_WINDOW
        self._at = now
        self._pause = self._poll_min if entries else min(self._pause * 2, self._poll_max)

    def stay_awake(self) -> None:
        """Do not sleep for `AWAKE_SECONDS`: commits waited for each other while every one notified."""
        self._awake_until = self._at + AWAKE_SECONDS

    @property
    def may_sleep(self) -> bool:
        """True if changes are rare enough for every commit to notify."""
        return self.rate < SLEEP_BELOW and self._at >= self._awake_until

    @property
    def must_wake(self) -> bool:
        """True if changes are too frequent for every commit to notify."""
        return self.rate > WAKE_ABOVE

    @property
    def pause(self) -> float:
        """Seconds until the next read without a notification."""
        pause = self._poll_min if self.rate >= SLEEP_BELOW else self._pause
        if self.rate > BUSY_ABOVE:
            share = (min(self.rate, BUSIEST) - BUSY_ABOVE) / (BUSIEST - BUSY_ABOVE)
            pause = self._poll_min + share * max(0.0, BUSY_PAUSE - self._poll_min)
        return max(pause, min(self._delay**2 / DELAY, BUSY_PAUSE))
