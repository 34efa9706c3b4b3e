"""When a leader publishes a watermark, and that a hint which ends a wait belongs to the next read."""

import asyncio
from typing import cast

import pytest

from unstale.settings import WorkerSettings
from unstale_worker.leader.pipeline import Pipeline
from unstale_worker.leader.watermarks import SPACING, SPACING_ELSEWHERE, Watermarks
from unstale_worker.observe.status import WorkerCounters
from unstale_worker.observe.worker_health import WorkerHealth
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.rules import Rules
from unstale_worker.sources import Source
from unstale_worker.sources.wakeups import WakeUps
from workers import PROFILES

STATE = StoredState(live_run="run")
FIRST, SECOND = (Seen(f"{number}:{number}:", "0/1", 0.0, "") for number in (1, 2))
INTERVAL = 0.5


class Published:
    """A stand-in for the applier that records what is published."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def watermark(self, state: StoredState, seen: Seen) -> str:
        self.seen.append(seen)
        return "7"


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("unstale_worker.leader.watermarks.time.monotonic", lambda: self.now)


def made() -> tuple[Watermarks, Published]:
    published = Published()
    return Watermarks(cast(Applier, published), WorkerCounters(), interval=INTERVAL), published


async def test_nothing_is_published_before_a_read_is_applied() -> None:
    watermarks, published = made()
    await watermarks.publish_if_due(STATE)
    await watermarks.publish_between_pages(STATE)
    assert published.seen == []


async def test_a_watermark_comes_soon_after_a_change_and_else_at_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watermarks, published = made()
    clock = Clock(monkeypatch)
    watermarks.seen = FIRST
    await watermarks.publish_if_due(STATE)
    assert (published.seen, watermarks.primary_until) == ([FIRST], "7")
    assert watermarks.due_in() == pytest.approx(INTERVAL)
    watermarks.change_applied()
    assert watermarks.due_in() == pytest.approx(SPACING)
    watermarks.seen = SECOND
    await watermarks.publish_if_due(STATE)
    assert published.seen == [FIRST]
    clock.now += 2 * SPACING
    await watermarks.publish_if_due(STATE)
    assert published.seen == [FIRST, SECOND]
    assert watermarks.due_in() == pytest.approx(INTERVAL)
    watermarks.change_applied(elsewhere=True)
    assert watermarks.due_in() == pytest.approx(SPACING_ELSEWHERE)
    watermarks.change_applied()
    watermarks.change_applied(elsewhere=True)
    assert watermarks.due_in() == pytest.approx(SPACING)


async def test_between_pages_only_the_interval_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    watermarks, published = made()
    clock = Clock(monkeypatch)
    watermarks.seen = FIRST
    watermarks.published(clock.now, "")
    watermarks.change_applied()
    clock.now += INTERVAL / 2
    await watermarks.publish_between_pages(STATE)
    assert published.seen == []
    clock.now += INTERVAL
    await watermarks.publish_between_pages(STATE)
    assert published.seen == [FIRST]


def test_a_batch_publishes_its_own_watermark_unless_the_last_is_recent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watermarks, _ = made()
    clock = Clock(monkeypatch)
    assert watermarks.may_join()
    watermarks.published(clock.now, "")
    assert not watermarks.may_join()
    clock.now += 2 * SPACING
    assert watermarks.may_join()


class Sleeping(WakeUps):
    """Sleeps from the start, and records what reads without a hint found."""

    asleep = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def report_read(self, found: bool, *, asleep: bool) -> None:
        self.told.append(found)


class SourceStub:
    least_pause = 0.0


async def test_a_hint_that_ends_a_wait_belongs_to_the_next_read() -> None:
    """Otherwise its read would count as unannounced, and the session would be replaced."""
    wakeups, stop = Sleeping(), asyncio.Event()

    class Scripted(Pipeline):
        cycles = 0

        async def cycle(self) -> int:
            self.cycles += 1
            if self.cycles == 1:
                asyncio.get_running_loop().call_soon(wakeups.hint)
            else:
                stop.set()
            return self.cycles - 1

    applier = cast(Applier, Published())
    pipeline = Scripted(
        cast(Source, SourceStub()),
        [applier],
        Rules.parse(PROFILES),
        wakeups,
        WorkerSettings(),
        WorkerHealth(),
    )
    async with asyncio.timeout(20):
        await pipeline.run(stop)
    assert wakeups.told == [False]
