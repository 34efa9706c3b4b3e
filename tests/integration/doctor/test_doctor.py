"""The doctor: it finds what was broken on purpose, and a check that cannot run is a finding."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from servers import Database
from servers.both_sources import push
from unstale.settings import WorkerSettings
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey, migrate
from unstale_worker.dev_servers.installs import RedisProgram
from unstale_worker.dev_servers.process import free_port
from unstale_worker.doctor import Finding, Severity, examine
from workers import PROFILES, SCHEMA, running_worker, settings_for
from workers.commands import run

FANOUT = """
[[watch]]
table = "public.profiles"
keys = ["org:{member_of}:people"]
query = "select org_id as member_of from public.members where user_id = {id}"
"""
MEMBERS = """
create table public.members (org_id bigint, user_id bigint);
grant select on public.members to unstale_worker;
"""


async def execute(database: Database, sql: str) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def settings_of(folder: Path, database: Database, redis_url: str, rules: str = PROFILES) -> WorkerSettings:
    path = folder / "unstale.toml"
    path.write_text(rules)
    return settings_for(database.worker_dsn, redis_url, config=path)


def about(findings: Sequence[Finding], subject: str) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def worst(findings: Sequence[Finding], subject: str) -> Finding:
    found = about(findings, subject)
    assert found, f"nothing was said about {subject}: {findings}"
    return max(found, key=lambda finding: list(Severity).index(finding.severity))


async def test_all_is_well_where_a_worker_leads(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA + MEMBERS)
    settings = settings_of(tmp_path, database, redis_url, PROFILES + FANOUT)
    async with running_worker(database.worker_dsn, redis_url, rules=PROFILES + FANOUT):
        findings = await examine(settings)

    assert [finding for finding in findings if finding.severity is not Severity.OK] == []
    subjects = {finding.subject for finding in findings}
    assert subjects >= {
        "rules", "pooler", "Postgres", "role", "outbox", "captures", "schema", "fan-out queries",
        "Redis", "Redis rights", "Redis memory", "worker", "watermark",
    }  # fmt: skip
    assert all(not finding.remedy for finding in findings)


async def test_a_position_of_another_database(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA)
    async with running_worker(database.worker_dsn, redis_url):
        pass
    settings = settings_of(tmp_path, database, redis_url)
    assert worst(await examine(settings), "database identity").severity is Severity.OK

    await execute(database, "truncate unstale.outbox")

    finding = worst(await examine(settings), "database identity")
    assert finding.severity is Severity.WARNING
    assert "drops every owned key" in finding.remedy


async def test_every_other_finding_has_a_remedy(tmp_path: Path, empty_database: Database) -> None:
    findings = await examine(settings_of(tmp_path, empty_database, "redis://127.0.0.1:1/0", "[[watch]]"))

    bad = [finding for finding in findings if finding.severity is not Severity.OK]
    assert len(bad) >= 3
    assert all(finding.remedy.endswith(".") for finding in bad), bad


async def test_a_server_that_refuses_its_url_gets_one_remedy(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    async def found(database_url: str, redis: str, subject: str) -> tuple[str, str]:
        (finding,) = about(await examine(settings_for(database_url, redis)), subject)
        return finding.finding, finding.remedy

    url, away = database.worker_dsn, "redis://127.0.0.1:1/0"
    option = f"{url}{'&' if '?' in url else '?'}foo=1"
    refused = "Postgres refused the user or password of DATABASE_URL"
    assert await found(option, away, "Postgres") == (
        "DATABASE_URL: Postgres refuses option 'foo': it does not know the name, or not the value",
        "Correct it, or remove it.",
    )
    assert await found(url.replace("unstale_worker:", "unstale_worker:x"), away, "Postgres") == (
        refused,
        "Check both and the role's LOGIN right.",
    )
    gone, remedy = await found("postgresql://127.0.0.1:1/app", away, "Postgres")
    assert gone.startswith("cannot connect to Postgres (")
    assert remedy == "Check DATABASE_URL and the server."
    assert await found(url, redis_url.replace("redis://:", "redis://:x"), "Redis") == (
        "Redis refused the user or password of REDIS_URL",
        "Correct it.",
    )


# --- rules and Postgres -------------------------------------------------------------------------


async def test_mistakes_in_the_rules_do_not_stop_the_rest(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    findings = await examine(settings_of(tmp_path, database, redis_url, '[[watch]]\ntable = "profiles"'))

    assert worst(findings, "rules").severity is Severity.ERROR
    assert "keys" in worst(findings, "rules").finding
    assert worst(findings, "Postgres").severity is Severity.OK
    assert worst(findings, "Redis").severity is Severity.OK


async def test_a_variable_that_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNSTALE_DEFAULT_TLL", "5")
    monkeypatch.setenv("UNSTALE_LEADER_TTL", "1.5")
    (tmp_path / ".env").write_text("UNSTALE_COLOUR=blue\nCOLOUR=red\n")

    found = about(await examine(settings_for(None, "redis://127.0.0.1:1/0")), "settings")

    assert [(f.severity, f.finding, f.remedy.partition(";")[0]) for f in found] == [
        (Severity.WARNING, "UNSTALE_COLOUR is not a setting and has no effect", "Remove it"),
        (
            Severity.WARNING,
            "UNSTALE_DEFAULT_TLL is not a setting and has no effect",
            "Write UNSTALE_DEFAULT_TTL",
        ),
    ]


async def test_a_database_without_the_schema(
    tmp_path: Path, own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    connection = await asyncpg.connect(own_postgres.dsn())
    await connection.execute("create database bare")
    await connection.close()
    bare = Database(name="bare", server=own_postgres)

    findings = await examine(settings_of(tmp_path, bare, redis_url))

    for subject in ("outbox", "captures", "schema"):
        assert worst(findings, subject).severity is Severity.ERROR
        assert "unstale migration" in worst(findings, subject).remedy


async def test_a_table_that_nobody_watches(tmp_path: Path, database: Database, redis_url: str) -> None:
    findings = await examine(settings_of(tmp_path, database, redis_url))

    assert "public.profiles is not watched" in worst(findings, "captures").finding


async def test_a_watch_that_no_rule_names(tmp_path: Path, database: Database, redis_url: str) -> None:
    """Its writers pay for nothing, as after a rule was deleted and no migration written."""
    await execute(
        database,
        SCHEMA
        + "create table public.notes (id int primary key); select unstale.watch('public.notes', '{id}');",
    )
    settings = settings_of(tmp_path, database, redis_url)

    found = [f for f in about(await examine(settings), "captures") if f.severity is not Severity.OK]
    await execute(database, "select unstale.unwatch('public.notes')")
    afterwards = about(await examine(settings), "captures")

    assert [(f.severity, f.finding) for f in found] == [
        (Severity.INFO, "watched, but no rule here names them: public.notes")
    ]
    assert "unstale migration" in found[0].remedy
    assert [f.severity for f in afterwards] == [Severity.OK]


async def test_a_query_that_row_level_security_would_blind(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    await execute(database, SCHEMA + MEMBERS + "alter table public.members enable row level security;")

    findings = await examine(settings_of(tmp_path, database, redis_url, PROFILES + FANOUT))

    finding = worst(findings, "fan-out queries")
    assert finding.severity is Severity.ERROR
    assert "public.profiles" in finding.finding


async def test_a_query_without_the_right_to_read(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA + MEMBERS + "revoke all on public.members from unstale_worker;")

    findings = await examine(settings_of(tmp_path, database, redis_url, PROFILES + FANOUT))

    assert worst(findings, "fan-out queries").severity is Severity.ERROR


async def test_a_role_with_more_rights_than_needed(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    findings = await examine(settings_for(database.dsn, redis_url, config=tmp_path / "unstale.toml"))

    assert worst(findings, "role").severity is Severity.WARNING
    assert "unstale_worker" in worst(findings, "role").remedy


async def test_captures_that_cannot_follow_ddl(
    tmp_path: Path, plain_database: Database, redis_url: str
) -> None:
    findings = await examine(settings_of(tmp_path, plain_database, redis_url))

    assert worst(findings, "event triggers").severity is Severity.WARNING


async def test_a_capture_that_somebody_disabled(
    tmp_path: Path, plain_database: Database, redis_url: str
) -> None:
    """Where event triggers exist, such a command would have made the capture anew."""
    await execute(plain_database, SCHEMA + "alter table public.profiles disable trigger all;")

    finding = worst(await examine(settings_of(tmp_path, plain_database, redis_url)), "public.profiles")

    assert finding.severity is Severity.ERROR
    assert "is disabled" in finding.finding


async def test_two_phase_transactions(tmp_path: Path, redis_url: str) -> None:
    """Its own server: the setting needs a restart."""
    async with EmbeddedPostgres(settings={"fsync": "off", "max_prepared_transactions": 3}) as server:
        await server.create_supabase_roles()
        await migrate(server, database="postgres")
        ours = Database(name="postgres", server=server)
        findings = await examine(settings_of(tmp_path, ours, redis_url))

    finding = worst(findings, "max_prepared_transactions")
    assert finding.severity is Severity.INFO
    assert "no wake-ups" in finding.finding


async def test_servers_that_are_away(tmp_path: Path) -> None:
    dsn = "postgresql://worker:s3cr3t@127.0.0.1:1/postgres"
    (tmp_path / "unstale.toml").write_text(PROFILES)
    findings = await examine(
        settings_for(dsn, "redis://:s3cr3t@127.0.0.1:1/0", config=tmp_path / "unstale.toml")
    )

    assert worst(findings, "Postgres").severity is Severity.ERROR
    assert worst(findings, "Redis").severity is Severity.ERROR
    assert "s3cr3t" not in str(findings)


async def test_no_database_and_no_redis_wanted(tmp_path: Path) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    settings = WorkerSettings.from_env(env_file=None, redis_enabled=False, config=tmp_path / "unstale.toml")

    findings = await examine(settings)

    assert worst(findings, "source").finding.startswith("DATABASE_URL is not set")
    assert worst(findings, "Redis").severity is Severity.WARNING
    assert "UNSTALE_EMBEDDED_WORKER=true" in worst(findings, "Redis").remedy


async def test_without_redis_and_with_a_worker_in_each_process_all_is_well(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    settings = WorkerSettings.from_env(
        env_file=None, embedded_worker=True, database_url=database.dsn, config=tmp_path / "unstale.toml"
    )

    found = worst(await examine(settings), "Redis")

    assert found.severity is Severity.OK
    assert "follows the outbox" in found.finding


# --- Redis --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        (["+@all", "-evalsha"], "evalsha"),
        (["+@all", "-publish"], "ublish"),
        (["+@all", "-scan"], "SCAN"),
        (["+@all", "-subscribe"], "may not be subscribed to"),
        (["+@all", "resetkeys", "~{unstale:0}:*"], "user:*:profile may not be removed"),
    ],
)
async def test_a_redis_user_with_too_few_rights(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey, rights: list[str], said: str
) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", *rights)
    url = f"redis://poor:pw@127.0.0.1:{valkey.port}/0"

    findings = await examine(settings_of(tmp_path, database, url))

    errors = [
        finding for finding in findings if finding.severity is Severity.ERROR and "Redis" in finding.subject
    ]
    assert errors
    assert any(said in finding.finding for finding in errors), errors


async def test_the_remedy_names_the_namespace_in_use(tmp_path: Path, valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all", "-publish")
    (tmp_path / "unstale.toml").write_text(PROFILES)
    url = f"redis://poor:pw@127.0.0.1:{valkey.port}/0"
    settings = settings_for(None, url, namespace="mine", config=tmp_path / "unstale.toml")

    remedy = worst(await examine(settings), "Redis rights").remedy

    assert "~{mine:0}:*, and the channels &{mine:0}:*" in remedy
    assert "unstale:0" not in remedy


async def test_an_eviction_policy_that_can_evict_the_state(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey
) -> None:
    settings = settings_of(tmp_path, database, valkey.url)
    async with Redis.from_url(valkey.url) as redis:
        await redis.config_set("maxmemory", "100mb")
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        assert worst(await examine(settings), "Redis settings").severity is Severity.WARNING

        await redis.config_set("maxmemory-policy", "volatile-lru")
        assert worst(await examine(settings), "Redis settings").severity is Severity.OK


async def test_agents_on_another_database_number_are_named(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey
) -> None:
    """They hear nothing of this worker: the channel's name holds the number."""
    settings = settings_of(tmp_path, database, valkey.url)
    async with Redis.from_url(valkey.url) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe("{unstale:0}:invalidations", "{other:0}:invalidations:1")
        assert "database number" not in {finding.subject for finding in await examine(settings)}

        await pubsub.subscribe("{unstale:0}:invalidations:3")
        found = worst(await examine(settings), "database number")
    assert found.severity is Severity.WARNING
    assert "names database 0" in found.finding
    assert "follow {unstale:0}:invalidations:3" in found.finding


async def test_a_replica_is_refused(tmp_path: Path, database: Database, valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await redis.replicaof("127.0.0.1", "1")
        findings = await examine(settings_of(tmp_path, database, valkey.url))
        await redis.replicaof("NO", "ONE")

    assert "replica" in worst(findings, "Redis").finding


@pytest.mark.parametrize("program", ["valkey", "redis"])
async def test_a_cluster_is_refused(tmp_path: Path, database: Database, program: RedisProgram) -> None:
    """Valkey calls the field `server_mode`, Redis `redis_mode`."""
    bus = str(free_port())  # its default is 10,000 above the other, which may be too high
    cluster = EmbeddedValkey(program=program, args=["--cluster-enabled", "yes", "--cluster-port", bus])
    async with cluster as server:
        findings = await examine(settings_of(tmp_path, database, server.url))

    assert "Redis Cluster" in worst(findings, "Redis").finding


async def test_the_trial_leaves_nothing(tmp_path: Path, database: Database, valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(valkey.url) as redis:
        await examine(settings_of(tmp_path, database, valkey.url))

        assert await redis.keys("*") == []


# --- the worker ---------------------------------------------------------------------------------


async def test_no_worker_yet_and_none_any_more(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA)
    settings = settings_of(tmp_path, database, redis_url)
    assert worst(await examine(settings), "worker").severity is Severity.WARNING

    async with running_worker(database.worker_dsn, redis_url):
        pass

    finding = worst(await examine(settings), "worker")
    assert finding.severity is Severity.ERROR
    assert "no worker leads" in finding.finding


async def test_a_worker_that_does_not_get_on(
    tmp_path: Path, database: Database, valkey: EmbeddedValkey
) -> None:
    """A lease that is kept, and watermarks that stopped: what a hanging database looks like from here."""
    await execute(database, SCHEMA)
    async with running_worker(database.worker_dsn, valkey.url):
        pass
    async with Redis.from_url(valkey.url) as redis:
        await redis.set("{unstale:0}:leader", "somebody", px=60_000)
        seconds, _ = await redis.time()
        await redis.hset("{unstale:0}:state", "applied_at", str((seconds - 60) * 1000))

        finding = worst(await examine(settings_of(tmp_path, database, valkey.url)), "watermark")

    assert finding.severity is Severity.ERROR
    assert re.fullmatch(r"the newest is \d+\.\d s old", finding.finding)


async def test_a_worker_with_other_rules(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA)
    async with running_worker(database.worker_dsn, redis_url):
        other = settings_of(tmp_path, database, redis_url, PROFILES.replace("1h", "2h"))

        finding = worst(await examine(other), "worker")

    assert "rules differ" in finding.finding


async def test_a_right_that_scripts_lack_is_no_unsupported_server(tmp_path: Path, database: Database) -> None:
    async with EmbeddedValkey() as valkey, Redis.from_url(valkey.url) as redis:
        await redis.hset("{unstale:0}:state", "epoch", "any")
        lacking = ("on", ">few", "~*", "&*", "+@all", "-hgetall")
        await redis.execute_command("ACL", "SETUSER", "few", *lacking)
        url = valkey.url.replace(f":{valkey.password}@", "few:few@")
        found = worst(await examine(settings_of(tmp_path, database, url)), "Redis")

    assert found.severity is Severity.ERROR
    assert "hgetall" in found.finding
    assert "Enterprise" not in found.finding
    assert "docs/operations.md" in found.remedy


async def test_loaders_that_do_not_run_are_found(tmp_path: Path, database: Database, redis_url: str) -> None:
    await execute(database, SCHEMA + "grant select on public.profiles to unstale_worker")
    wrong = (
        PROFILES
        + """
[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "idd"
[refresh."user:{user_id}:greeting"]
loader = "nowhere_at_all:greeting"
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]
"""
    )
    findings = about(await examine(settings_of(tmp_path, database, redis_url, wrong)), "refreshes")
    assert {finding.severity for finding in findings} == {Severity.WARNING, Severity.ERROR}
    said = " ".join(finding.finding for finding in findings)
    assert "public.profiles has no column idd" in said
    assert "No module named 'nowhere_at_all'" in said

    right = wrong.replace('"idd"', '"id"').replace("nowhere_at_all:greeting", "asyncio:sleep")
    findings = about(await examine(settings_of(tmp_path, database, redis_url, right)), "refreshes")
    assert [finding.severity for finding in findings] == [Severity.OK] * 2, findings


# --- the command --------------------------------------------------------------------------------


async def test_the_command_exits_1_on_an_error_and_speaks_json(
    tmp_path: Path, database: Database, redis_url: str
) -> None:
    (tmp_path / "unstale.toml").write_text(PROFILES)
    settings = {"DATABASE_URL": database.worker_dsn, "REDIS_URL": redis_url}
    ended = run("doctor", "--json", cwd=tmp_path, settings=settings)
    assert ended.code == 1
    said: list[dict[str, Any]] = json.loads(ended.out)["findings"]
    assert any(row["severity"] == "error" and row["subject"] == "captures" for row in said)

    await execute(database, SCHEMA)
    async with running_worker(database.worker_dsn, redis_url):
        # In a thread: the worker lives in this event loop, and must keep its lease meanwhile.
        plain = await asyncio.to_thread(run, "doctor", cwd=tmp_path, settings=settings)
    assert plain.code == 0, plain.out
    assert "captures: all tables are watched as the rules need: public.profiles" in plain.out


async def test_a_table_that_is_gone_is_never_called_captured(
    tmp_path: Path, plain_database: Database
) -> None:
    """Where no event trigger follows DDL, nothing has told unstale."""
    await execute(plain_database, SCHEMA + "create table other (id int primary key);")
    await execute(plain_database, "select unstale.watch('other', '{id}'); drop table profiles;")
    other = '[[watch]]\ntable = "public.other"\nkeys = ["other:{id}"]\n'
    findings = await examine(settings_of(tmp_path, plain_database, "redis://127.0.0.1:1/0", PROFILES + other))

    assert not [found for found in findings if "the check failed" in found.finding]
    captures = [found for found in about(findings, "captures") if found.severity is Severity.OK]
    assert [found.finding for found in captures] == ["watched as the rules need: public.other"]
    gone = worst(findings, "public.profiles")
    assert gone.severity is Severity.ERROR
    assert "gone" in gone.finding


async def test_the_remedy_is_all_where_the_files_say_so_already(tmp_path: Path, database: Database) -> None:
    await execute(database, "create table profiles (id bigint primary key, name text)")
    await push(database, PROFILES, tmp_path / "supabase" / "migrations")
    await execute(database, "drop table profiles; create table profiles (id bigint primary key, name text)")
    findings = await examine(settings_of(tmp_path, database, "redis://127.0.0.1:1/0"))
    assert "unstale migration --all" in worst(findings, "captures").remedy
    assert "unstale migration --all" in worst(findings, "public.profiles").remedy
