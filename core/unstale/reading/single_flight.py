"""Single flight: for each key, at most one load runs and one waits in a process."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import NamedTuple

from unstale.errors import CacheClosed, LoadCancelled, LoadCycle
from unstale.near_cache.in_flight import InFlightRead, InFlightReads
from unstale.protocol.lease import ValueOrLease
from unstale.protocol.tags import NO_TAGS
from unstale.reading import load_chain
from unstale.reading.load_chain import Chain, Wait, Waiting
from unstale.reading.loader import Loader
from unstale.reading.older_values import OlderValues, Terms
from unstale.reading.options import ReadOptions
from unstale.reading.result import FAILED, SLOW, ReadResult

CLOSED_WHILE_LOADING = "the cache was closed while this was loading"


class Brought(NamedTuple):
    """The way of one caller to load the value."""

    loader: Loader
    options: ReadOptions
    context: Context


class Flight(Waiting):
    """One read of a key for all callers that wait for it.

    Attributes:
        read: The read in flight; invalid once the key is invalidated after the read began.
        acquired: Result of the round trip to Redis before this flight began, if there was one.
        lease: The lease under which it loads, once acquired.
        forced: True if no cache may answer.
        early: True if no caller waits, because the value is refreshed before it expires.
        next: The flight for callers that arrived after an invalidation.
        waiters: The callers that wait, in the order in which they came, each with what it has brought.
        owner: The caller whose loader is called.
        goes_on: True if it goes on without waiters, as one of them was answered with an older value.
    """

    __slots__ = (
        "_reads", "_tags", "abandoned", "acquired", "early", "forced", "goes_on", "lease", "loader", "next",
        "options", "owner", "read", "task", "waiters",
    )  # fmt: skip

    def __init__(
        self,
        reads: InFlightReads,
        key: str,
        loader: Loader,
        options: ReadOptions,
        *,
        forced: bool = False,
        early: bool = False,
        read: InFlightRead | None = None,
        acquired: ValueOrLease | None = None,
    ) -> None:
        super().__init__(key)
        self._reads = reads
        self.loader = loader
        self.options = options
        self.forced = forced
        self._tags = frozenset(options.tags) if options.tags else NO_TAGS
        self.read = read if read is not None else reads.open(key, self._tags)
        self.early = early
        self.acquired = acquired
        self.lease = None if acquired is None else acquired.lease
        self.next: Flight | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiters: dict[asyncio.Future[ReadResult], Brought] = {}
        self.owner: asyncio.Future[ReadResult] | None = None
        self.abandoned = self.goes_on = False

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the value."""
        return self.options.tags

    def may_be_joined(self, tags: tuple[str, ...]) -> bool:
        """Return True if a caller that names ``tags`` gets nothing older than what was invalidated here."""
        return self.read.valid and (not tags or self.read.tags.issuperset(tags))

    def add(self, waiter: "asyncio.Future[ReadResult]", brought: Brought) -> None:
        """Let a caller wait; the first one is the owner."""
        self.waiters[waiter] = brought
        if self.owner is None:
            self.owner = waiter

    def take_over(self) -> Context | None:
        """Continue with the loader of a caller that waits, if the owner has gone; return its context.

        The owner's loader may have failed because what it reads with was closed: a request's connection, say.
        """
        if self.owner in self.waiters:
            return None
        for waiter, brought in self.waiters.items():
            if not waiter.done():
                self.owner, self.loader = waiter, brought.loader
                self.options = brought.options._replace(tags=self.options.tags)
                self.acquired = self.lease = None
                self.restart()
                return brought.context
        return None

    def restart(self) -> None:
        """Restart the read in flight; allowed only if nothing that was read so far is used."""
        self._reads.close(self.read)
        self.read = self._reads.open(self.key, self._tags)

    def close(self) -> None:
        """Close the read in flight."""
        self._reads.close(self.read)


class SingleFlight:
    """All flights of one process. ``fetch`` returns the value for a flight.

    Attributes:
        running: The flight of each key that loads now. Only this class changes it.
    """

    def __init__(
        self,
        fetch: Callable[[Flight], Awaitable[ReadResult]],
        reads: InFlightReads,
        older: OlderValues | None = None,
    ) -> None:
        self._fetch, self._older = fetch, older
        self._reads = reads
        self.running: dict[str, Flight] = {}
        self._closed = False

    async def join(
        self,
        key: str,
        loader: Loader,
        options: ReadOptions,
        *,
        forced: bool = False,
        read: InFlightRead | None = None,
        acquired: ValueOrLease | None = None,
    ) -> ReadResult:
        """Wait for a read of ``key`` that began after the last invalidation this process knows of.

        A ``forced`` caller waits for a load that begins after it arrived. A loader's error is raised in all
        callers that wait for that load. If a caller is cancelled, the load goes on for the others; cancelling
        the last caller cancels the load. If the caller whose loader runs has gone, and its loader fails, the
        loader of a caller that waits is called, once. A caller that allows it gets an older value when the
        load fails or is slow; a slow one goes on. A new flight takes over ``read`` and ``acquired``; pass
        them only if no flight is in progress.
        """
        if self._closed:
            if read is not None:
                self._reads.close(read)
            raise CacheClosed(CLOSED_WHILE_LOADING)
        flight = self.running.get(key)
        if flight is None:
            flight = Flight(self._reads, key, loader, options, forced=forced, read=read, acquired=acquired)
            self._start(flight)
        elif forced or flight.abandoned or not flight.may_be_joined(options.tags):
            if flight.next is None:
                flight.next = Flight(self._reads, key, loader, options, forced=forced)
                flight.next.awaited.append(Wait(flight))
            flight = flight.next
            flight.forced = flight.forced or forced
        waiter: asyncio.Future[ReadResult] = asyncio.get_running_loop().create_future()
        flight.add(waiter, Brought(loader, options, copy_context()))
        loads = load_chain.chain()
        terms = None if self._older is None or forced else self._older.terms(key, options)
        try:
            if not loads and terms is None:
                return await waiter
            if terms is None:
                await load_chain.wait_for(flight, loads, waiter)
                return waiter.result()
            return await self._answered(flight, waiter, loads, terms)
        except LoadCycle:
            flight.waiters.pop(waiter, None)
            raise
        except asyncio.CancelledError:
            flight.waiters.pop(waiter, None)
            if not flight.waiters and flight.task is not None and not flight.goes_on:
                flight.abandoned = True
                flight.task.cancel()
            raise

    async def _answered(
        self, flight: Flight, waiter: "asyncio.Future[ReadResult]", loads: Chain, terms: Terms
    ) -> ReadResult:
        """Return the result of the flight, or an older value if that is slow or fails."""
        older = self._older
        assert older is not None  # it has made the terms
        await load_chain.wait_for(flight, loads, waiter, terms.soft)
        if not waiter.done():
            found = await older.answer(flight.key, terms, SLOW)
            if found is not None and not waiter.done():
                flight.goes_on = True
                flight.waiters.pop(waiter, None)
                return found
            await load_chain.wait_for(flight, loads, waiter)
        try:
            return waiter.result()
        except Exception as error:
            found = await older.answer(flight.key, terms, FAILED, error)
            if found is None:
                raise
            return found

    async def close(self) -> None:
        """Cancel every load; callers that wait, and those that still come, get `CacheClosed`."""
        self._closed = True
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would wake no caller
        tasks = [flight.task for flight in self.running.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, flight: Flight) -> None:
        self.running[flight.key] = flight
        flight.task = asyncio.create_task(self._run(flight), name="unstale-load")

    async def _run(self, flight: Flight) -> None:
        load_chain.enter((flight,))
        try:
            loaded = await self._fetched(flight)
        except asyncio.CancelledError:
            if self._closed:
                self._fail(flight, CacheClosed(CLOSED_WHILE_LOADING))
            elif flight.abandoned:
                raise
            else:
                self._fail(flight, LoadCancelled(f"the loader of {flight.key!r} was cancelled from inside"))
        except Exception as error:
            self._fail(flight, error)
        except BaseException as error:  # the interpreter is exiting: wake every caller first
            self._fail(flight, error)
            raise
        else:
            for waiter in flight.waiters:
                if not waiter.done():
                    waiter.set_result(loaded)
        finally:
            flight.close()
            self._land(flight)

    async def _fetched(self, flight: Flight) -> ReadResult:
        context: Context | None = None
        try:
            return await self._fetch(flight)
        except asyncio.CancelledError:
            if self._closed or flight.abandoned or (context := flight.take_over()) is None:
                raise
        except Exception:
            if self._closed or (context := flight.take_over()) is None:
                raise
        context.run(load_chain.enter, (flight,))
        again = self._fetch(flight)
        return await asyncio.get_running_loop().create_task(_awaited(again), context=context)

    def _land(self, flight: Flight) -> None:
        """End the flight, and start the next one if a caller still waits for it."""
        following = flight.next
        if following is not None:
            following.awaited = [wait for wait in following.awaited if wait.load is not flight]
        if following is not None and self._closed:
            self._fail(following, CacheClosed(CLOSED_WHILE_LOADING))
        if following is not None and (following.waiters or following.goes_on) and not self._closed:
            following.restart()  # nothing was read for it yet
            self._start(following)
            return
        if following is not None:
            following.close()
        del self.running[flight.key]

    def _fail(self, flight: Flight, error: BaseException) -> None:
        if flight.goes_on and not flight.waiters and self._older is not None and not self._closed:
            self._older.failed_later(flight.key, error)
        for waiter in flight.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def lease(self, key: str) -> bytes | None:
        """Return the lease under which the flight of ``key`` loads, if there is one."""
        flight = self.running.get(key)
        return None if flight is None else flight.lease

    def __len__(self) -> int:
        return len(self.running)

    def __repr__(self) -> str:
        return f"<SingleFlight {len(self.running)} running>"


async def _awaited(result: Awaitable[ReadResult]) -> ReadResult:
    return await result
