"""The matcher of agents against that of the server: the same answer for every pattern and key."""

import os
import random
from collections.abc import AsyncIterator, Iterator
from typing import get_args

import pytest
from redis.asyncio import Redis

from unstale.protocol.globs import glob_regex
from unstale_worker.dev_servers import EmbeddedValkey
from unstale_worker.dev_servers.installs import RedisProgram

PATTERNS = int(os.environ.get("GLOB_PATTERNS", "4000"))
"""64,000 were compared with both servers without a difference on 2026-11-30."""
BATCH = 1_000
PIECES = [
    *"aaabbcé:-*?[]^\\\n€😀~A0",
    "**", "*?*", "[a-c]", "[c-a]", "[^a-c]", "[]", "[^]", "[]]", "[a-]", "[-a]", "[\\]]", "[\\", "[a\\-c]",
    "[^", "[!a]", "[A:\né-*", "[é]", "[a-é]", "[é-a]", "[^€]", "[--a]", "[a--]", "[a-b-c]",
    "[^a-é]", "\\*", "\\[",
]  # fmt: skip
LETTERS = "aabbc:-*?[]^\\\né€😀~A0"


@pytest.fixture(params=get_args(RedisProgram))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedValkey]:
    async with EmbeddedValkey(program=request.param) as server:
        yield server


def patterns(rng: random.Random) -> Iterator[str]:
    while True:
        yield "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 6)))


async def test_every_pattern_matches_the_same_keys_as_in_the_server(server: EmbeddedValkey) -> None:
    rng = random.Random(7)
    words = ["".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 5))) for _ in range(60)]
    keys = {word.encode() for word in [*words, *LETTERS, "abc", "a-c", "é-a", "user:42:profile"]}
    made = patterns(rng)
    different = []
    async with Redis.from_url(server.url) as redis:
        await redis.mset(dict.fromkeys(keys, "1"))
        for _ in range(PATTERNS // BATCH):
            batch = [next(made) for _ in range(BATCH)]
            pipeline = redis.pipeline(transaction=False)
            for pattern in batch:
                pipeline.keys(pattern)
            for pattern, found in zip(batch, await pipeline.execute(), strict=True):
                match = glob_regex(pattern).match
                ours = {key for key in keys if match(key)}
                if ours != set(found):
                    different.append((pattern, sorted(ours.symmetric_difference(found))))
        await redis.flushall()
    assert not different, f"{len(different)} patterns differ: {different[:5]}"
