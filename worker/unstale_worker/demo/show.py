"""Run a demo with output: a live view on a terminal, else a line every 2 s; a summary at the end."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.live import Live

from unstale.errors import UnstaleError
from unstale_worker.demo import summary
from unstale_worker.demo.language_model import Model, choose_model
from unstale_worker.demo.reports import World
from unstale_worker.demo.view import View
from unstale_worker.demo.world import Demo, Running
from unstale_worker.runtime.event_loop import run_until_ready, stopped_within

UPDATE_EVERY: Final = 0.25
"""Seconds between two updates of the live view."""
LINE_EVERY: Final = 2.0
"""Seconds between two plain lines."""
PAID_USERS: Final = 30
PAID_RATE: Final = 20.0
"""Users, and changes per second, if each greeting costs money: about two greetings per second."""
NO_TERMINAL_SECONDS: Final = 20.0
"""Duration of a demo without a terminal, where Ctrl-C may not be available."""


async def show(
    world: World,
    *,
    agents: int,
    seconds: float | None,
    json: bool,
    model_calls: int,
    stop: asyncio.Event,
    console: Console,
) -> bool:
    """Run a demo for ``seconds``, or until ``stop`` is set; True if every read was as fresh as promised.

    With a real language model, the demo also ends after about ``model_calls`` calls; the stand-in is free.
    Raises `UnstaleError` if a part of the demo failed.
    """
    if seconds is None and not console.is_terminal:
        seconds = NO_TERMINAL_SECONDS
    model = await choose_model(
        most_calls=model_calls, say=lambda text: console.print(text, highlight=False, soft_wrap=True)
    )
    if model.most_calls is not None:
        world = replace(world, users=PAID_USERS, organizations=3, rate=min(world.rate, PAID_RATE))
    demo = Demo(world, agents=agents, model=model)
    status = console.status("starting") if console.is_terminal else nullcontext()
    with status as spinner:

        def say(text: str) -> None:
            if spinner is not None:
                spinner.update(f"{text} …")
            else:
                console.print(text, highlight=False)

        async def work(ready: Callable[[], None]) -> None:
            async with demo.running(say=say) as running:
                ready()
                if spinner is not None:
                    spinner.stop()
                await _watch(running, demo, model, seconds=seconds, stop=stop, console=console)

        await run_until_ready(work, stop=stop)
    figures = demo.figures
    if figures is None or not figures.changes:
        raise UnstaleError("the demo ended before the first change; let it run longer")
    console.print(summary.table(figures, model=model.label))
    if json:
        console.file.write(summary.as_json(figures, model=model.label) + "\n")
        console.file.flush()
    return figures.consistent


async def _watch(
    running: Running,
    demo: Demo,
    model: Model,
    *,
    seconds: float | None,
    stop: asyncio.Event,
    console: Console,
) -> None:
    """Show the demo until the time is over, it is stopped, the calls are used up, or a part fails."""
    view = View(seconds=seconds, model=model.label)
    ends = time.monotonic() + seconds if seconds is not None else None
    live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else None
    next_line, told = time.monotonic() + LINE_EVERY, False
    with live or nullcontext():
        while not stop.is_set() and not demo.failed.is_set():
            now = time.monotonic()
            if ends is not None and now >= ends:
                return
            figures = running.figures()
            if model.most_calls is not None and figures.changes and figures.model_calls >= model.most_calls:
                return
            view.add(figures)
            if not told and figures.worker is not None and live is None:
                console.print(f"see {figures.worker.url}/", highlight=False, soft_wrap=True)
                told = True
            if live is not None:
                picture = view.picture(
                    figures, news=running.ledger.news(), width=console.width, height=console.height
                )
                live.update(picture, refresh=True)
            elif now >= next_line:
                next_line += LINE_EVERY
                console.print(view.line(figures), highlight=False, soft_wrap=True)
            pause = min(UPDATE_EVERY, ends - now) if ends is not None else UPDATE_EVERY
            await stopped_within(stop, seconds=pause)
