"""An agent process without Redis that reads one key all the time and writes down what it saw; stopped and
continued by its test.

One JSON line for each read: [moment before the read, staleness before it, value], on `unstale.runtime.clock`.
"""

import asyncio
import json
import sys

import asyncpg

from unstale import Cache
from unstale.runtime import clock

KEY = "user:1:profile"


async def main(dsn: str, max_silence: float, rules: str) -> None:
    """Read until the parent closes our input."""
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    db = await asyncpg.connect(dsn)
    async with Cache.from_env(
        env_file=None, redis_enabled=False, embedded_worker=True, database_url=dsn, config=rules,
        max_silence=max_silence, leader_ttl=1.0, poll_max=0.05,
    ) as cache:  # fmt: skip
        while not over.done():
            at, staleness = clock.now(), cache.staleness
            value = await cache.get_or_load(
                KEY, lambda: db.fetchval("select version from profiles where id = 1")
            )
            print(json.dumps([at, min(staleness, 1e9), value]), flush=True)
            await asyncio.sleep(0.001)
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
