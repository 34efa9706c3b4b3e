"""ReadLeases: each miss belongs to one task, and their number is bounded."""

import asyncio

from unstale.near_cache.in_flight import InFlightReads
from unstale.writing.read_leases import MOST_MISSES, ReadLeases


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def misses() -> tuple[ReadLeases, InFlightReads, Clock]:
    reads, clock = InFlightReads(), Clock()
    return ReadLeases(reads, clock), reads, clock


async def test_a_miss_is_recalled_once_by_its_own_task() -> None:
    known, reads, _ = misses()
    known.remember("k", b"lease", reads.open("k"), seconds=30)

    async def other() -> object:
        return known.recall("k")

    assert await asyncio.create_task(other()) is None
    miss = known.recall("k")
    assert miss is not None
    assert miss.lease == b"lease"
    assert known.recall("k") is None
    assert len(reads) == 0


async def test_a_later_task_at_the_same_address_is_another_task() -> None:
    known, reads, _ = misses()

    async def miss() -> int:
        known.remember("k", b"lease", reads.open("k"), seconds=30)
        return id(asyncio.current_task())

    async def recall() -> tuple[int, object]:
        return id(asyncio.current_task()), known.recall("k")

    addresses = {await asyncio.create_task(miss())}
    found = [await asyncio.create_task(recall()) for _ in range(200)]
    assert all(miss is None for _, miss in found)
    # The allocator gave the address away again, or this test has shown nothing.
    assert addresses & {address for address, _ in found}


async def test_an_invalidation_in_between_shows() -> None:
    known, reads, _ = misses()
    known.remember("k", None, reads.open("k"), seconds=30)
    reads.invalidate("k")
    miss = known.recall("k")
    assert miss is not None
    assert not miss.read.valid


async def test_misses_expire() -> None:
    known, reads, clock = misses()
    known.remember("k", b"lease", reads.open("k"), seconds=30)
    clock.now = 30.0
    assert known.recall("k") is None
    known.remember("a", None, reads.open("a"), seconds=30)
    clock.now = 60.0
    known.remember("b", None, reads.open("b"), seconds=30)
    assert len(known) == len(reads) == 1


async def test_only_so_many_are_remembered() -> None:
    known, reads, _ = misses()
    for number in range(MOST_MISSES + 10):
        known.remember(f"k{number}", None, reads.open(f"k{number}"), seconds=30)
    assert len(known) == len(reads) == MOST_MISSES
    assert known.recall("k0") is None
    known.clear()
    assert len(known) == len(reads) == 0


def test_outside_of_a_task_nothing_is_remembered() -> None:
    known, reads, _ = misses()
    loop = asyncio.new_event_loop()
    done = loop.create_future()

    def remember() -> None:
        known.remember("k", None, reads.open("k"), seconds=30)
        done.set_result((len(known), len(reads), known.recall("k")))

    loop.call_soon(remember)
    assert loop.run_until_complete(done) == (0, 0, None)
    loop.close()
