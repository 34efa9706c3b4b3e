"""What can be run of the compose file without an engine: its shape, its scripts, its keys and its gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from services.programs import REPOSITORY, program, run
from unstale_worker.dev_servers import EmbeddedPostgres
from workers import connected

SUPABASE = {"db", "migrate", "realtime", "rest", "gateway"}
OBSERVE = {"prometheus", "grafana"}
SEED = "create table public.pets (id int primary key); alter table public.pets enable row level security;"
WATCH = "select unstale.watch('public.pets', '{id}');"


async def keys() -> dict[str, str]:
    made = await run(sys.executable, REPOSITORY / "docker" / "keys.py", cwd=REPOSITORY)
    assert made.returncode == 0, made.stderr
    return dict(line.split("=", 1) for line in made.stdout.splitlines())


async def test_the_file_is_a_compose_file(tmp_path: Path) -> None:
    environment = await keys()
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    shutil.copy(REPOSITORY / "docker-compose.yml", tmp_path)
    compose = program("docker-compose", remedy="apt-get install docker-compose")
    all_of_it = await run(compose, "--profile", "supabase", "--profile", "observe", "config", cwd=tmp_path)
    assert all_of_it.returncode == 0, all_of_it.stderr
    assert environment["POSTGRES_PASSWORD"] in all_of_it.stdout
    services = await run(compose, "config", "--services", cwd=tmp_path)
    # Those of the small Supabase are only started when asked for.
    assert set(services.stdout.split()) - {"valkey", "worker"} == SUPABASE | OBSERVE
    assert all_of_it.stdout.count("profiles:\n    - supabase\n") == len(SUPABASE)
    assert all_of_it.stdout.count("profiles:\n    - observe\n") == len(OBSERVE)
    (tmp_path / ".env").unlink()
    without = await run(compose, "config", cwd=tmp_path)
    assert without.returncode != 0
    assert "DATABASE_URL" in without.stderr


async def test_prometheus_and_grafana_get_files_that_fit(tmp_path: Path) -> None:
    """Each mounted file exists; Prometheus' own tool reads its configuration with the alerts beside it."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    mounts = {
        inside: REPOSITORY / outside
        for service in OBSERVE
        for outside, inside, _ in (mount.split(":") for mount in compose["services"][service]["volumes"])
    }
    assert all(path.is_file() for path in mounts.values())
    for inside in ("/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"):
        text = mounts[inside].read_text().replace("/tmp/token", str(tmp_path / "token"))
        (tmp_path / Path(inside).name).write_text(text)
    # The container's entry point, with a Prometheus that only prints what it was called with.
    service = compose["services"]["prometheus"]
    script = service["entrypoint"][2].replace("$$", "$").replace("/tmp/token", str(tmp_path / "token"))
    words = [*service["entrypoint"][:2], script.replace("exec prometheus", "echo"), "sh", *service["command"]]
    started = await run(*words, cwd=tmp_path, environment={"UNSTALE_HTTP_TOKEN": "t0ken"})
    assert started.stdout.split() == service["command"]
    assert (tmp_path / "token").read_text() == "t0ken"
    promtool = program("promtool", remedy="apt-get install prometheus")
    checked = await run(promtool, "check", "config", tmp_path / "prometheus.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    (source,) = yaml.safe_load(mounts["/etc/grafana/provisioning/datasources/unstale.yml"].read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"


async def test_the_dockerfile_has_no_lint() -> None:
    linted = await run(Path(sys.executable).with_name("hadolint"), "Dockerfile", cwd=REPOSITORY)
    assert (linted.returncode, linted.stdout) == (0, "")


async def test_keys_are_new_each_time_and_signed() -> None:
    one, other = await keys(), await keys()
    assert one["JWT_SECRET"] != other["JWT_SECRET"]
    head, body, signature = one["SUPABASE_SERVICE_ROLE_KEY"].split(".")
    expected = hmac.digest(one["JWT_SECRET"].encode(), f"{head}.{body}".encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=") == expected
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["role"] == "service_role"
    assert claims["exp"] > claims["iat"]
    assert len(one["SECRET_KEY_BASE"]) >= 64  # Realtime refuses shorter ones
    assert len(one["REALTIME_DB_ENC_KEY"]) == 16


@pytest.mark.parametrize("project", ["15"], indirect=True)
async def test_migrations_are_pushed_once(project: EmbeddedPostgres, tmp_path: Path) -> None:
    psql = program("psql", remedy="apt-get install postgresql-client")
    companion = tmp_path / "companion"
    (companion / "migrations").mkdir(parents=True)
    (companion / "seed.sql").write_text(SEED)
    (companion / "migrations" / "20270101000000_watches.sql").write_text(WATCH)
    environment = {
        "PATH": f"{Path(psql).parent}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(urlsplit(project.dsn()).port),
        "PGPASSWORD": project.password,
        "MIGRATIONS": str(REPOSITORY / "supabase" / "migrations"),
        "COMPANION": str(companion),
    }
    script = ("bash", REPOSITORY / "docker" / "migrate.sh")
    first = await run(*script, cwd=tmp_path, environment=environment)
    assert first.returncode == 0, first.stderr
    assert "20270101000000_watches.sql" in first.stdout
    again = await run(*script, cwd=tmp_path, environment=environment)
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    async with connected(project.dsn()) as connection:
        await connection.execute("insert into pets values (7)")
        assert await connection.fetchval("select count(*) from unstale.outbox where keys = '{7}'") == 1
    async with connected(project.dsn(user="unstale_worker")) as worker:
        assert await worker.fetchval("select unstale.database()")
    # A file that fails is not noted, and leaves nothing behind.
    (companion / "migrations" / "20270101000001_broken.sql").write_text(
        "create table left_over (); select 1/0;"
    )
    broken = await run(*script, cwd=tmp_path, environment=environment)
    assert broken.returncode != 0
    async with connected(project.dsn()) as connection:
        assert await connection.fetchval("select to_regclass('left_over')") is None
