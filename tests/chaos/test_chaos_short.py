"""One minute of chaos, and the same machinery against caches that must not pass."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

TESTS = Path(__file__).parents[1]
SEED = os.environ.get("CHAOS_SEED", "20261122")


async def chaos(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run ``python -m chaos``: exit code, the last line's object, and everything it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chaos", "--json", *arguments,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:  # the test took too long
            process.terminate()
            await process.wait()
    text = said.decode()
    assert process.returncode is not None
    try:
        return process.returncode, orjson.loads(text.splitlines()[-1]), text
    except (IndexError, orjson.JSONDecodeError):
        raise AssertionError(text) from None


@pytest.mark.timeout(300)
async def test_every_promise_is_kept_for_a_minute() -> None:
    code, result, said = await chaos("--minutes", "1", "--seed", SEED)
    assert code == 0, said
    assert (result["stale_reads"], result["lost_changes"], result["wrong_keys"]) == (0, 0, 0), said
    # Something happened, and was looked at.
    assert result["reads"] > 1_000
    assert result["attached_reads"] > result["reads"] / 4
    assert result["changes"] > 1_000
    assert result["final_values"] > 800
    assert result["served_stale_reads"] > 0
    assert result["loads_of_refresh_workers"] > 20
    assert len(result["faults"]) > 15
    assert result["audit"]["observations"]["compared"] > 500
    assert result["audit"]["violations"] == []
    assert result["audit"]["staleness"]["broken_promises"] == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("subject", ["aside", "deaf"])
async def test_a_cache_that_lacks_a_defence_breaks_a_promise(subject: str) -> None:
    code, result, said = await chaos("--minutes", "0.2", "--seed", SEED, "--subject", subject)
    assert code == 1, said
    assert result["stale_reads"] > 0, said
    assert not result["trouble"], said
