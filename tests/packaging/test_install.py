"""`pip install unstale` in a bare environment is small and enough for an agent, and errors name extras."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
MOST_DISTRIBUTIONS = 20
MOST_BYTES = 60 * 1024 * 1024

pytestmark = pytest.mark.xdist_group("install")  # make the bare environment once, not once per test process

LIST = """
import importlib.metadata as metadata, json
found = {item.name: sum(file.locate().stat().st_size for file in item.files if file.locate().is_file())
         for item in metadata.distributions()}
print(json.dumps(found))
"""
AGENT = """
import asyncio, sys
from unstale import Cache, Tools, redis_cache

async def main():
    async with Cache.from_env(env_file=None, redis_url=sys.argv[1]) as cache:
        @cache.cached("user:{user_id}:profile")
        async def profile(user_id: int) -> dict[str, int]:
            return {"id": user_id}

        assert await profile(42) == {"id": 42}
        assert await cache.get("user:42:profile") == {"id": 42}
        assert await cache.set("user:42:state", [1], ttl=10)
        async with cache.lock("user:42:greeting"):
            assert (await cache.get_many(["user:42:state"])) == {"user:42:state": [1]}
        tools = Tools(cache, user_id=42)
        assert await tools.run("clearUserCache") == {"removed": 1}  # no worker yet: the profile stayed here
        assert (await cache.get_stats())["connected"]
    print("done")

asyncio.run(main())
"""
MISSING = """
import asyncio
from unstale import Cache, ConnectionPool, UnstaleError
from unstale.errors import MissingExtra
from unstale.reading.loader import Load

def says(extra, use):
    try:
        use()
    except MissingExtra as error:
        assert isinstance(error, ImportError) and isinstance(error, UnstaleError)
        assert str(error).endswith(f"pip install 'unstale[{extra}]'"), error
        assert error.extra == extra and repr(error.package) in str(error), error
    else:
        raise AssertionError(f"{extra} is there")

async def pool():
    settings = {"openai_api_key": "k", "supabase_url": "http://127.0.0.1:1", "supabase_key": "k",
                "database_url": "postgresql://x/y"}
    async with ConnectionPool.from_env(env_file=None, **settings) as pool:
        await pool.warm()  # what is not installed is left out
        for client in (pool.openai, pool.supabase, pool.http, pool.postgres):
            try:
                await client()
            except MissingExtra as error:
                assert error.extra == "companion", error
            else:
                raise AssertionError(client)
        pool.openai_sync()

says("companion", lambda: asyncio.run(pool()))
load = Load(key="user:1", need_lsn=None, primary=True)
says("companion", lambda: load.connection(primary=None, replica=None))
says("worker", lambda: Cache.from_env(env_file=None, redis_enabled=False, embedded_worker=True))
says("livekit", lambda: __import__("unstale.companion.tools.livekit"))
says("mcp", lambda: __import__("unstale.companion.tools.mcp"))
says("otel", lambda: Cache.from_env(env_file=None, otel=True))
says("otel", lambda: __import__("unstale.telemetry", fromlist=["observe"]).observe)
key = "a:" + 43 * "A" + "="
says("crypto", lambda: Cache.from_env(env_file=None, redis_url="redis://127.0.0.1:1", value_keys=key))
says("crypto", lambda: Cache.from_env(env_file=None, redis_url="redis://127.0.0.1:1", compress_above=100))
says("prometheus", lambda: __import__("unstale.telemetry", fromlist=["CacheCollector"]).CacheCollector)
print("done")
"""


CRYPTO = """
import asyncio, sys
from unstale import Cache

async def main():
    sealed = {"value_keys": "a:" + 43 * "A" + "=", "compress_above": 100}
    async with Cache.from_env(env_file=None, redis_url=sys.argv[1], **sealed) as cache:
        assert await cache.set("user:42:secret", "plain text " * 100, ttl=10)
        assert await cache.get("user:42:secret") == "plain text " * 100
    async with Cache.from_env(env_file=None, redis_url=sys.argv[1]) as cache:
        assert await cache.get("user:42:secret") is None, "it was readable without a key"
    print("done", *sys.version_info[:2])

asyncio.run(main())
"""


def newer_python() -> str:
    """Return the newest Python of this machine that the classifiers name, or this one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in ("3.14", "3.13", "3.12"):
        found = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]
        for python in filter(None, found):
            # A shim of pyenv may be on PATH and refuse; a Python may lack the parts that make environments.
            answer = subprocess.run([python, "-c", "import ensurepip, ssl"], capture_output=True, check=False)
            if answer.returncode == 0:
                return python
    return sys.executable


@pytest.fixture(scope="module")
def bare(built_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds what the wheel brings, and nothing else."""
    return environment_with(str(built_wheel), sys.executable, tmp_path_factory.mktemp("bare"))


def environment_with(wheel: str, python: str, folder: Path) -> Path:
    """Make an environment for a Python, install a wheel there, and return the folder of its programs."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=100)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
         "--disable-pip-version-check", "--no-compile", "--constraint", str(ROOT / "constraints.txt"), wheel],
        check=True, timeout=250,
    )  # fmt: skip
    return folder / "bin"


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The finished process; its environment has none of this one's Python paths."""
    return subprocess.run(
        [str(program), *arguments],
        cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.timeout(400)
def test_it_is_small(bare: Path, tmp_path: Path) -> None:
    listed = run(bare / "python", "-c", LIST, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    sizes: dict[str, int] = json.loads(listed.stdout)
    assert "unstale" in sizes
    assert len(sizes) <= MOST_DISTRIBUTIONS, sorted(sizes)
    assert sum(sizes.values()) <= MOST_BYTES, sizes


async def test_it_is_enough_for_an_agent(bare: Path, redis_url: str, tmp_path: Path) -> None:
    done = await asyncio.to_thread(run, bare / "python", "-c", AGENT, redis_url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.timeout(400)
async def test_it_is_enough_on_the_newest_python_with_encryption(
    built_wheel: Path, redis_url: str, tmp_path: Path
) -> None:
    """Once the extra ``crypto`` is there, values are encrypted and compressed."""
    python, wheel = newer_python(), f"{built_wheel}[crypto]"
    programs = await asyncio.to_thread(environment_with, wheel, python, tmp_path / "newest")
    done = await asyncio.to_thread(run, programs / "python", "-c", AGENT, redis_url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    done = await asyncio.to_thread(run, programs / "python", "-c", CRYPTO, redis_url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if python != sys.executable:
        assert done.stdout != f"done {sys.version_info[0]} {sys.version_info[1]}\n"


def test_what_needs_an_extra_names_it(bare: Path, tmp_path: Path) -> None:
    done = run(bare / "python", "-W", "error", "-c", MISSING, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("arguments", [(), ("worker",), ("demo",), ("--version",)])
def test_the_command_names_its_extra(bare: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(bare / "unstale", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "unstale: The command unstale needs the package 'typer', which is not installed. "
        "Install the extra 'worker': pip install 'unstale[worker]'\n"
    )


def test_all_extras_are_in_all_and_agree_on_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "docs", "recipes", "tests"}
    asked: dict[str, str] = {}
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        requirement = Requirement(text)
        if requirement.name != "unstale":
            assert asked.setdefault(requirement.name, str(requirement.specifier)) == requirement.specifier
    page = (ROOT / "docs" / "install.md").read_text()
    assert all(f"| `{extra}` |" in page for extra in set(extras) - {"dev", "docs", "recipes", "tests"})
