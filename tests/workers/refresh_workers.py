"""``unstale worker --role refresh`` as processes that a test may kill, with loaders beside its rules."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.forked import Forked, fork

LOADERS = '''
import asyncio
import time

from redis.asyncio import Redis

from unstale import Refresh

SECONDS = float(__import__("os").environ.get("LOADER_SECONDS", "0.3"))
URL = __import__("os").environ["REDIS_URL"]


async def greeting(refresh: Refresh) -> dict[str, object]:
    """Return the name that Redis has when the loader begins, after as long as a slow model takes."""
    async with Redis.from_url(URL) as redis:
        name = await redis.get("test:name:" + refresh.fields["user_id"])
        now = time.time()
        await redis.zadd("test:running", {f"{refresh.key} {now}": now + SECONDS + 5})
        await redis.zremrangebyscore("test:running", 0, now)
        await redis.lpush("test:most_running", await redis.zcard("test:running"))
        await redis.incr("test:calls")
        await asyncio.sleep(SECONDS)
        await redis.zrem("test:running", f"{refresh.key} {now}")
    return {"greeting": name.decode()}
'''

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:greeting"]

[refresh."user:{user_id}:greeting"]
loader = "test_loaders:greeting"
concurrency = 6
only_if_cached = false
ttl = "1h"
"""


class RefreshWorkers:
    """Several refresh workers with the same rules.

    Example:
        >>> with refresh_workers(redis_url, 4) as workers:
        ...     workers.kill(2)
        ...     workers.start(2)
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self.processes: dict[int, Forked] = {}

    def start(self, number: int) -> None:
        """Start the process with this number."""
        with (self._folder / f"log-{number}").open("ab") as log:
            self.processes[number] = fork(
                ["unstale_worker.cli.commands", "worker", "--role", "refresh"],
                cwd=self._folder,
                env=self._environment,
                stdout=log.fileno(),
                stderr=log.fileno(),
            )

    def kill(self, number: int) -> None:
        """Kill the process with SIGKILL."""
        self.processes[number].kill()
        self.processes[number].wait()

    def terminate(self, number: int, *, timeout: float = 60.0) -> int:
        """Stop the process with SIGTERM; return its exit code."""
        self.processes[number].send_signal(signal.SIGTERM)
        return self.processes[number].wait(timeout)

    def log(self, number: int) -> str:
        """Return what it has logged."""
        return (self._folder / f"log-{number}").read_text()


@contextmanager
def refresh_workers(
    redis_url: str, count: int, *, rules: str = RULES, loaders: str = LOADERS, **settings: str
) -> Iterator[RefreshWorkers]:
    """Start ``count`` processes; those that still run are killed afterwards."""
    with tempfile.TemporaryDirectory(prefix="unstale-test-") as name:
        folder = Path(name)
        (folder / "unstale.toml").write_text(rules)
        (folder / "test_loaders.py").write_text(loaders)
        environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "UNSTALE_CONFIG": str(folder / "unstale.toml"),
            "UNSTALE_HTTP_PORT": "0",
            **settings,
        }
        workers = RefreshWorkers(folder, environment)
        try:
            for number in range(count):
                workers.start(number)
            yield workers
        finally:
            for process in workers.processes.values():
                if process.poll() is None:
                    process.kill()
                process.wait()
