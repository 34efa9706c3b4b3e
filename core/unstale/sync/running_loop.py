"""Refuses calls that would block a running event loop."""

import sys
from asyncio.events import _get_running_loop as running_loop
from typing import Final

__all__ = ["refuse_in_event_loop", "running_loop"]

REMEDY: Final = (
    "this call would block the event loop that runs in this thread: use `unstale.Cache` and await it, or "
    "make the call in another thread: `await asyncio.to_thread(...)`"
)


def refuse_in_event_loop() -> None:
    """Raise RuntimeError if an event loop runs in this thread, unless it is that of a notebook.

    A notebook runs each cell inside its event loop, where cells may block.
    """
    if running_loop() is not None and not _in_notebook():
        raise RuntimeError(REMEDY)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
