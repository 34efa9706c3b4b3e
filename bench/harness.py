"""What the benchmarks share: servers, a worker process, repeats with medians, one JSON object at the end.

Absolute figures on a shared machine are good to some 40 %; ratios within one run are good.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from unstale.protocol.messages import Snapshot
from unstale.protocol.names import Names
from unstale_worker.dev_servers import Stack, stack

RESULTS = Path(__file__).with_name("results")

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile"]
"""

SCHEMA = """
create table public.profiles (id bigint primary key, name text not null, version bigint not null default 0);
select unstale.watch('public.profiles', '{id}');
"""


def arguments(description: str, *, repeats: int, **flags: Any) -> argparse.Namespace:
    """Parse ``--json``, ``--repeats``, ``--quick`` and what ``flags`` name with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the work: for a look, not for a figure"
    )
    for name, default in flags.items():
        option = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args()


@asynccontextmanager
async def servers(*, sql: str = SCHEMA, fsync: bool = True) -> AsyncIterator[Stack]:
    """Both servers, migrated, with the benchmark's tables."""
    settings: dict[str, str | int] = {
        "fsync": "on" if fsync else "off",
        "shared_buffers": "256MB",
        "max_wal_size": "4GB",
    }
    async with stack(sql=sql, settings=settings) as running:
        yield running


@contextmanager
def worker(
    running: Stack,
    *,
    rules: str = RULES,
    command: Sequence[str] = ("-m", "unstale_worker.cli.commands"),
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """The real worker as a process of its own, ended with SIGTERM."""
    with TemporaryDirectory(prefix="unstale-bench-") as folder:
        path = Path(folder) / "unstale.toml"
        path.write_text(rules)
        process = subprocess.Popen(
            [sys.executable, *command, "worker"],
            cwd=folder,
            env={
                **os.environ,
                "DATABASE_URL": running.worker_database_url,
                "REDIS_URL": running.redis_url,
                "UNSTALE_CONFIG": str(path),
                "UNSTALE_HTTP_PORT": "0",
                **environment,
            },
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def applied(redis: Any, xid: int, *, process: subprocess.Popen[bytes], timeout: float = 600.0) -> None:
    """Wait until the stored position contains ``xid``."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the worker ended with exit code {process.returncode}")
        position = await position_of(redis)
        if position and Snapshot.parse(position).includes(xid):
            return
        await asyncio.sleep(0.005)
    raise SystemExit("the worker did not get there in time")


async def position_of(redis: Any) -> str:
    """The position in Redis; empty: none yet."""
    position: bytes | None = await redis.hget(Names().state, "position")
    return (position or b"").decode()


async def leads(redis: Any, *, process: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
    """Wait until the worker has stored a position."""
    deadline = time.monotonic() + timeout
    while not await redis.hexists(Names().state, "position"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the worker does not lead (exit code {process.returncode})")
        await asyncio.sleep(0.02)


def child(script: Path | str, *values: object) -> subprocess.Popen[str]:
    """Start a script of this folder as a process that talks by lines; see `line` and `ended`."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name(str(script))), *map(str, values)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def line(process: subprocess.Popen[str]) -> Any:
    """Return the next line that a child prints, without blocking this loop; JSON is decoded."""
    assert process.stdout is not None
    text = await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)
    if not text:
        raise SystemExit(f"a child ended with exit code {process.wait()}")
    return json.loads(text) if text[0] in '{["' else text.strip()


async def ended(process: subprocess.Popen[str]) -> Any:
    """End a child's input, and return the last line that it prints."""
    assert process.stdin is not None
    process.stdin.close()
    told = await line(process)
    await asyncio.get_running_loop().run_in_executor(None, process.wait)
    return told


async def end_of_input() -> None:
    """In a child: wait until the parent closes its input."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def peak_rss_mb(pid: int) -> float:
    """Largest resident set of a process so far, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def server_cpu_seconds(postmaster: int) -> float:
    """User and system time of a Postgres server so far, with that of its sessions that have ended (Linux).

    The kernel adds the time of an ended process to its parent's, in ticks of 10 ms; that of a running one is
    known in nanoseconds.
    """
    fields = Path(f"/proc/{postmaster}/stat").read_text().rsplit(")", 1)[1].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    running = 0
    for pid in (str(postmaster), *Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            running += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return ended + running / 1e9


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over several runs of the same shape."""
    first = runs[0]
    return {
        name: medians([run[name] for run in runs])
        if isinstance(value, dict)
        else round(statistics.median(run[name] for run in runs), 4)
        for name, value in first.items()
    }


def varied(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `noise` of each figure over several runs of the same shape."""
    return {
        name: varied([run[name] for run in runs])
        if isinstance(value, dict)
        else noise([run[name] for run in runs])
        for name, value in runs[0].items()
    }


def noise(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, as a share of the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return round((high - low) / 2 / middle, 4) if middle else 0.0


def store(name: str, figures: dict[str, Any], *, repeats: int) -> None:
    """Write a result to bench/results, with date and machine, for pages and for `check.py`."""
    result = {"figures": figures, "machine": machine(), "repeats": repeats}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def finish(name: str, figures: dict[str, Any], *, as_json: bool, repeats: int) -> None:
    """Print the figures for people, and with ``--json`` as the last line."""
    print(f"{name} ({repeats} repeats, medians; {machine()})")
    _show(figures, "  ")
    if as_json:
        # Under the bench's name, so that several results can be merged, and plainly, for who reads one.
        print(json.dumps({**figures, name: figures, "machine": machine(), "repeats": repeats}))


def machine() -> str:
    """Date and machine in a few words."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in (
                Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
            )
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} x {model}, Python {platform.python_version()}"


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a benchmark on uvloop."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main())


def _show(figures: dict[str, Any], indent: str) -> None:
    for key, value in figures.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            _show(value, indent + "  ")
        else:
            print(f"{indent}{key:24} {value:,.4g}")
