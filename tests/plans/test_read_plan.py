"""The cost of a read follows the number of new entries, whatever is retained and whoever is open."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from servers import Database
from servers.outbox import connected, read

RETAINED = 1_000_000
PAGE = 5000

# Entries of transactions long past: the xids exist, and many entries share one.
FILL = """
alter table unstale.outbox set (autovacuum_enabled = off);
insert into unstale.outbox (xid, id, watch, version, keys)
select (3 + n * 600 / {rows})::text::xid8, n, 1, 1, array[n::text] from generate_series(1, {rows}) as n
"""


@dataclass(slots=True)
class Work:
    """What the statements inside unstale.read did to the outbox."""

    rows: int = 0
    blocks: int = 0
    nodes: set[str] = field(default_factory=set)

    def add(self, plan: dict[str, Any]) -> None:
        if plan.get("Relation Name") == "outbox":
            per_loop = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
            self.rows += round(per_loop * plan["Actual Loops"])
            self.blocks += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            self.nodes.add(plan["Node Type"])
        for below in plan.get("Plans", ()):
            self.add(below)


@asynccontextmanager
async def explained(database: Database) -> AsyncIterator[tuple[asyncpg.Connection, list[Work]]]:
    """A superuser's connection that reports the plan of every nested statement to the last of the list."""
    async with connected(database.superuser_dsn) as connection:
        work = [Work()]

        def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
            _, found, text = str(message.message).partition("plan:\n")
            if found:
                work[-1].add(json.loads(text)["Plan"])

        connection.add_log_listener(listen)
        await connection.execute(
            """
            load 'auto_explain';
            set auto_explain.log_min_duration = 0;
            set auto_explain.log_nested_statements = on;
            set auto_explain.log_analyze = on;
            set auto_explain.log_buffers = on;
            set auto_explain.log_timing = off;
            set auto_explain.log_format = json;
            set auto_explain.log_level = notice;
            """
        )
        yield connection, work


def expect_cheap(work: Work, *, returned: int) -> None:
    assert work.nodes <= {"Index Scan", "Index Only Scan"}
    # Two more: is there anything after the page?
    assert work.rows <= 2 * returned + 2


@pytest.mark.parametrize("statistics", ["analyze unstale.outbox", "select 1"])
@pytest.mark.parametrize("plans", ["auto", "force_generic_plan", "force_custom_plan"])
async def test_a_million_retained_rows_and_an_open_writer_cost_nothing(
    database: Database, statistics: str, plans: str
) -> None:
    async with (
        explained(database) as (connection, work),
        connected(database.dsn) as slow,
        connected(database.dsn) as writer,
    ):
        if plans == "auto":
            await connection.execute(FILL.format(rows=RETAINED), timeout=120)
        else:
            await connection.execute(FILL.format(rows=RETAINED // 5), timeout=120)
        await connection.execute(statistics, timeout=120)
        await connection.execute(f"set plan_cache_mode = {plans}")
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("insert into unstale.outbox (watch, version) values (1, 1)")
        stored = (await read(connection, None)).position
        for new in (0, 1, 50, 3, 12, 7, 40):
            for _ in range(new):
                await writer.execute("insert into unstale.outbox (watch, version) values (1, 1)")
            work.append(Work())
            batch = await read(connection, stored)
            assert len(batch.entries) == new
            expect_cheap(work[-1], returned=new)
            assert work[-1].blocks <= 100 + 5 * new
            stored = batch.position
        await transaction.commit()
        work.append(Work())
        assert len((await read(connection, stored)).entries) == 1
        expect_cheap(work[-1], returned=1)


async def test_a_million_new_rows_are_paged_in_linear_time(database: Database) -> None:
    async with explained(database) as (connection, work):
        await connection.execute(FILL.format(rows=RETAINED), timeout=120)
        work.append(Work())
        batch = await read(connection, "3:3:", max_entries=PAGE)
        delivered = len(batch.entries)
        expect_cheap(work[-1], returned=PAGE)
        while batch.more:
            work.append(Work())
            batch = await read(
                connection,
                "3:3:",
                upto=batch.snapshot,
                cursor=(batch.last_xid or 0, batch.last_id or 0),
                max_entries=PAGE,
            )
            delivered += len(batch.entries)
            expect_cheap(work[-1], returned=PAGE)
            # The whole outbox has some 10,000 blocks, table and index; a page needs its share of them.
            assert work[-1].blocks <= PAGE * 4
        assert delivered == RETAINED
        assert sum(page.rows for page in work[1:]) <= 2 * RETAINED


async def test_what_an_open_transaction_wrote_is_not_walked(database: Database) -> None:
    async with explained(database) as (connection, work), connected(database.dsn) as slow:
        await connection.execute("alter table unstale.outbox set (autovacuum_enabled = off)")
        stored = (await read(connection, None)).position
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute(
            "insert into unstale.outbox (id, watch, version) "
            "select n, 1, 1 from generate_series(1, 100000) as n"
        )
        for new in (0, 1):
            for _ in range(new):
                await connection.execute("insert into unstale.outbox (watch, version) values (1, 1)")
            work.append(Work())
            batch = await read(connection, stored)
            assert len(batch.entries) == new
            assert work[-1].blocks <= 100
            stored = batch.position
        await transaction.rollback()
        work.append(Work())
        assert (await read(connection, stored)).entries == []


async def test_the_purge_does_not_walk_what_it_deleted_before(database: Database) -> None:
    async with explained(database) as (connection, work), connected(database.dsn) as slow:
        await connection.execute(FILL.format(rows=50_000), timeout=120)
        # Keeps the dead rows from being vacuumed or skipped.
        async with slow.transaction(isolation="repeatable_read"):
            await slow.execute("select 1")
            assert await connection.fetchval("select unstale.purge(40000, interval '0')") == 40_000
            work.append(Work())
            assert await connection.fetchval("select unstale.purge(100)") == 100
            assert work[-1].nodes <= {"Index Scan", "Index Only Scan", "Tid Scan", "LockRows", "ModifyTable"}
            assert work[-1].blocks <= 2000
