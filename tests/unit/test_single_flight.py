"""Single flight: which callers share a load, and how errors and cancellations affect them."""

import asyncio
from contextvars import ContextVar, copy_context

import pytest

from unstale.errors import CacheClosed, LoadCancelled
from unstale.near_cache.in_flight import InFlightReads
from unstale.reading.options import DEFAULT
from unstale.reading.result import LOADER, ReadResult
from unstale.reading.single_flight import Flight, SingleFlight


class Fetches:
    """Single flight in which each fetch waits until the test releases it."""

    def __init__(self) -> None:
        self.begun: list[Flight] = []
        self.gates: list[asyncio.Future[bytes]] = []
        self.reads = InFlightReads()
        self.flights = SingleFlight(self.fetch, self.reads)

    async def fetch(self, flight: Flight) -> ReadResult:
        self.begun.append(flight)
        gate: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        return ReadResult(await gate, LOADER)

    def join(self, *, forced: bool = False) -> asyncio.Task[ReadResult]:
        return asyncio.create_task(self.flights.join("k", lambda: None, DEFAULT, forced=forced))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_everybody_joins_the_load_that_runs() -> None:
    fetches = Fetches()
    reads = [fetches.join() for _ in range(5)]
    await settle()
    fetches.gates[0].set_result(b"1")
    assert {loaded.data for loaded in await asyncio.gather(*reads)} == {b"1"}
    assert len(fetches.begun) == 1
    await settle()
    assert len(fetches.flights) == len(fetches.reads) == 0


async def test_who_comes_after_an_invalidation_gets_the_next_load_and_only_one_waits() -> None:
    fetches = Fetches()
    before = fetches.join()
    await settle()
    fetches.reads.invalidate("k")
    after = [fetches.join() for _ in range(3)]
    await settle()
    assert len(fetches.begun) == 1
    fetches.gates[0].set_result(b"old")
    assert (await before).data == b"old"
    await settle()
    assert len(fetches.begun) == 2
    late = fetches.join()  # the second load is clean: join it
    await settle()
    fetches.gates[1].set_result(b"new")
    assert {loaded.data for loaded in await asyncio.gather(*after, late)} == {b"new"}
    assert len(fetches.begun) == 2


async def test_forced_readers_wait_for_a_load_that_begins_after_they_came() -> None:
    fetches = Fetches()
    plain = fetches.join()
    await settle()
    forced = [fetches.join(forced=True) for _ in range(2)]
    await settle()
    fetches.gates[0].set_result(b"1")
    await plain
    await settle()
    assert [flight.forced for flight in fetches.begun] == [False, True]
    fetches.gates[1].set_result(b"2")
    assert {loaded.data for loaded in await asyncio.gather(*forced)} == {b"2"}


async def test_an_error_reaches_everybody_and_the_next_reader_tries_again() -> None:
    fetches = Fetches()
    reads = [fetches.join() for _ in range(3)]
    await settle()
    fetches.gates[0].set_exception(LookupError("no such user"))
    assert [str(error) for error in await asyncio.gather(*reads, return_exceptions=True)] == [
        "no such user"
    ] * 3
    again = fetches.join()
    await settle()
    fetches.gates[1].set_result(b"1")
    assert (await again).data == b"1"


async def test_a_cancelled_reader_leaves_the_load_to_the_others() -> None:
    fetches = Fetches()
    first, second = fetches.join(), fetches.join()
    await settle()
    first.cancel()
    await settle()
    fetches.gates[0].set_result(b"1")
    assert (await second).data == b"1"
    assert first.cancelled()


async def test_the_last_cancelled_reader_ends_the_load() -> None:
    fetches = Fetches()
    reads = [fetches.join(), fetches.join()]
    await settle()
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    await settle()
    assert fetches.gates[0].cancelled()
    assert len(fetches.flights) == len(fetches.reads) == 0


async def test_a_reader_that_comes_while_an_abandoned_load_ends_gets_one_of_its_own() -> None:
    reads, begun, tidied = InFlightReads(), 0, asyncio.Event()

    async def fetch(flight: Flight) -> ReadResult:
        nonlocal begun
        begun += 1
        if begun == 2:
            return ReadResult(b"2", LOADER)
        try:
            await asyncio.Event().wait()
        finally:
            await tidied.wait()  # a load that takes its time to end, as one that gives its lease up
        raise AssertionError("unreachable")

    flights = SingleFlight(fetch, reads)
    first = asyncio.create_task(flights.join("k", lambda: None, DEFAULT))
    await settle()
    first.cancel()
    await settle()
    second = asyncio.create_task(flights.join("k", lambda: None, DEFAULT))
    await settle()
    assert begun == 1
    tidied.set()
    assert (await second).data == b"2"


async def test_a_waiting_load_that_nobody_wants_any_more_never_begins() -> None:
    fetches = Fetches()
    first = fetches.join()
    await settle()
    fetches.reads.invalidate("k")
    second = fetches.join()
    await settle()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    fetches.gates[0].set_result(b"1")
    await first
    await settle()
    assert len(fetches.begun) == 1
    assert len(fetches.flights) == len(fetches.reads) == 0


async def test_a_load_cancelled_from_inside_is_an_error_and_no_cancellation() -> None:
    fetches = Fetches()
    read = fetches.join()
    await settle()
    fetches.gates[0].cancel()
    with pytest.raises(LoadCancelled, match="'k'"):
        await read


async def test_closing_ends_what_runs_and_what_waits() -> None:
    fetches = Fetches()
    running = fetches.join()
    await settle()
    fetches.reads.invalidate("k")
    waiting = fetches.join()
    await settle()
    await fetches.flights.close()
    for read in (running, waiting):
        with pytest.raises(CacheClosed):
            await read


async def test_a_load_that_has_not_begun_when_the_cache_closes_ends_too() -> None:
    fetches = Fetches()
    read = fetches.join()
    await asyncio.sleep(0)
    assert not fetches.begun
    async with asyncio.timeout(5):
        await fetches.flights.close()
        with pytest.raises(CacheClosed):
            await read
    assert len(fetches.flights) == len(fetches.reads) == 0


async def test_no_load_begins_after_the_cache_was_closed() -> None:
    fetches = Fetches()
    await fetches.flights.close()
    with pytest.raises(CacheClosed):
        await fetches.join()
    read = fetches.reads.open("k")
    with pytest.raises(CacheClosed):
        await fetches.flights.join("k", lambda: None, DEFAULT, read=read)
    assert not fetches.begun
    assert len(fetches.reads) == 0


@pytest.mark.parametrize(
    ("leaves", "second_fails", "called"),
    [(True, False, ["first", "second"]), (True, True, ["first", "second"]), (False, False, ["first"])],
)
async def test_the_loader_of_a_waiting_reader_is_called_once_if_the_first_one_has_gone(
    leaves: bool, second_fails: bool, called: list[str]
) -> None:
    """As with a connection that belongs to a request, and is closed with it. Each loader has its context."""
    reads, calls, gate = InFlightReads(), list[str](), asyncio.Event()
    request: ContextVar[str] = ContextVar("request")

    async def fetch(flight: Flight) -> ReadResult:
        calls.append(request.get())
        await gate.wait()
        assert flight.read.valid
        return ReadResult(await flight.loader(), LOADER)  # type: ignore[call-arg]  # takes no Load

    def join(name: str, *, fails: bool = False) -> asyncio.Task[ReadResult]:
        async def loader() -> bytes:
            if fails:
                raise ConnectionError("closed with its request")
            return name.encode()

        context = copy_context()
        context.run(request.set, name)
        return asyncio.create_task(flights.join("k", loader, DEFAULT), context=context)

    flights = SingleFlight(fetch, reads)
    first, others = join("first", fails=True), [join("second", fails=second_fails), join("third")]
    await settle()
    if leaves:
        reads.invalidate("k")  # the second load begins later, so its value may be kept
        first.cancel()
        await settle()
    gate.set()
    if leaves and not second_fails:
        assert [(await read).data for read in others] == [b"second", b"second"]
    else:
        for read in others:
            with pytest.raises(ConnectionError):
                await read
    await asyncio.gather(first, return_exceptions=True)
    assert calls == called
    await settle()
    assert len(flights) == len(reads) == 0
