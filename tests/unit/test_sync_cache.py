"""`unstale.sync.Cache`: the calls of the cache for threads that do not await."""

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from unstale import CacheClosed, ConfigurationError, Invalidated, Load, LoadCycle, LockTimeout
from unstale.protocol.messages import PublishedRules, Snapshot
from unstale.runtime import clock
from unstale.sync import Cache, near_hits
from unstale.sync.near_hits import NearHits

KEY = "user:1:profile"
RULES = PublishedRules("hash", ("user:*:profile",), (("user:*:profile", 60.0),))
PATIENCE = 60.0
"""Seconds until a wait gives up."""


@pytest.fixture
def cache() -> Iterator[Cache]:
    """A cache without Redis; `attach` reports what an outbox follower would."""
    cache = Cache.from_env(env_file=None, redis_enabled=False, ttl_jitter=0.0)
    yield cache
    cache.close()


def on_loop(cache: Cache, action: Callable[[], object]) -> None:
    """Do something on the event loop of the cache, where its parts are changed."""
    done = threading.Event()

    def act() -> None:
        action()
        done.set()

    cache._opened().loops.loop.call_soon_threadsafe(act)
    assert done.wait(PATIENCE)


def attach(cache: Cache) -> None:
    feed = cache.inspect().feed

    def follow() -> None:
        feed.restart(RULES)
        feed.reached(clock.now() + 3600, seen=Snapshot(7, 9), lsn="0/2", flushed="0/1", database="1:1")

    on_loop(cache, follow)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- loaders ------------------------------------------------------------------------------------


def test_a_plain_loader_runs_in_the_thread_that_asked(cache: Cache) -> None:
    """So that thread-locals, as Django's connections are, and context variables are those of the caller."""
    local, variable = threading.local(), contextvars.ContextVar[str]("variable")
    local.connection = "mine"
    variable.set("request 7")

    def load(load: Load) -> dict[str, str]:
        return {"connection": local.connection, "request": variable.get(), "key": load.key}

    assert cache.get_or_load(KEY, load) == {"connection": "mine", "request": "request 7", "key": KEY}


def test_an_async_loader_runs_on_the_loop_of_the_cache(cache: Cache) -> None:
    variable = contextvars.ContextVar[str]("variable")
    variable.set("request 7")

    async def load() -> list[str]:
        await asyncio.sleep(0)
        return [threading.current_thread().name, variable.get()]

    assert cache.get_or_load("a", load) == ["unstale-cache", "request 7"]
    assert cache.get_or_load("b", lambda: load()) == ["unstale-cache", "request 7"]


def test_threads_that_miss_the_same_key_wait_for_one_load(cache: Cache) -> None:
    calls: list[str] = []
    release = threading.Event()

    def load() -> int:
        calls.append(threading.current_thread().name)
        assert release.wait(PATIENCE)
        return 1

    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(cache.get_or_load, KEY, load) for _ in range(8)]
        until(lambda: calls)
        until(lambda: len(cache.inspect().path.flights.running[KEY].waiters) == 8)
        release.set()
        assert [read.result() for read in reads] == [1] * 8
    assert len(calls) == 1


def test_many_keys_are_loaded_by_one_call_in_the_callers_thread(cache: Cache) -> None:
    def load(keys: list[str]) -> dict[str, str]:
        return {keys[0]: threading.current_thread().name}

    assert cache.get_many(["a", "b"], load) == {"a": threading.current_thread().name, "b": None}
    assert cache.get_many(["a", "c"]) == {"a": threading.current_thread().name}
    with pytest.raises(TypeError, match=r"keys is the text 'abc'; expected several keys, such as \['abc'\]"):
        cache.get_many("abc")


@pytest.mark.parametrize(("error", "raised"), [(KeyError, KeyError), (StopIteration, RuntimeError)])
def test_a_loaders_error_reaches_the_caller(
    cache: Cache, error: type[Exception], raised: type[Exception]
) -> None:
    def load() -> None:
        raise error("x")

    with pytest.raises(raised):
        cache.get_or_load(KEY, load)
    with pytest.raises(TypeError, match="requires the parameter 'user'"):
        cache.get_or_load(KEY, lambda user: user)


def test_a_loader_that_waits_for_itself_gets_an_error(cache: Cache) -> None:
    """Its own key; two that need each other's; and one of many keys. A read of another key is none."""

    def many(keys: list[str]) -> dict[str, object]:
        return dict.fromkeys(keys, cache.get_or_load("k", lambda: 1))

    @cache.cached("function:{number}")
    def function(number: int) -> int:
        return function(number)

    def ring(*keys: str) -> object:
        return cache.get_or_load(keys[0], lambda: ring(*keys[1:], keys[0]))

    for keys in (("k",), ("a", "b")):
        with pytest.raises(LoadCycle):
            ring(*keys)
    with pytest.raises(LoadCycle):
        cache.get_many(["k", "l"], many)
    with pytest.raises(LoadCycle, match="'function:1' -> 'function:1'"):
        function(1)
    assert cache.get_or_load("k", lambda: cache.get_or_load("l", lambda: 1)) == 1
    assert cache.get_or_load("m", lambda: 2) == 2  # in a thread in which loaders have failed


def test_an_early_refresh_runs_a_plain_loader_in_a_thread_of_its_own(cache: Cache) -> None:
    attach(cache)
    threads: list[str] = []

    def load() -> int:
        threads.append(threading.current_thread().name)
        return len(threads)

    assert cache.get_or_load(KEY, load, ttl=100) == 1
    entry = cache.inspect().local.near.peek(KEY)
    assert entry is not None
    entry.expires -= 50
    assert cache.get_or_load(KEY, load, ttl=100, refresh_ahead=0.9) == 1
    until(lambda: cache.get(KEY) == 2)
    assert threads == [threading.current_thread().name, "unstale-background-load"]


# --- interrupted waits ---------------------------------------------------------------------------


def test_readers_go_on_when_the_thread_whose_loader_runs_is_interrupted(cache: Cache) -> None:
    def interrupted() -> None:
        until(lambda: len(cache.inspect().path.flights.running[KEY].waiters) == 2)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:

        def second() -> Any:
            until(lambda: KEY in cache.inspect().path.flights.running)
            return cache.get_or_load(KEY, lambda: "mine")

        other = pool.submit(second)
        with pytest.raises(KeyboardInterrupt):
            cache.get_or_load(KEY, interrupted)
        assert other.result(PATIENCE) == "mine"


def test_a_time_limit_ends_the_wait_and_the_load(cache: Cache) -> None:
    """As Celery's soft time limit does, which a signal handler raises."""
    cancelled, loading = threading.Event(), threading.Event()

    async def load() -> None:
        loading.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    def expired(_signal: int, _frame: object) -> None:
        raise TimeoutError("time limit")

    def interrupt() -> None:
        assert loading.wait(PATIENCE)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, expired)
    try:
        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(TimeoutError, match="time limit"):
            cache.get_or_load(KEY, load)
        killer.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert cancelled.wait(PATIENCE)
    assert cache.get_or_load(KEY, lambda: "again") == "again"


def test_closing_ends_the_wait_of_other_threads(cache: Cache) -> None:
    loading = threading.Event()

    async def load() -> None:
        loading.set()
        await asyncio.sleep(3600)

    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(cache.get_or_load, KEY, load)
        assert loading.wait(PATIENCE)
        cache.close()
        with pytest.raises(CacheClosed):
            read.result(PATIENCE)


# --- near hits -----------------------------------------------------------------------------------


def test_near_hits_of_many_threads_are_answered_without_the_loop_and_counted(cache: Cache) -> None:
    attach(cache)
    cache.get_or_load(KEY, lambda: {"a": 1})
    cache.get_or_load(KEY, lambda: 0, shared=True)
    busy, go_on = threading.Event(), threading.Event()
    before = cache.counters().near_hits

    def block() -> None:
        busy.set()
        go_on.wait(PATIENCE)

    cache._opened().loops.loop.call_soon_threadsafe(block)
    assert busy.wait(PATIENCE)  # no call of another thread can be answered by the loop now

    def read() -> list[Any]:
        return [cache.get_or_load(KEY, lambda: 0, shared=n % 2 == 0) for n in range(999)] + [cache.get(KEY)]

    try:
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(read) for _ in range(8)]
            assert all(value == {"a": 1} for each in reads for value in each.result(PATIENCE))
    finally:
        go_on.set()
    assert cache.counters().near_hits - before == 8_000
    assert cache.get_stats()["cache_hits"] == cache.counters().near_hits


def test_no_thread_reads_what_was_invalidated_before_its_read_began(cache: Cache) -> None:
    """The value is changed by `delete`, a change of the database, a new epoch and a lost connection."""
    attach(cache)
    parts = cache.inspect()
    committed, processed = 0, 0  # the database, and what this process has processed
    ending = threading.Event()
    hits = [0] * 7

    def read(place: int) -> None:
        while not ending.is_set():
            floor = processed
            value = cache.get_or_load(KEY, lambda: committed)
            assert value >= floor
            hits[place] += 1

    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # let threads interleave often
    try:
        with ThreadPoolExecutor(7) as pool:
            readers = [pool.submit(read, place) for place in range(7)]
            for number in range(1, 401):
                committed = number
                if number % 4 == 0:
                    cache.delete(KEY)
                elif number % 4 == 1:
                    on_loop(cache, lambda: parts.feed.drop([KEY], []))
                elif number % 4 == 2:
                    attach(cache)
                else:
                    on_loop(cache, parts.freshness.lost)
                    on_loop(cache, lambda: parts.feed.drop([], ["user:*"]))
                    attach(cache)
                processed = number
                cache.get(KEY)
            ending.set()
            for reader in readers:
                reader.result(PATIENCE)
    finally:
        ending.set()
        sys.setswitchinterval(switches)
    assert all(hits)


def test_a_hit_is_not_trusted_by_a_watermark_that_came_after_the_lookup(cache: Cache) -> None:
    """A thread is paused after it found an entry while detached; the replay then drops that entry."""
    attach(cache)
    cache.get_or_load(KEY, lambda: "old")
    parts = cache.inspect()
    on_loop(cache, parts.freshness.detached)
    hits = NearHits(parts)

    def paused() -> float:  # the clock is read after the lookup
        on_loop(cache, lambda: parts.feed.drop([KEY], []))
        on_loop(
            cache,
            lambda: parts.feed.reached(
                clock.now(), seen=Snapshot(9, 9), lsn="0/3", flushed="0/3", database="1:1"
            ),
        )
        return clock.now()

    hits._now = paused
    assert parts.local.near.peek(KEY) is not None
    assert hits.find(KEY) is None
    assert cache.attached
    assert cache.get_or_load(KEY, lambda: "new") == "new"


def test_without_a_gil_each_read_asks_the_loop(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_hits, "gil_enabled", lambda: False)
    attach(cache)
    assert [cache.get_or_load(KEY, lambda: 1) for _ in range(3)] == [1, 1, 1]
    assert cache._opened().near[0].hits == 0
    assert cache.counters().near_hits == 2


# --- writing -------------------------------------------------------------------------------------


def test_set_uses_the_miss_of_its_own_thread(cache: Cache) -> None:
    attach(cache)
    assert cache.get(KEY, default="absent") == "absent"
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(cache.set, KEY, "of another thread").result()
    assert cache.get(KEY) is None
    assert cache.set(KEY, "mine")
    assert cache.get(KEY) == "mine"
    cache.delete(KEY)
    assert cache.get(KEY, default="gone") == "gone"
    assert cache.invalidate_pattern("user:*") == 0


def test_a_lock_is_held_by_one_thread_at_a_time(cache: Cache) -> None:
    with cache.lock("greeting") as held, ThreadPoolExecutor(1) as pool:
        assert held.held

        def other() -> None:
            with cache.lock("greeting", timeout=0.01):
                pytest.fail("held twice")

        with pytest.raises(LockTimeout):
            pool.submit(other).result()
        held.extend()
    with cache.lock("greeting", timeout=0) as again:
        assert again.fence > 0


def test_events_are_read_by_a_blocking_iterator(cache: Cache) -> None:
    with cache.subscribe("user:*") as events:
        assert events.get(timeout=0.001) is None
        cache.delete(KEY, "other")
        event = next(events)
        assert isinstance(event, Invalidated)
        assert event.keys == (KEY,)
        cache.close()
        assert list(events) == []


# --- life ----------------------------------------------------------------------------------------


async def test_a_running_event_loop_is_never_blocked(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def attached() -> None:
        attach(cache)
        cache.get_or_load(KEY, lambda: 1)

    await asyncio.to_thread(attached)
    for call in (lambda: cache.get_or_load(KEY, lambda: 2), lambda: cache.get("missing"), cache.open):
        with pytest.raises(RuntimeError, match=r"asyncio\.to_thread"):
            call()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert cache.get_or_load(KEY, lambda: 2) == 1  # a notebook's cells may block
    assert cache.get("missing") is None
    monkeypatch.undo()
    await asyncio.to_thread(cache.close)


def test_a_cache_opens_on_first_use_and_again_only_when_told() -> None:
    cache = Cache.from_env(env_file=None, redis_enabled=False)
    assert (cache.attached, cache.staleness) == (False, float("inf"))
    assert cache._life is None
    assert cache.get_or_load(KEY, lambda: 1) == 1
    with cache:
        assert cache.get_or_load(KEY, lambda: 2) == 1
    with pytest.raises(CacheClosed, match="with cache"):
        cache.get(KEY)
    with cache:
        assert cache.get_or_load(KEY, lambda: 3) == 3
    cache.close()


def test_a_cache_that_nobody_holds_ends_its_thread() -> None:
    cache = Cache.from_env(env_file=None, redis_enabled=False)
    cache.get(KEY)
    loops, gone = cache._opened().loops, weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None
    until(lambda: not loops.alive)


def test_a_forked_child_opens_a_cache_of_its_own(cache: Cache) -> None:
    attach(cache)
    cache.get_or_load(KEY, lambda: "parent's")
    with cache.subscribe("*") as events, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of a fork with threads, on Python 3.12 and newer
        child = os.fork()
        if not child:
            code = 1
            try:
                assert cache.get_or_load(KEY, lambda: "child's") == "child's"
                with pytest.raises(CacheClosed, match="forked"):
                    next(events)
                cache.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cache.get_or_load(KEY, lambda: "loaded again") == "parent's"
        cache.delete("x")
        assert isinstance(next(events), Invalidated)


# --- the decorator -------------------------------------------------------------------------------


class Profile(BaseModel):
    name: str


def test_a_plain_function_is_cached_under_a_key_of_its_arguments(cache: Cache) -> None:
    calls: list[int] = []

    @cache.cached("user:{user_id}:profile")
    def profile(user_id: int) -> Profile | None:
        calls.append(user_id)
        return Profile(name=f"Ada {len(calls)}")

    class Repository:
        @cache.cached("user:{user_id}:name")
        def name(self, user_id: int) -> str:
            return f"name {user_id}"

    assert profile(42) == profile(user_id=42) == Profile(name="Ada 1")
    assert profile.fresh(42) == Profile(name="Ada 2")
    profile.invalidate(42)
    assert profile(42) == Profile(name="Ada 3")
    assert profile.key(42) == "user:42:profile"
    assert Repository().name(7) == "name 7"


def test_an_async_function_is_refused(cache: Cache) -> None:
    async def profile(user_id: int) -> None: ...

    with pytest.raises(ConfigurationError, match="must be a plain function"):
        cache.cached("user:{user_id}:profile")(profile)
