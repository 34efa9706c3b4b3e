"""An agent process that reads one key all the time and writes down what it saw; stopped and continued by
its test.

One JSON line for each read that ran: [moment before the read, staleness before it, value], on
`unstale.runtime.clock`. With the argument ``naive`` it takes a watermark for fresh when it is read, as an
agent without PINGs would.
"""

import asyncio
import json
import sys

from unstale import Cache
from unstale.freshness.subscriber import Subscriber
from unstale.freshness.trust import Freshness
from unstale.protocol.messages import Watermark
from unstale.runtime import clock

KEY = "user:42:profile"


def believe_watermarks() -> None:
    """Count a watermark from the moment it is read."""
    heard = Freshness.heard

    def naive(self: Freshness, mark: Watermark) -> bool:
        self._ponged = self._clock()
        return heard(self, mark)

    Freshness.heard = naive  # type: ignore[method-assign, assignment]  # this process has no monkeypatch


async def main(url: str, max_silence: float, naive: bool) -> None:
    """Read until the parent closes our input."""
    if naive:
        believe_watermarks()
    hear = Subscriber._hear

    async def slowly(self: Subscriber, payload: bytes) -> None:
        await asyncio.sleep(0.002)  # reads run between two messages, however many lie in the buffer
        await hear(self, payload)

    Subscriber._hear = slowly  # type: ignore[method-assign]  # nor is there another place between two
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with Cache.from_env(env_file=None, redis_url=url, max_silence=max_silence) as cache:
        while not over.done():
            at, staleness = clock.now(), cache.staleness
            value = await cache.get_or_load(KEY, lambda: None, ttl=3600)
            print(json.dumps([at, min(staleness, 1e9), value]), flush=True)
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:] == ["naive"]))
