"""Exit codes, the option ``--json``, and running until a signal, for all commands."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, for programs.")]


def run(work: Callable[[asyncio.Event], Awaitable[int]]) -> None:
    """Run ``work`` until it ends or a signal stops it, and exit with its code."""
    from unstale_worker.runtime.event_loop import run_until_stopped

    raise typer.Exit(run_until_stopped(work))
