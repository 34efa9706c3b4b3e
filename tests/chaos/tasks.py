"""Says on SIGUSR1 what every task of this process waits for: where a process hangs, nothing else does."""

import asyncio
import gc
import signal
import sys
from types import CoroutineType
from typing import Any

DEEPEST = 40


def tell_on_signal() -> None:
    """Write to stderr, whatever the event loop does meanwhile."""

    def tell(*_: object) -> None:
        pending = [each for each in gc.get_objects() if isinstance(each, asyncio.Task) and not each.done()]
        lines = [line for task in pending for line in _told(task)]
        sys.stderr.write("\n".join([f"{len(pending)} tasks wait:", *lines, ""]))
        sys.stderr.flush()

    signal.signal(signal.SIGUSR1, tell)


def _told(task: asyncio.Task[Any]) -> list[str]:
    lines = [f"{task.get_name()}, cancelled {task.cancelling()} times"]
    waits: Any = task.get_coro()
    while waits is not None and len(lines) < DEEPEST:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        if frame is None:
            lines.append(f"    {waits!r}"[:300])
        else:
            lines.append(f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
        waits = waits.cr_await if isinstance(waits, CoroutineType) else getattr(waits, "gi_yieldfrom", None)
    return lines
