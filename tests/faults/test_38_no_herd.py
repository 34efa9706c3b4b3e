"""38: everybody loses Redis at the same moment, and nobody comes back at the same moment.

Guards: the jitter in the pauses of `Subscriber`, `Multiplexer` and the worker's `Backoff`.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from servers import eventually, takes
from servers.proxy import Proxy
from unstale import Cache
from unstale.errors import DatabaseUnavailable, RedisUnavailable
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import FIRST_PAUSE, LAST_PAUSE, Multiplexer
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.dev_servers.process import free_port
from unstale_worker.runtime.backoff import Backoff
from unstale_worker.runtime.retry import retry

AGENTS = 20


class Drawn:
    """Every bound a pause was drawn from, and what came of it; 1.0 where jitter is switched off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, jitter: bool = True) -> None:
        self.values: list[float] = []
        real = random.Random(34).uniform

        def uniform(low: float, high: float) -> float:
            self.values.append(real(low, high) if jitter else high)
            return self.values[-1]

        monkeypatch.setattr(random, "uniform", uniform)


@pytest.mark.parametrize("jitter", [True, False])
async def test_agents_that_lost_redis_together_come_back_apart(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, jitter: bool
) -> None:
    """Between the end of all their connections and each one's next attempt lies a pause of its own."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noting(seconds: float, *rest: object) -> None:
        task = asyncio.current_task()
        if task is not None and task.get_name() == "unstale-subscriber":
            pauses.append(seconds)
        await sleep(seconds)

    async with Proxy(valkey.port) as proxy, AsyncExitStack() as stack:
        for _ in range(AGENTS):
            await stack.enter_async_context(
                Cache.from_env(env_file=None, redis_url=proxy.url(valkey.url), near_max_entries=1)
            )
        Drawn(monkeypatch, jitter=jitter)
        monkeypatch.setattr("unstale.freshness.subscriber.LAST_PAUSE", 0.2)
        monkeypatch.setattr(asyncio, "sleep", noting)
        proxy.cut()
        await eventually(lambda: len(pauses) >= AGENTS, message="everybody noticed")
        monkeypatch.setattr(asyncio, "sleep", sleep)
    first = pauses[:AGENTS]
    assert all(pause > 0 for pause in first)
    assert (len(set(first)) > AGENTS / 2) is jitter


async def test_a_multiplexer_tries_again_after_pauses_that_grow_and_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = Drawn(monkeypatch)
    now = 0.0
    multiplexer = Multiplexer(
        Connections(f"redis://127.0.0.1:{free_port()}", timeout=5), timeout=5, clock=lambda: now
    )
    try:
        pauses: list[float] = []
        while len(pauses) < 8:
            with pytest.raises(RedisUnavailable):
                await multiplexer.get("x")
            before = len(drawn.values)
            if before > len(pauses):
                pauses.append(multiplexer._retry_at - now)
                now = multiplexer._retry_at
            await asyncio.sleep(0)
        bounds = [min(FIRST_PAUSE * 2**n, LAST_PAUSE) for n in range(8)]
        assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
        assert len({pause / bound for pause, bound in zip(pauses, bounds, strict=True)}) == 8
    finally:
        await multiplexer.close()


def _spread(make: Callable[[], float]) -> float:
    values = [make() for _ in range(200)]
    return (max(values) - min(values)) / max(values)


def test_workers_that_failed_together_try_again_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _spread(lambda: Backoff(first=0.1).failed()) > 0.4
    Drawn(monkeypatch, jitter=False)
    assert _spread(lambda: Backoff(first=0.1).failed()) == 0
    backoff = Backoff(first=0.05, most=5.0)
    assert max(backoff.failed() for _ in range(40)) == 5.0
    backoff.succeeded()
    assert backoff.failed() == 0.05


async def test_a_worker_that_had_worked_tries_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or several crashes within minutes would each keep it away for longer than the last."""
    Drawn(monkeypatch, jitter=False)
    monkeypatch.setattr("unstale_worker.runtime.retry.SETTLED_AFTER", 0.2)
    bounds: list[float] = []
    failed = Backoff.failed

    def noting(backoff: Backoff) -> float:
        bounds.append(failed(backoff))
        return 0.001

    monkeypatch.setattr(Backoff, "failed", noting)
    works = [0.0, 0.0, 0.0, 0.4, 0.0]

    async def attempt() -> bool:
        if not works:
            return True
        await takes(works.pop(0))
        raise DatabaseUnavailable

    assert await retry(attempt, failed=lambda _: None)
    assert bounds == [0.05, 0.1, 0.2, 0.05, 0.1]
