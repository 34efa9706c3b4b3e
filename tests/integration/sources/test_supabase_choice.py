"""Which source a worker takes, what it and the doctor say about it, and that a key is told to nobody."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers import Database, eventually
from servers.both_sources import FANOUT, FANOUT_TABLES, over_https, push, way
from supabase_double import SupabaseDouble
from unstale.errors import DatabaseUnavailable, MigrationMissing, SettingError
from unstale.settings import WorkerSettings
from unstale_worker.dev_servers.process import free_port
from unstale_worker.doctor import Finding, Severity, examine
from unstale_worker.observe.http import serving
from unstale_worker.runtime.logs import configure_logging
from unstale_worker.sources.opening import open_source
from workers import PROFILES, SCHEMA, Listener, connected, running_worker, settings_for

ROW_LOADER = """
[refresh."user:{user_id}:profile"]
loader = "row"
table = "public.profiles"
key = "id"
columns = ["id", "version"]
"""
NOWHERE = "postgresql://unstale_worker:password@127.0.0.1:{}/postgres"


@pytest.fixture
async def project(database: Database) -> AsyncIterator[SupabaseDouble]:
    async with way("supabase", database, poll=0.05) as found:
        assert found.project is not None
        yield found.project


@pytest.fixture
def logged(logging_as_it_was: None) -> io.StringIO:
    """The worker's log at its most talkative."""
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    return stream


def settings_of(given: dict[str, Any], redis_url: str = "redis://nowhere") -> WorkerSettings:
    return settings_for(given["database_url"], redis_url, **_without(given, "database_url"))


async def choice(stream: io.StringIO, settings: WorkerSettings) -> dict[str, Any]:
    """What the one line of the log says."""
    source = await open_source(settings)
    await source.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    said: list[dict[str, Any]] = [line for line in lines if line["event"] == "source chosen"]
    assert len(said) == 1
    assert said[0]["source"] == source.kind
    return said[0]


async def test_a_database_that_answers_is_preferred(
    project: SupabaseDouble, database: Database, logged: io.StringIO
) -> None:
    both = over_https(project) | {"database_url": database.worker_dsn, "source": "auto"}
    said = await choice(logged, settings_of(both))
    assert (said["source"], said["why"]) == ("outbox", "DATABASE_URL can be used")


async def test_a_database_out_of_reach_is_read_over_https(
    project: SupabaseDouble, logged: io.StringIO
) -> None:
    both = over_https(project) | {"database_url": NOWHERE.format(free_port()), "source": "auto"}
    said = await choice(logged, settings_of(both))
    assert said["source"] == "supabase"
    assert said["why"].startswith("DATABASE_URL cannot be used: cannot connect to Postgres")
    assert "password" not in logged.getvalue()


async def test_url_and_key_alone_are_enough(project: SupabaseDouble, logged: io.StringIO) -> None:
    alone = over_https(project) | {"source": "auto"}
    said = await choice(logged, settings_of(alone))
    assert said["source"] == "supabase"
    assert "DATABASE_URL is not set" in said["why"]


async def test_what_was_asked_for_is_not_replaced(project: SupabaseDouble, database: Database) -> None:
    both = over_https(project) | {"source": "outbox"}
    del both["database_url"]
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL"):
        await open_source(settings_for(NOWHERE.format(free_port()), "redis://nowhere", **both))
    both["source"] = "supabase"
    await project.outage()
    source = await open_source(settings_for(database.worker_dsn, "redis://nowhere", **both))
    assert source.kind == "supabase"
    with pytest.raises(DatabaseUnavailable, match="does not answer over HTTPS"):
        await source.watch_versions()
    await source.close()


async def test_when_neither_answers_both_are_named(project: SupabaseDouble) -> None:
    await project.outage()
    both = over_https(project) | {"source": "auto"}
    del both["database_url"]
    with pytest.raises(DatabaseUnavailable, match=r"DATABASE_URL.*; HTTPS fails as well: Supabase"):
        await open_source(settings_for(NOWHERE.format(free_port()), "redis://nowhere", **both))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"source": "auto"}, "DATABASE_URL is not set.*SUPABASE_URL and SUPABASE_SECRET_KEY are not set"),
        ({"source": "auto", "supabase_url": "https://x"}, "SUPABASE_SECRET_KEY is not set"),
        ({"source": "outbox", "supabase_url": "https://x", "supabase_key": "k"}, "^DATABASE_URL is not set"),
        ({"source": "supabase", "supabase_key": "k"}, "^SUPABASE_URL is not set"),
        (
            {"source": "supabase", "supabase_url": "x.supabase.co", "supabase_key": "k"},
            "is not a URL",
        ),
        ({"source": "https"}, "UNSTALE_SOURCE"),
    ],
)
async def test_settings_that_lead_nowhere(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        await open_source(settings_for(None, "redis://nowhere", **given))


@pytest.mark.parametrize("key", ["", "  ", "sb_secret_a b", "sb_secret_\nx", "sb_secret_é"])
async def test_what_is_no_key_is_refused_and_not_shown(key: str) -> None:
    given = {"source": "supabase", "supabase_url": "https://x.supabase.co", "supabase_key": key}
    with pytest.raises(SettingError, match="SUPABASE_SECRET_KEY") as error:
        await open_source(settings_for(None, "redis://nowhere", **given))
    assert "sb_secret" not in str(error.value)


async def test_a_line_end_behind_the_key_does_no_harm(project: SupabaseDouble) -> None:
    given = over_https(project) | {"supabase_key": f"{project.keys.secret}\n"}
    source = await open_source(settings_of(given))
    assert (await source.read(None)).covered
    await source.close()


async def test_a_query_that_was_not_pushed_stops_the_start(
    project: SupabaseDouble, database: Database, redis_url: str, tmp_path: Path
) -> None:
    async with connected(database.dsn) as db:
        await db.execute(FANOUT_TABLES)
    await push(database, FANOUT, tmp_path)
    changed = FANOUT.replace("where org_id", "where user_id > 0 and org_id")
    settings = over_https(project)
    with pytest.raises(MigrationMissing, match=r"line 6 \(query for public\.organizations\).*migration"):
        async with running_worker(settings.pop("database_url"), redis_url, rules=changed, **settings):
            pass
    await push(database, changed, tmp_path)
    settings = over_https(project)
    async with running_worker(settings.pop("database_url"), redis_url, rules=changed, **settings):
        pass
    async with connected(database.dsn) as db:
        left = await db.fetchval("select count(*) from pg_proc where proname ~ '^query_[0-9a-f]{32}$'")
        assert left == 1, "the function of the older query was not dropped"


async def test_a_key_is_told_to_nobody(
    project: SupabaseDouble, database: Database, redis_url: str, logged: io.StringIO
) -> None:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
    given = over_https(project) | {"database_timeout": 0.5, "http_port": 0}
    settings = settings_of(given, redis_url)
    told = [repr(settings)]
    async with (
        connected(database.dsn) as db,
        Listener(redis_url) as heard,
        running_worker(given.pop("database_url"), redis_url, **given) as worker,
        serving(settings, worker.status) as url,
        aiohttp.ClientSession() as http,
    ):
        await eventually(lambda: worker.status().listening)
        await db.execute("insert into profiles values (1, 'x')")
        await eventually(lambda: "user:1:profile" in heard.keys)
        project.rest.faults.status = 401
        project.realtime.faults.refuse_upgrade = 401
        await project.realtime.drop(1012)
        await eventually(lambda: worker.status().counters.errors >= 2 and not worker.status().listening)
        for path in ("/", "/readyz", "/metrics"):
            async with http.get(url + path) as response:
                told.append(await response.text())
        told += [repr(worker), repr(worker._source), repr(worker._wakeups), repr(worker.status())]
        told.append(repr(getattr(worker._source, "_rpc", None)))
        told.append(repr(getattr(worker._source, "_project", None)))
        project.rest.faults.status = None
        await eventually(lambda: worker.status().database)
    told.append(logged.getvalue())
    assert "source chosen" in told[-1]
    assert "Supabase refused the key" in told[-1]
    assert "Realtime" in told[-1]
    for text in told:
        assert project.keys.secret not in text
        assert project.keys.secret.removeprefix("sb_secret_") not in text


def _without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


# --- the doctor ---------------------------------------------------------------------------------


def doctored(
    folder: Path, project: SupabaseDouble, redis_url: str, rules: str, **more: Any
) -> WorkerSettings:
    path = folder / "unstale.toml"
    path.write_text(rules)
    given = over_https(project) | more
    return settings_for(given.pop("database_url"), redis_url, config=path, **given)


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.OK]


async def test_the_doctor_finds_a_project_well(
    tmp_path: Path, project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db:
        await db.execute(FANOUT_TABLES)
    await push(database, FANOUT, tmp_path)
    settings = doctored(tmp_path, project, redis_url, FANOUT)
    given = over_https(project)
    async with running_worker(given.pop("database_url"), redis_url, rules=FANOUT, **given):
        findings = await examine(settings)
    assert bad(findings) == []
    assert {finding.subject for finding in findings} >= {
        "source", "Supabase", "Postgres", "outbox", "captures", "schema", "fan-out queries", "Realtime",
    }  # fmt: skip


async def test_the_doctor_finds_what_is_missing(
    tmp_path: Path, project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db, connected(database.superuser_dsn) as admin:
        await db.execute(FANOUT_TABLES)
        await admin.execute("alter publication supabase_realtime drop table public.unstale_wakeup")
        settings = doctored(tmp_path, project, redis_url, FANOUT)
        found = {finding.subject: finding for finding in bad(await examine(settings))}
        assert "not watched" in found["captures"].finding
        assert "no function for the current text of the query" in found["fan-out queries"].finding
        assert "publication" in found["Realtime"].finding
        await db.execute("select unstale.publish_wakeups()")
        await db.execute("revoke select on public.unstale_wakeup from service_role")
        found = {finding.subject: finding for finding in bad(await examine(settings))}
        assert "service_role may not read" in found["Realtime"].finding
        assert all(finding.remedy.endswith(".") for finding in found.values())


async def test_the_doctor_says_that_row_loaders_need_a_connection(
    tmp_path: Path, project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    rules = PROFILES + ROW_LOADER
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
        found = {f.subject: f for f in await examine(doctored(tmp_path, project, redis_url, rules))}
        assert found["refreshes"].severity is Severity.WARNING
        assert "only invalidated: user:{user_id}:profile" in found["refreshes"].finding
        assert "DATABASE_URL" in found["refreshes"].remedy

        more = {"database_url": database.worker_dsn}
        found = {f.subject: f for f in await examine(doctored(tmp_path, project, redis_url, rules, **more))}
        assert found["refreshes"].severity is Severity.ERROR, "the role may not read the table yet"
        await db.execute("grant select on public.profiles to unstale_worker")
        found = {f.subject: f for f in await examine(doctored(tmp_path, project, redis_url, rules, **more))}
        assert found["refreshes"].severity is Severity.OK


async def test_the_doctor_says_that_https_stands_in_for_a_database(
    tmp_path: Path, project: SupabaseDouble, database: Database, redis_url: str
) -> None:
    async with connected(database.dsn) as db:
        await db.execute(SCHEMA)
    more = {"source": "auto", "database_url": NOWHERE.format(free_port())}
    findings = await examine(doctored(tmp_path, project, redis_url, PROFILES, **more))
    about = {finding.subject: finding.severity for finding in findings if "Redis" not in finding.subject}
    assert about["outbox"] is Severity.OK
    assert ("Postgres", Severity.WARNING) in {(f.subject, f.severity) for f in findings}


async def test_the_doctor_of_a_project_that_does_not_answer(
    tmp_path: Path, project: SupabaseDouble, redis_url: str
) -> None:
    await project.outage()
    findings = await examine(doctored(tmp_path, project, redis_url, PROFILES))
    assert [f for f in findings if f.subject == "Supabase" and f.severity is Severity.ERROR]
    lost = await examine(settings_for(None, redis_url, config=tmp_path / "unstale.toml"))
    assert [f for f in lost if f.subject == "source" and f.severity is Severity.ERROR]
