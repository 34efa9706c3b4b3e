"""Python loaders over any number of processes, by pydocket: its queue, its workers, its limits.

What is to be done, and whether it is done, stands in the refresh set; a job of the queue only says "look at
this key". So jobs may be lost, repeated or late. The queue gives what many processes need: one of them gets a
job, another takes a dead one's over, and no loader exceeds its concurrency and rate over all of them.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from docket import ConcurrencyLimit, Docket, Execution, RateLimit, Worker
from docket.execution import Disposition
from redis.exceptions import RedisError

from unstale.runtime import failpoints
from unstale.runtime.cancellation import cancelled
from unstale.settings import WorkerSettings
from unstale_worker.redis.applier import unavailable
from unstale_worker.refresh.redis.refresh_set import RefreshQueue
from unstale_worker.rules.refresh import RefreshSpec

Work = Callable[[RefreshSpec, str], Awaitable[None]]
"""Refreshes one key."""

HEARTBEAT: Final = timedelta(seconds=1)
MISSED_HEARTBEATS: Final = 5
"""A process that has been silent for so many is not counted on."""
POLL: Final = timedelta(milliseconds=50)
"""How long a worker waits for a free slot or a job before it looks at what has ended."""
UNKNOWN_PAUSE: Final = 1.0
SHORTEST_LIMIT: Final = 0.5
"""Seconds that an answer may take at least: `POLL` of them the server itself waits."""


@asynccontextmanager
async def open_docket(settings: WorkerSettings) -> AsyncIterator[Docket]:
    """The queue of this namespace, connected inside. Its keys lie under ``{unstale:0}:jobs``."""
    quieten()
    queue = Docket(
        name=settings.names.refresh_jobs,
        url=settings.redis_url.get_secret_value(),
        heartbeat_interval=HEARTBEAT,
        missed_heartbeats=MISSED_HEARTBEATS,
        execution_ttl=timedelta(0),  # the outcome stands in the refresh set; nothing is left behind here
    )
    async with queue as docket:
        monitor = docket.strike_list._monitor_task
        try:
            await _limit(docket, seconds=max(settings.redis_timeout, SHORTEST_LIMIT))
            yield docket
        finally:
            # While Redis is away its client may drop a cancellation. pydocket cancels its monitor once and
            # waits for it, so leaving would never end, or leave it behind, trying once a second.
            if monitor is not None:
                await asyncio.shield(asyncio.create_task(cancelled(monitor), name="unstale-docket-monitor"))


async def _limit(docket: Docket, *, seconds: float) -> None:
    """Let no command wait longer for its answer; what then breaks is connected anew.

    pydocket waits for as long as the connection seems to be open: a quarter of an hour when nobody was told
    that it is not. What waits for news without end (strikes, cancellations) has pools of its own.
    """
    pool = docket._redis._connection_pool
    assert pool is not None
    pool.connection_kwargs["socket_timeout"] = seconds
    await pool.disconnect()  # those that are open were made without it


def quieten() -> None:
    """Below warnings its log names every key at every step; a server that is away needs no traceback."""
    logging.getLogger("docket").setLevel(logging.WARNING)
    logging.getLogger("docket.worker").addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], RedisError | ExceptionGroup):
        record.msg, record.exc_info = f"{record.msg} ({type(record.exc_info[1]).__name__})", None
    return True


def register(docket: Docket, specs: Iterable[RefreshSpec], work: Work) -> None:
    """Make the queue know one task for each refresh, with its limits over all processes."""
    for spec in specs:
        docket.register(_task(spec, work), names=[task_name(spec)])


def task_name(spec: RefreshSpec) -> str:
    """What the task of a refresh is called in the queue."""
    return spec.template.text


async def nothing(spec: RefreshSpec, key: str) -> None:
    """For a process that only adds jobs."""
    raise AssertionError(f"this process does not run {spec.template.text}")


def worker_name() -> str:
    """A name that no other worker has or had."""
    return f"{socket.gethostname()}#{os.getpid()}#{secrets.token_hex(4)}"


def open_worker(
    docket: Docket, *, name: str, concurrency: int, takeover: float, unknown: Callable[[str], Awaitable[None]]
) -> Worker:
    """A worker over ``docket``.

    Args:
        docket: The queue; must stay entered for as long as the worker.
        name: What `worker_name` gave.
        concurrency: Loaders at the same time in this process.
        takeover: Seconds after which a silent worker's jobs are another's.
        unknown: Called with the key of a job whose refresh this process does not know.
    """

    async def fallback(*_: Any, **arguments: Any) -> None:
        await unknown(str(arguments["key"]))

    return Worker(
        docket,
        name=name,
        concurrency=concurrency,
        redelivery_timeout=timedelta(seconds=takeover),
        reconnection_delay=timedelta(seconds=0.5),
        minimum_check_interval=POLL,
        scheduling_resolution=timedelta(milliseconds=100),
        schedule_automatic_tasks=False,
        fallback_task=fallback,
    )


async def add(docket: Docket, queue: RefreshQueue, spec: RefreshSpec, keys: Sequence[str]) -> list[str]:
    """Add a job for each key; returns those whose job runs at this moment, so that none was added.

    A job that is known but does not run gets another in its place, and so does one whose process is not heard
    of: Redis may have evicted what the queue holds, and keep the record of it. Raises `RedisUnavailable`.
    """
    calls = {key: docket.call(task_name(spec), key=key)(key=key) for key in keys}
    try:
        executions = _added(await docket.add_many(calls.values()))
        if failpoints.on:
            await failpoints.reach("spread.after_add")
        known = [run.key for run in executions if run.disposition is Disposition.ALREADY_SCHEDULED]
        if not known:
            return []
        records = await queue.ask(*(("HMGET", docket.runs_key(key), "state", "worker") for key in known))
        heard = {worker.name.encode() for worker in await docket.workers()}
        # No record at all: it ended between the two questions.
        busy = [
            key
            for key, (state, worker) in zip(known, records, strict=True)
            if state is None or (state == b"running" and worker in heard)
        ]
        _added(await docket.replace_many(calls[key] for key in known if key not in busy))
    except RedisError as error:
        raise unavailable(error) from error
    return busy


def _added(executions: list[Execution]) -> list[Execution]:
    for run in executions:
        if run.schedule_exception is not None:
            raise run.schedule_exception
    return executions


async def unfinished(docket: Docket, queue: RefreshQueue, keys: Sequence[str]) -> set[str]:
    """Those keys whose job waits or runs; raises `RedisUnavailable`."""
    found = await queue.ask(*(("EXISTS", docket.runs_key(key)) for key in keys))
    return {key for key, exists in zip(keys, found, strict=True) if exists}


async def others(docket: Docket, *, name: str) -> bool:
    """Whether another worker than ``name`` has been heard of lately; raises `RedisUnavailable`."""
    try:
        return any(worker.name != name for worker in await docket.workers())
    except RedisError as error:
        raise unavailable(error) from error


def _task(spec: RefreshSpec, work: Work) -> Callable[..., Awaitable[None]]:
    limit = ConcurrencyLimit(max_concurrent=spec.concurrency)
    if spec.rate is None:

        async def refresh(key: str, concurrency: ConcurrencyLimit = limit) -> None:
            await work(spec, key)

        return refresh
    rate = RateLimit(spec.rate.count, per=timedelta(seconds=spec.rate.seconds))

    async def refresh_at_a_rate(
        key: str, concurrency: ConcurrencyLimit = limit, pace: RateLimit = rate
    ) -> None:
        await work(spec, key)

    return refresh_at_a_rate
