"""The Python loader of the chaos run's rules: as slow, as late and as unreliable as a model's."""

import asyncio
import os
import random
from pathlib import Path

from chaos.world import Value, load
from unstale import Refresh

_chance = random.Random(f"{os.environ.get('CHAOS_SEED')} {os.environ.get('CHAOS_NAME')} memos")


async def memo(refresh: Refresh) -> Value | None:
    """What the database held when it was read; until its fill there is time to be overtaken."""
    dice = _chance.random()
    await asyncio.sleep(0.05 * dice)
    database = await refresh.pool.postgres()
    value = await load(database, refresh.key)
    dice = _chance.random()
    if dice < 0.02:
        raise ValueError("the model had nothing to say")
    # At times longer than its `timeout`.
    await asyncio.sleep(4.0 if dice < 0.03 else 5 * dice if dice < 0.12 else 0.1 * dice)
    _note()
    return value


def _note() -> None:
    with Path(os.environ["CHAOS_LOADED"]).open("ab") as file:
        file.write(b".")


def loaded(folder: Path, base: str) -> int:
    """How many loads ended well in the processes whose names begin so."""
    return sum(path.stat().st_size for path in folder.glob(f"{base}-*.loaded"))
