"""Connections to Postgres are encrypted, and whoever answers beyond this machine must prove who it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import trustme

from servers import run_apart
from unstale.companion.pools.postgres import Database
from unstale.errors import DatabaseUnavailable, SettingError
from unstale.runtime.tls import postgres_tls
from unstale.settings import PoolSettings
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.sources.postgres_connections import PostgresConnections

ENCRYPTED = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"


pytestmark = pytest.mark.xdist_group("tls")  # start its server once, not once per test process


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[EmbeddedPostgres]:
    """A server with a certificate for 127.0.0.1: Debian's, as those of the wheels cannot encrypt."""
    if not Path("/usr/lib/postgresql/15/bin/postgres").exists() and not os.environ.get("CI"):
        pytest.skip("Postgres 15 is not installed (apt-get install postgresql-15)")
    server = EmbeddedPostgres(version="15", settings={"fsync": "off"})
    run_apart(server.__aenter__())
    try:
        run_apart(encrypt(server, authority))
        yield server
    finally:
        run_apart(server.close())


async def encrypt(server: EmbeddedPostgres, authority: trustme.CA) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    owner = server.data.stat()
    for name, content in (
        ("server.crt", b"".join(blob.bytes() for blob in certificate.cert_chain_pems)),
        ("server.key", certificate.private_key_pem.bytes()),
    ):
        path = server.data / name
        path.write_bytes(content)
        path.chmod(0o600)
        os.chown(path, owner.st_uid, owner.st_gid)
    connection = await asyncpg.connect(server.superuser_dsn)
    await connection.execute("alter system set ssl = on")
    await connection.execute("select pg_reload_conf()")
    await connection.close()


def plain(server: EmbeddedPostgres) -> str:
    """The server's URL without a word about encryption."""
    return server.superuser_dsn.partition("?")[0]


@pytest.mark.parametrize(
    "host", ["db.example.supabase.co", "10.0.0.7", "[2001:db8::1]:5432", "localhost,db.example"]
)
def test_beyond_this_machine_a_certificate_for_the_name_is_required(host: str) -> None:
    context = postgres_tls(f"postgresql://ada:secret@{host}/postgres")
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ada@localhost/postgres",
        "postgresql://ada@127.0.0.1:5432/postgres",
        "postgresql://ada@[::1]:5432/postgres",
        "postgresql:///postgres?host=/run/postgresql",
        "postgresql://ada@db.example/postgres?sslmode=require",
        "postgresql://ada@db.example/postgres?sslmode=disable",
    ],
)
def test_on_this_machine_and_where_sslmode_is_given_nothing_is_added(dsn: str) -> None:
    assert postgres_tls(dsn) is None


def test_the_environments_mode_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert postgres_tls("postgresql://ada@db.example/postgres") is None


async def test_a_certificate_of_the_named_authority_is_accepted(
    server: EmbeddedPostgres, authority: trustme.CA, tmp_path: Path
) -> None:
    file = tmp_path / "authority.crt"
    authority.cert_pem.write_to_path(str(file))
    dsn = f"{plain(server)}?sslrootcert={file}"
    connection = await PostgresConnections(dsn).open()
    assert await connection.fetchval(ENCRYPTED) is True
    await connection.close()
    pool = await Database(PoolSettings.from_env(env_file=None, database_url=dsn)).open()
    assert await pool.client.fetchval(ENCRYPTED) is True
    await pool.close(timeout=5)


async def test_a_certificate_of_somebody_else_is_refused_with_the_remedy(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    file = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(str(file))
    with pytest.raises(DatabaseUnavailable, match=r"not trusted .*sslrootcert=FILE") as refused:
        await PostgresConnections(f"{plain(server)}?sslrootcert={file}").open()
    assert server.password not in str(refused.value)


async def test_a_server_that_does_not_encrypt_is_refused_with_the_remedy(
    postgres_server: EmbeddedPostgres, authority: trustme.CA, tmp_path: Path
) -> None:
    file = tmp_path / "authority.crt"
    authority.cert_pem.write_to_path(str(file))
    with pytest.raises(DatabaseUnavailable, match="sslmode=disable"):
        await PostgresConnections(f"{plain(postgres_server)}?sslrootcert={file}").open()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingError, match=r"sslrootcert is '/nowhere/ca\.crt'"):
        postgres_tls("postgresql://ada@db.example/postgres?sslrootcert=/nowhere/ca.crt")
