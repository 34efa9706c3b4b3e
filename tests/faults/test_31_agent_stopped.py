"""31: an agent is stopped (SIGSTOP) for longer than ``max_silence`` and goes on: `staleness` says so.

Guards: `Freshness.heard` counts a watermark from the last PING whose PONG came *before* it. Without,
watermarks that lay in the socket's buffer look fresh, and what they vouch for is as old as the pause was
long.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from servers import takes
from unstale.runtime import clock
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import WorkerDouble

CHILD = Path(__file__).with_name("agent_child.py")
KEY = "user:42:profile"
PAUSE = 3.5


@pytest.mark.parametrize(("max_silence", "defended"), [(2.5, True), (60.0, True), (60.0, False)])
async def test_no_answer_is_older_than_the_staleness_it_came_with(
    silent: WorkerDouble, valkey: EmbeddedValkey, max_silence: float, defended: bool
) -> None:
    """Below ``max_silence`` it answers from memory with a number; beyond, it trusts nothing of it."""
    await silent.redis.set(KEY, '"old"', ex=3600)
    async with silent.beating(every=0.02):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD), valkey.url, str(max_silence), *(() if defended else ("naive",))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            reads = [await attached(child.stdout)]
            child.send_signal(signal.SIGSTOP)
            await takes(PAUSE / 2)  # watermarks that were true pile up in its socket
            await silent.apply(KEY)
            await silent.redis.set(KEY, '"new"', ex=3600)
            changed = clock.now()
            await takes(PAUSE / 2)
            child.send_signal(signal.SIGCONT)
            reads += await until_new(child.stdout)
            child.stdin.close()
            rest, _ = await child.communicate()
            reads += [json.loads(line) for line in rest.splitlines()]
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        assert reads[-1][2] == "new"
        wrong = [
            (round(at - changed, 3), round(staleness, 3))
            for at, staleness, value in reads
            if value == "old" and at - changed > staleness
        ]
        assert (wrong == []) is defended, f"(seconds since the change, staleness told): {wrong[:5]}"


async def attached(output: asyncio.StreamReader) -> list[Any]:
    """Wait for an answer that came with a bound."""
    async with asyncio.timeout(60):
        while True:
            read: list[Any] = json.loads(await output.readline())
            if read[1] != 1e9 and read[2] == "old":
                return read


async def until_new(output: asyncio.StreamReader) -> list[list[Any]]:
    """Everything up to the first new value that came with a bound."""
    reads: list[list[Any]] = []
    async with asyncio.timeout(60):
        while not reads or reads[-1][2] != "new" or reads[-1][1] == 1e9:
            reads.append(json.loads(await output.readline()))
    return reads
