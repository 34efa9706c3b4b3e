"""Notice changes of a project's files, by their times and sizes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, TypeAlias

from unstale_worker.dev_servers.project import FOLDER, Project

LOOK_SECONDS: Final = 0.3
State: TypeAlias = dict[Path, tuple[int, int]]


def state_of(rules: Path) -> State:
    """Return time and size of the rules, migrations, seeds and settings that exist."""
    try:
        project = Project.read()
    except Exception:  # its settings are broken: they themselves tell when they change
        project = Project()
    found: State = {}
    for path in (rules, FOLDER / "config.toml", *project.files, *project.seeds):
        try:
            status = path.stat()
        except OSError:
            continue
        found[path] = (status.st_mtime_ns, status.st_size)
    return found


async def changed(rules: Path, before: State) -> State:
    """Wait until the files differ from `before` and stay the same for a moment; return their state."""
    last = before
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(state_of, rules)
        if now == last != before:
            return now
        last = now
