"""Parts of ``unstale dev`` that need no server: its ports, its secret, and the file with the URLs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from dotenv import dotenv_values

from unstale import ConfigurationError
from unstale_worker.dev.env_file import write_env
from unstale_worker.dev.places import Ports, Secret
from unstale_worker.dev_servers.project import Project


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_users_lines_of_an_env_file_stay(tmp_path: Path, end: str) -> None:
    mine = end.join(["# mine", "DATABASE_URL=postgresql://production", "export A='b = c'", "LAST=é"])
    file, link = tmp_path / "real", tmp_path / ".env"
    file.write_bytes(mine.encode())
    file.chmod(0o640)
    link.symlink_to(file)
    for port in ("1", "2", "3"):
        values = {"DATABASE_URL": f"postgresql://dev:{port}", "REDIS_URL": "redis://dev"}
        assert write_env(link, values) == ["DATABASE_URL"]
        written = file.read_bytes().decode()
        assert written.startswith(mine + end)
        assert written.count("DATABASE_URL=") == 2
        assert ("\r" in written) is (end == "\r\n")
        read = dotenv_values(link)
        assert read == {"A": "b = c", "LAST": "é", **values}
    with link.open("a", newline="") as more:
        more.write(f"AFTER=1{end}")
    write_env(link, {"REDIS_URL": "redis://other"})
    assert dotenv_values(link)["AFTER"] == "1"
    assert dotenv_values(link)["DATABASE_URL"] == "postgresql://production"
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_new_env_file_is_private(tmp_path: Path) -> None:
    assert write_env(tmp_path / ".env", {"REDIS_URL": "redis://dev"}) == []
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
    with pytest.raises(ConfigurationError, match="--env-file"):
        write_env(tmp_path / "nowhere" / ".env", {})


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} for Redis"):
            Ports(valkey=port).refuse_taken(page=True, supabase=True)
        Ports(page=port, supabase=port).refuse_taken(page=False, supabase=False)
    Ports(valkey=port).refuse_taken(page=True, supabase=True)


def test_a_projects_settings_are_read_or_named(tmp_path: Path) -> None:
    (config := tmp_path / "supabase" / "config.toml").parent.mkdir()
    assert Project.read(tmp_path) == Project()
    for name in ("b.sql", "a.sql", "seed.sql", "one.sql"):
        (config.parent / name).write_text("select 1")
    assert [path.name for path in Project.read(tmp_path).seeds] == ["seed.sql"]
    config.write_bytes(
        b"\xef\xbb\xbf[db.seed]\r\nsql_paths = ['one.sql', './[ab].sql', 'one.sql', 'c/*.sql']\r\n"
    )
    found = Project.read(tmp_path)
    assert [path.name for path in found.seeds] == ["one.sql", "a.sql", "b.sql"]
    assert found.missing_seeds == ("c/*.sql",)
    config.write_text(
        "[db.seed]\nenabled = false\n[api]\nmax_rows = 5\nschemas = ['api']\nauto_expose_new_tables = true"
    )
    found = Project.read(tmp_path)
    assert (found.seeds, found.max_rows, found.schemas, found.grants_new_tables) == ((), 5, ("api",), True)
    for wrong in ("[db.seed]\nsql_paths = 'a'", "[api]\nmax_rows = 'x'", "[api", "[api]\nschemas = [1]"):
        config.write_text(wrong)
        with pytest.raises(ConfigurationError, match=r"config\.toml"):
            Project.read(tmp_path)


def test_a_secret_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / ".unstale" / "dev.secret"
    first = Secret.kept(path)
    assert Secret.kept(path).derived("password") == first.derived("password") != first.derived("other")
    assert path.stat().st_mode & 0o077 == 0
    assert (path.parent / ".gitignore").read_text() == "*\n"
    assert first.value not in repr(first)
    path.write_text("short")
    assert Secret.kept(path) != first
