"""Any sequence of DDL: no write to a watched table fails, and no change is lost without a word.

``UNSTALE_TEST_DDL_SEQUENCES`` is their number (``make ddl`` runs 10,000), half without event triggers;
``UNSTALE_TEST_DDL_SEED`` is the first seed. A failure prints its seed and every statement.
"""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack

import pytest

from properties.ddl_world import World
from servers import Database
from servers.outbox import connected

SEQUENCES = int(os.environ.get("UNSTALE_TEST_DDL_SEQUENCES", "100"))
SEED = int(os.environ.get("UNSTALE_TEST_DDL_SEED", "1"))
STEPS = 5
A_DATABASE = 250
"""Sequences in one database: dropped tables leave dead rows in its catalogs, and each DDL gets slower."""


@pytest.mark.timeout(300 + 5 * A_DATABASE)
@pytest.mark.parametrize("followed", [True, False], ids=["event triggers", "no event triggers"])
@pytest.mark.parametrize(
    "first", range(SEED, SEED + SEQUENCES // 2, A_DATABASE), ids=lambda seed: f"from {seed}"
)
async def test_every_write_goes_on_and_every_change_is_captured_or_reported(
    database: Database, plain_database: Database, first: int, followed: bool
) -> None:
    seeds = range(first, min(first + A_DATABASE, SEED + SEQUENCES // 2))
    dsn = (database if followed else plain_database).dsn
    writes = changes = 0
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(connected(dsn)) for _ in range(3)]
        for session in sessions:
            await session.execute("set client_min_messages = error; set lock_timeout = '20s'")
        for seed in seeds:
            world = World(sessions, random.Random(seed), followed=followed)
            try:
                await world.begin()
                for _ in range(STEPS):
                    await world.step()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            except Exception as error:
                raise AssertionError(f"seed {seed}: {world.told(repr(error))}") from error
            writes += world.writes
            changes += world.changes
    assert writes > 2 * len(seeds)
    assert changes > len(seeds)
