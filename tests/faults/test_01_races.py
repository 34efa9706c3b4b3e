"""1, many times: fills raced against invalidations, the short version of ``bench/races.py``.

Guards: `fill.lua` compares the lease; with a plain SET in its place the same races end in stale values.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "races.py"
SEED = os.environ.get("RACES_SEED", "20261122")


@pytest.mark.parametrize(("fills", "flags"), [("20000", ()), ("5000", ("--undefended",))])
async def test_no_fill_that_was_overtaken_is_accepted(fills: str, flags: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(BENCH), "--json", "--seed", SEED, "--fills", fills, *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, said.decode()
    found: dict[str, Any] = json.loads(said.splitlines()[-1])["races"]
    assert found["fills"] >= int(fills)
    assert found["overtaken"] > found["fills"] / 200, found  # they did race
    if flags:
        assert found["stale"] > 0, found
    else:
        assert found["stale"] == 0, found
        assert found["refused"] > found["overtaken"] / 2, found
        assert found["current"] > 0, found  # and not everything is refused
