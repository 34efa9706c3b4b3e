"""The image of the Dockerfile, built without a daemon and run as an engine would run it.

buildah builds it (isolation by chroot, storage driver vfs, everything in a temporary folder). Its base image
cannot be fetched here, so a minimal Debian with Debian's Python takes the base's name. The image's user,
environment, entry point, command and health check come from its own configuration. Namespaces and a read-only
bind mount stand in for the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from servers import Database, eventually
from services.programs import program
from unstale_worker.dev_servers.process import free_port
from workers import connected, redis_at

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.13-slim"
MOST_BYTES = 130_000_000
"""Of the image over its base; in December 2026 90 MB, with Python 3.11."""
RULES = '[[watch]]\ntable = "public.items"\nkeys = ["item:{id}"]\n'
SCHEMA = """
create table public.items (id int primary key, name text);
insert into public.items values (1, 'Ada');
select unstale.watch('public.items', '{id}');
"""
# In a mount namespace of its own, so that every mount ends with the process.
START = """
mount --bind {root} {root} && mount --bind {rules} {root}/app && mount -t proc proc {root}/proc
mount -o remount,bind,ro {root} && mount -o remount,bind,ro {root}/app
exec chroot --userspec={user}:{user} {root} /usr/bin/env -i -C {folder} {environment} {command}
"""

pytestmark = [pytest.mark.xdist_group("container"), pytest.mark.timeout(1200)]


def done(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a program to its end; it must succeed."""
    ended = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=400, check=False
    )
    assert ended.returncode == 0, f"{shlex.join(map(str, command))}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum((Path(top) / name).lstat().st_size for top, _, names in os.walk(folder) for name in names)


class Image:
    """The built image: its configuration and its files."""

    def __init__(self, files: Path, base: Path, configuration: dict[str, Any]) -> None:
        self.files, self.base, self.configuration = files, base, configuration

    def command(self, words: list[str], rules: Path, **settings: str) -> list[str]:
        """Return a command that runs words in a container of this image."""
        environment = self.configuration["Env"] + [f"{name}={value}" for name, value in settings.items()]
        script = START.format(
            root=self.files, rules=rules, user=self.configuration["User"],
            folder=self.configuration["WorkingDir"],
            environment=shlex.join(environment), command=shlex.join(words),
        )  # fmt: skip
        return ["unshare", "--mount", "--", "sh", "-ec", script]


@pytest.fixture(scope="module")
def image(built_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built with wheels that pip downloads here, as this machine's pip is configured."""
    buildah = program("buildah", remedy="apt-get install buildah mmdebstrap")
    mmdebstrap = program("mmdebstrap", remedy="apt-get install buildah mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("only root may build an image here: buildah isolates by chroot")
    folder = tmp_path_factory.mktemp("image")
    base, wheels = folder / "base", folder / "wheels"
    own = [buildah, f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line)
    packages = "--include=python3,python3-venv,passwd"
    done(mmdebstrap, "--quiet", "--variant=essential", packages, release["VERSION_CODENAME"], base)
    (base / "usr" / "bin" / "python").symlink_to("python3")
    done(
        sys.executable, "-m", "pip", "--python", base / "usr" / "bin" / "python", "download", "--quiet",
        "--disable-pip-version-check", "--dest", wheels, "--constraint", "constraints.txt",
        f"{built_wheel}[worker,companion]", "hatchling",
    )  # fmt: skip
    next(wheels.glob("unstale-*")).unlink()  # the build makes its own
    (folder / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    working = done(*own, "from", "scratch").strip()
    done(*own, "add", "--quiet", working, base, "/")
    done(*own, "commit", "--quiet", working, BASE)
    done(
        *own, "bud", "--quiet", "--isolation", "chroot", "--format", "docker", "--pull-never",
        "--tag", "unstale", "--volume", f"{wheels}:/wheels:ro",
        "--volume", f"{folder / 'pip.conf'}:/etc/pip.conf:ro", ".",
    )  # fmt: skip
    shutil.rmtree(wheels)
    configuration = json.loads(done(*own, "inspect", "--type", "image", "unstale"))["Docker"]["config"]
    working = done(*own, "from", "--pull-never", "unstale").strip()
    yield Image(Path(done(*own, "mount", working).strip()), base, configuration)
    done(*own, "umount", working)
    shutil.rmtree(folder)  # 2 GB


def test_it_is_small_and_installs_nothing(image: Image) -> None:
    assert size(image.files) - size(image.base) <= MOST_BYTES, size(image.files) - size(image.base)
    assert not (image.files / "src").exists()
    assert not list((image.files / "opt" / "unstale" / "bin").glob("pip*"))
    assert not list((image.files / "opt" / "unstale").rglob("pip/__main__.py"))


async def test_a_container_follows_a_database(
    image: Image, database: Database, redis_url: str, tmp_path: Path
) -> None:
    """As user 10001, on a read-only file system, healthy by its own check, ended by its own signal."""
    rules = rules_in(tmp_path / "rules")
    settings = {
        "DATABASE_URL": database.worker_dsn, "REDIS_URL": redis_url,
        "UNSTALE_HTTP_HOST": "0.0.0.0", "UNSTALE_HTTP_PORT": str(free_port()), "UNSTALE_HTTP_TOKEN": 32 * "t",
    }  # fmt: skip
    entry = image.configuration["Entrypoint"] + image.configuration["Cmd"]
    check = image.command(image.configuration["Healthcheck"]["Test"][1:], rules, **settings)

    async def healthy() -> bool:
        return (await finished(check))[0] == 0

    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        assert not await healthy(), "the check can fail"
        container = await asyncio.create_subprocess_exec(
            *image.command(entry, rules, **settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            await eventually(healthy)

            async def ready() -> bool:
                return (await finished(image.command(readiness_probe(), rules, **settings)))[0] == 0

            await eventually(ready)
            process = psutil.Process(container.pid)
            assert process.uids().real == process.gids().real == 10001
            await redis.set("item:1", "old")
            await db.execute("update items set name = 'Grace'")

            async def gone() -> bool:
                return not await redis.exists("item:1")

            await eventually(gone)
        finally:
            container.send_signal(getattr(signal, image.configuration["StopSignal"]))
            log, _ = await container.communicate()
        assert container.returncode == 0, log.decode()

    code, said = await finished(image.command(["python", "-c", "open('/app/new', 'w')"], rules))
    assert code == 1
    assert "Read-only file system" in said


def readiness_probe() -> list[str]:
    """Return the command by which the Helm chart's pods show that they are ready."""
    template = (ROOT / "deploy" / "helm" / "unstale" / "templates" / "_helpers.tpl").read_text()
    (code,) = re.findall(r'- "(import os, .+)"$', template, re.MULTILINE)
    return ["python", "-c", code]


def rules_in(folder: Path) -> Path:
    """Make a folder with rules that every user may read."""
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "unstale.toml").write_text(RULES)
    return folder


async def finished(command: list[str]) -> tuple[int, str]:
    """Run a command to its end; return its exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
