"""The worker and the agents of `latency.py`, with a clock at each hop of a change, for `waterfall.py`.

Each process writes what it saw to a file of its own in the folder BENCH_TRACE when it ends. The clocks are
put around functions from outside, so the product has no code for this and pays nothing for it.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson


def trace_worker() -> None:
    """Note of each batch: keys, wake-up, beginning and end of the read, planned, script sent and replied."""
    from unstale_worker.leader import pipeline
    from unstale_worker.redis.applier import APPLY, Applier
    from unstale_worker.sources.notify import NotifyWakeUps
    from unstale_worker.sources.outbox import OutboxSource

    batches: list[list[Any]] = []
    at = {"heard": 0.0, "began": 0.0, "read": 0.0, "planned": 0.0}

    def notified(original: Callable[..., None], wakeups: NotifyWakeUps, *rest: object) -> None:
        at["heard"] = at["heard"] or time.monotonic()
        original(wakeups, *rest)

    async def read(original: Callable[..., Any], *args: Any) -> Any:
        at["began"] = time.monotonic()
        page = await original(*args)
        at["read"] = time.monotonic()
        return page

    async def plan(original: Callable[..., Any], *args: Any) -> Any:
        planned = await original(*args)
        at["planned"] = time.monotonic()
        return planned

    async def pipelined(original: Callable[..., Any], applier: Applier, script: Any, calls: Any) -> Any:
        sent = time.monotonic()
        replies = await original(applier, script, calls)
        if script is APPLY:
            keys = [part for call in calls for part in call[5 : 3 + call[2]]]  # behind the state and the log
            heard = at["heard"] or at["began"]  # while polling there is no wake-up
            batches.append([keys, heard, at["began"], at["read"], at["planned"], sent, time.monotonic()])
            at["heard"] = 0.0
        return replies

    _wrap(NotifyWakeUps, "_notified", notified)
    _wrap(OutboxSource, "read", read)
    _wrap(pipeline, "plan_page", plan)
    _wrap(Applier, "_pipelined", pipelined)
    _write_at_exit("worker", batches)


def trace_agent() -> None:
    """Note of each key when its message was received, and when the near cache had dropped it."""
    from unstale.freshness.subscriber import Subscriber
    from unstale.near_cache.local_state import LocalState

    keys_seen: dict[str, tuple[float, float]] = {}
    heard = 0.0

    async def hear(original: Callable[..., Any], *args: Any) -> None:
        nonlocal heard
        heard = time.monotonic()
        await original(*args)

    def drop(original: Callable[..., int], state: LocalState, keys: Any, patterns: Any = ()) -> int:
        held = original(state, keys, patterns)
        now = time.monotonic()
        for key in keys:
            keys_seen.setdefault(key, (heard, now))
        return held

    _wrap(Subscriber, "_hear", hear)
    _wrap(LocalState, "drop", drop)
    _write_at_exit("agent", keys_seen)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **named: around(original, *args, **named))


def _write_at_exit(role: str, found: object) -> None:
    path = Path(os.environ["BENCH_TRACE"]) / f"{role}-{os.getpid()}.json"
    atexit.register(lambda: path.write_bytes(orjson.dumps(found)))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        from unstale_worker.cli.commands import main

        trace_worker()
        main()
    else:
        from harness import run
        from latency_child import agent

        trace_agent()
        run(lambda: agent(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
