"""10: the worker is killed (SIGKILL) between any two steps; what the next one does makes up for it.

Guards: nothing that matters lives only in the worker's memory; the position is stored by the same script
as the last effects, never before (`Applier.apply`). Storing it first is shown to lose changes.
"""

import signal
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from faults.stage import Stage, staged
from servers import Database, eventually
from unstale.runtime import failpoints
from unstale_worker.redis.applier import Applier
from unstale_worker.redis.state import Seen, StoredState
from unstale_worker.sources import Page
from workers import running_worker, worker_process
from workers.seams import SEAMS

STEPS = [*SEAMS, "applier.before_last_script", "leadership.before_renew"]
QUICK = {"UNSTALE_LEADER_TTL": "0.5", "UNSTALE_SCRIPT_KEYS": "2", "UNSTALE_READ_ENTRIES": "3"}


async def change(stage: Stage) -> None:
    """Some changes, one of them of many rows: several scripts and pages, and a pattern."""
    await stage.db.execute("update profiles set version = version + 1 where id <= 10")
    for user in range(11, 15):
        await stage.write(user)
    await stage.db.execute(
        "truncate profiles; insert into profiles select g, 'x', 9 from generate_series(1, 9) g"
    )


@pytest.mark.parametrize(
    ("step", "recovering"),
    [*((step, False) for step in STEPS), ("source.after_read", True), ("applier.before_recover", True)],
)
async def test_killed_at_any_step_nothing_is_lost(
    database: Database, redis_url: str, step: str, recovering: bool
) -> None:
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
        if recovering:  # the first read is the snapshot
            await redis.delete("{unstale:0}:state")
        armed = f"{step}=kill@{1 if recovering else 2}"
        with worker_process(database.worker_dsn, redis_url, armed=armed, **QUICK) as process:
            while process.poll() is None:
                await change(stage)
            assert process.returncode == -signal.SIGKILL
        async with running_worker(database.worker_dsn, redis_url, leader_ttl=0.5):
            await stage.settled(redis)
            await stage.warm()
            await stage.settled(redis)


@pytest.mark.parametrize("step", ["applier.after_drop", "applier.before_script"])
async def test_killed_within_a_batch_of_several_scripts(
    database: Database, redis_url: str, step: str
) -> None:
    async with staged(database.dsn, redis_url) as (stage, redis):
        async with running_worker(database.worker_dsn, redis_url):
            await stage.open_agent()
            await stage.warm()
        with worker_process(database.worker_dsn, redis_url, armed=f"{step}=kill", **QUICK) as process:
            while process.poll() is None:
                await change(stage)
            assert process.returncode == -signal.SIGKILL
        async with running_worker(database.worker_dsn, redis_url, leader_ttl=0.5):
            await stage.settled(redis)


@pytest.mark.parametrize("defended", [True, False])
async def test_a_position_stored_before_the_effects_would_lose_them(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """The order within a batch: with the position first, a failure in between is never made up for."""
    apply = Applier.apply

    async def position_first(
        self: Applier,
        state: StoredState,
        page: Page,
        *,
        keys: Iterable[str],
        patterns: Sequence[str],
        store: bool,
        seen: Seen | None = None,
        **options: Any,
    ) -> tuple[StoredState, str]:
        state, pending = await apply(self, state, page, keys=[], patterns=[], store=store, seen=seen)
        if keys:
            await failpoints.reach("applier.before_script")
            await apply(self, state, page, keys=keys, patterns=patterns, store=False)
        return state, pending

    async with (
        staged(database.dsn, redis_url) as (stage, redis),
        running_worker(database.worker_dsn, redis_url) as worker,
    ):
        await stage.open_agent()
        await stage.warm()
        step = "applier.before_last_script"
        if not defended:
            monkeypatch.setattr(Applier, "apply", position_first)
            step = "applier.before_script"
        with failpoints.armed(step, error=failpoints.Failpoint("here")):
            await stage.write(3)
            await eventually(lambda: worker.status().counters.errors > 0)
        if defended:
            await stage.settled(redis)
        else:
            with pytest.raises(AssertionError, match="stale in Redis"):
                await stage.settled(redis)
