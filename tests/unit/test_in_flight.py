"""In-flight reads: which invalidations make a read not cacheable."""

from itertools import permutations

from unstale.near_cache.in_flight import InFlightReads


def test_an_invalidation_reaches_every_read_of_the_key_and_no_other() -> None:
    reads = InFlightReads()
    one, two, other = reads.open("a"), reads.open("a"), reads.open("b")
    reads.invalidate("a")
    later = reads.open("a")
    assert [one.valid, two.valid, other.valid, later.valid] == [False, False, True, True]


def test_a_pattern_reaches_what_it_matches() -> None:
    reads = InFlightReads()
    profile, state = reads.open("user:1:profile"), reads.open("user:1:state")
    reads.invalidate_matching(["user:*:profile"])
    assert (profile.valid, state.valid) == (False, True)


def test_a_flush_reaches_all_and_wakes_once() -> None:
    reads = InFlightReads()
    read = reads.open("a")
    woken: list[str] = []
    read.on_invalidated = lambda: woken.append("woken")
    reads.invalidate_all()
    reads.invalidate_all()
    assert not read.valid
    assert woken == ["woken"]


def test_closed_reads_leave_nothing_behind() -> None:
    reads = InFlightReads()
    read = reads.open("a")
    reads.close(read)
    reads.close(read)
    reads.invalidate("a")
    assert read.valid
    assert len(reads) == 0


def test_reads_of_one_key_close_in_any_order() -> None:
    for order in permutations(range(4)):
        reads = InFlightReads()
        opened = [reads.open("a") for _ in range(4)]
        for count, which in enumerate(order, start=1):
            reads.close(opened[which])
            reads.close(opened[order[0]])  # closed before
            assert len(reads) == 4 - count
        newest = reads.open("a")
        reads.invalidate("a")
        assert [read.valid for read in (*opened, newest)] == [True, True, True, True, False]


def test_thousands_of_reads_of_one_key_close_one_by_one() -> None:
    """The oldest first, as they are answered. To look for each of them would take minutes."""
    reads = InFlightReads()
    opened = [reads.open("a") for _ in range(100_000)]
    for read in opened:
        reads.close(read)
    assert len(reads) == 0
