"""``unstale audit``: the true is equal, the wrong is found, and a change in flight is neither."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.audit.agenda import AT_RANDOM
from unstale_worker.audit.auditor import Auditor
from unstale_worker.audit.comparing import Comparer
from unstale_worker.audit.judging import Outcome, Pending
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.redis.applier import Applier
from workers import applied, connected, redis_at, running_worker, seams, worker_process
from workers.audited import RULES, SCHEMA, auditing, traffic
from workers.commands import run
from workers.double import attached_cache
from workers.page_stage import served

pytestmark = pytest.mark.leaves_keys("user:.*")

KEY = "user:1:profile"
TRUE = b'{"id":1,"name":"User 1","version":0}'
FALSE = b'{"id":1,"name":"Planted","version":0}'


def seen(auditor: Auditor, outcome: Outcome) -> int:
    return auditor.tally.total().outcomes[outcome]


async def test_a_correct_system_under_writes_has_no_violation(database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, redis_url, rules=RULES),
            attached_cache(redis_url) as cache,
            auditing(database.worker_dsn, redis_url) as auditor,
            traffic(database.dsn, cache) as running,
        ):

            def enough() -> bool:
                lines = {name: line.compared for name, line in auditor.tally.lines.items()}
                return sum(lines.values()) > 500 and all(
                    lines.get((table, delay), 0) > 0
                    for table in ("public.profiles", "public.orgs")
                    for delay in ("0.2 s", AT_RANDOM)
                )

            await eventually(enough)
    assert auditor.violations.found == []
    assert auditor.tally.broken_promises == 0
    assert running.changes > 10
    assert seen(auditor, Outcome.REFUSED) == 0
    assert auditor.changes.unauditable > 0  # the greetings, which no loader of the rules makes


async def test_a_planted_value_is_found_with_its_table_delay_and_cause(
    database: Database, redis_url: str, tmp_path: Path
) -> None:
    """Found by its change and at random, kept once, followed to its end, and said by the command."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(database.worker_dsn, redis_url, rules=RULES):
            await redis.set(KEY, TRUE, px=600_000)
            async with auditing(database.worker_dsn, redis_url) as auditor:
                await eventually(lambda: seen(auditor, Outcome.EQUAL) > 0)  # drawn at random: nothing changed
                await db.execute("update public.profiles set version = 0 where id = 1")
                await applied(redis, db)
                await redis.set(KEY, FALSE, px=600_000)
                await eventually(lambda: ("public.profiles", "0.2 s") in auditor.tally.lines)
                await eventually(lambda: seen(auditor, Outcome.WRONG) > 3)
                await db.execute("update public.profiles set version = 7 where id = 1")
                await eventually(lambda: not auditor.violations.lasting)
            (found,) = auditor.violations.found
            assert (found.key, found.table, found.fields) == (KEY, "public.profiles", ("name",))
            assert found.delay in ("0.2 s", AT_RANDOM)
            assert found.why is not None
            assert (found.why.removals[0].table, found.why.removals[0].operation) == (
                "public.profiles",
                "update",
            )
            assert found.ended in ("absent", "equal", "in_flight")  # removed, refreshed, or about to be
            assert found.lasted_s > 0

            await redis.set(KEY, FALSE, px=600_000)
            (tmp_path / "unstale.toml").write_text(RULES)
            servers = {"DATABASE_URL": database.worker_dsn, "REDIS_URL": redis_url}
            ended = await asyncio.to_thread(
                run, "audit", "--for", "3s", "--rate", "100", "--json", "--record", "found.jsonl",
                "--metrics", "audit.prom", "--publish", cwd=tmp_path, settings=servers,
            )  # fmt: skip
            assert ended.code == 1, ended.err
            result = json.loads(ended.out)
            (violation,) = result["violations"]
            assert (violation["key"], violation["delay"]) == (KEY, AT_RANDOM)
            assert violation["why"]["removals"][0]["operation"] == "update"
            assert result["sound"] is False
            assert result["not_audited"] == {"user:{id}:greeting": "no [refresh] says its value"}
            assert json.loads((tmp_path / "found.jsonl").read_text())["key"] == KEY
            metrics = (tmp_path / "audit.prom").read_text()
            assert "unstale_audit_violations_total 1.0" in metrics

            # The result is in Redis as well: the worker shows it to programs and to Prometheus.
            async with served(redis_url) as (_, url), aiohttp.ClientSession() as session:
                shown = await (await session.get(url)).json()
                assert shown["agents"]["reporting"] == 0
                audit = shown["audit"]
                assert (audit["ended"], audit["violation_count"], audit["violations"][0]["key"]) == (
                    True,
                    1,
                    KEY,
                )
                assert audit["violations"][0]["fields"] == ["name", "version"]
                assert audit["compared"] == result["observations"]["compared"]
                assert audit["nines"] == result["observations"]["nines"]
                assert 0 <= audit["ago"] < 600
                scraped = await (await session.get(f"{url}/metrics")).text()
                assert [line for line in metrics.splitlines() if line not in scraped] == []
                for unreadable in (b"[]", b'{"by": 1}', TRUE):
                    await redis.set(Names().audit, unreadable, px=600_000)
                    async with served(redis_url) as (_, url):
                        assert (await (await session.get(url)).json())["audit"] is None

            wrong = await asyncio.to_thread(
                run, "audit", "--record", "no/such/folder", cwd=tmp_path, settings=servers
            )
            assert (wrong.code, wrong.out) == (2, "")
            assert "no/such/folder cannot be written (No such file or directory)" in wrong.err


@pytest.mark.parametrize("defended", [True, False])
async def test_a_change_that_the_worker_has_not_applied_is_in_flight(
    database: Database, redis_url: str, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """Without a look at the position every such change would count as a violation."""
    if not defended:

        async def nothing(*_: Any) -> Pending:
            return Pending()

        monkeypatch.setattr(Comparer, "_pending", nothing)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with (
            running_worker(database.worker_dsn, redis_url, rules=RULES, leader_ttl=30, max_silence=60),
            auditing(database.worker_dsn, redis_url) as auditor,
        ):
            await redis.mset({KEY: TRUE, "user:4:plan": b'"free"'})
            await eventually(lambda: seen(auditor, Outcome.EQUAL) > 5)
            with seams.before(Applier, "apply", hold=True) as point:
                await db.execute("update public.profiles set name = 'Ada' where id = 1")
                await db.execute("update public.orgs set plan = 'paid' where id = 1")
                await point.wait()
                await eventually(lambda: seen(auditor, Outcome.IN_FLIGHT if defended else Outcome.WRONG) > 5)
                await eventually(lambda: auditor.tally.worst_seen > 0)
                point.release()
            await applied(redis, db)
            absent = seen(auditor, Outcome.ABSENT)
            await eventually(lambda: seen(auditor, Outcome.ABSENT) > absent)
    assert {violation.key for violation in auditor.violations.found} == (
        set() if defended else {KEY, "user:4:plan"}
    )
    assert auditor.tally.broken_promises == 0


async def test_faults_give_no_violation(database: Database, valkey: EmbeddedValkey) -> None:
    """A worker is paused and killed, a Redis is restarted and emptied, while values are refreshed."""
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        with worker_process(database.worker_dsn, valkey.url, rules=RULES) as worker:
            async with (
                attached_cache(valkey.url) as cache,
                auditing(database.worker_dsn, valkey.url) as auditor,
                traffic(database.dsn, cache) as running,
            ):

                async def more() -> None:
                    before, changes = seen(auditor, Outcome.EQUAL), running.changes
                    await eventually(
                        lambda: seen(auditor, Outcome.EQUAL) > before + 50 and running.changes > changes + 5
                    )

                await more()
                worker.send_signal(signal.SIGSTOP)
                flying = seen(auditor, Outcome.IN_FLIGHT)
                await eventually(lambda: seen(auditor, Outcome.IN_FLIGHT) > flying + 5)
                worker.send_signal(signal.SIGCONT)
                await more()
                await valkey.kill()
                await eventually(lambda: auditor.tally.outages > 0)
                await valkey.start()
                await more()
                async with redis_at(valkey.url) as redis:
                    await redis.flushall()
                await more()
                worker.kill()
                worker.wait()
                with worker_process(database.worker_dsn, valkey.url, rules=RULES):
                    await more()
    assert auditor.violations.found == []
    assert auditor.tally.broken_promises == 0


async def test_what_a_missing_capture_hides_is_refused(plain_database: Database, redis_url: str) -> None:
    """Where no event trigger follows DDL, the worker notices it within 30 s; the auditor asks at once."""
    async with connected(plain_database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        async with running_worker(plain_database.worker_dsn, redis_url, rules=RULES):
            await redis.set(KEY, TRUE, px=600_000)
            async with auditing(plain_database.worker_dsn, redis_url) as auditor:
                await eventually(lambda: seen(auditor, Outcome.EQUAL) > 0)
                await db.execute("alter table public.profiles disable trigger all")
                await db.execute("update public.profiles set name = 'Ada' where id = 1")
                await eventually(lambda: seen(auditor, Outcome.REFUSED) > 0)
    assert auditor.violations.found == []
    assert any("not captured" in reason for reason in auditor.tally.refusals)


async def test_the_documented_rights_are_enough_and_nothing_is_written(
    database: Database, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    (acl,) = re.findall(r"^ACL SETUSER unstale-audit .+$", page, re.MULTILINE)
    (sql,) = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "unstale.toml").write_text(RULES)
    servers = {
        "DATABASE_URL": re.sub("//.*?@", "//unstale_audit:password@", database.dsn),
        "REDIS_URL": f"redis://unstale-audit:password@127.0.0.1:{valkey.port}/0",
    }
    async with connected(database.superuser_dsn) as db, redis_at(valkey.url) as redis:
        await db.execute(SCHEMA + "alter table public.profiles enable row level security;")
        await db.execute(sql + "grant select on public.orgs, public.members to unstale_audit;")
        try:
            await redis.execute_command(*acl.split())
            async with running_worker(database.worker_dsn, valkey.url, rules=RULES):
                await redis.set(KEY, FALSE, px=600_000)
                await redis.set("user:2:profile", b'{"id":2,"name":"User 2","version":0}', px=600_000)
            before = await redis.info("persistence")
            ended = await asyncio.to_thread(
                run, "audit", "--for", "3s", "--rate", "100", "--json", cwd=tmp_path, settings=servers
            )
            assert ended.code == 1, ended.err
            result = json.loads(ended.out)
            assert result["not_sampled"] == {}
            assert [violation["key"] for violation in result["violations"]] == [KEY]
            assert result["violations"][0]["why"] is not None
            assert result["observations"]["equal"] > 0
            assert result["observations"]["refused"] == 0, result["refusals"]
            after = await redis.info("persistence")
            assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]
            for command in (("SET", KEY, "1"), ("DEL", KEY), ("PUBLISH", "{unstale:0}:invalidations", "1")):
                reply = await redis.execute_command("ACL", "DRYRUN", "unstale-audit", *command)
                assert reply != b"OK"
            async with connected(servers["DATABASE_URL"]) as reader:
                await reader.execute("set default_transaction_read_only = off")
                for statement in (
                    "update public.profiles set name = 'x'",
                    "delete from unstale.outbox",
                    "select unstale.purge(1, null, null)",
                ):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await reader.execute(statement)
        finally:
            await db.execute("drop owned by unstale_audit; drop role unstale_audit")
