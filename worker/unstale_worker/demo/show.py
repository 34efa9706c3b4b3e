"""Runs a demo before an audience: live on a terminal, a line now and then elsewhere, a summary at the end."""

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
from unstale_worker.runtime.event_loop import begun, stopped_within

LOOK_EVERY: Final = 0.25
"""Seconds between two pictures."""
LINE_EVERY: Final = 2.0
"""Seconds between two plain lines."""
PAID_USERS: Final = 30
PAID_RATE: Final = 20.0
"""Users, and changes a second, where each greeting costs money: about two greetings a second."""
UNWATCHED_SECONDS: Final = 20.0
"""How long a demo runs that nobody can end with Ctrl-C."""


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
    """Run it for ``seconds``, or until ``stop`` is set; whether every read was as fresh as promised.

    ``model_calls``: about how often a real language model may be asked before it ends; the stand-in is free.
    Raises `UnstaleError` when a part of the demo failed.
    """
    if seconds is None and not console.is_terminal:
        seconds = UNWATCHED_SECONDS
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

        await begun(work, stop=stop)
    tally = demo.tally
    if tally is None or not tally.changes:
        raise UnstaleError("the demo was ended before anything was changed; let it run for longer")
    console.print(summary.table(tally, model=model.label))
    if json:
        console.file.write(summary.as_json(tally, model=model.label) + "\n")
        console.file.flush()
    return tally.true


async def _watch(
    running: Running,
    demo: Demo,
    model: Model,
    *,
    seconds: float | None,
    stop: asyncio.Event,
    console: Console,
) -> None:
    """Until the time is over, somebody stops it, the model was asked enough, or a part fails."""
    view = View(seconds=seconds, model=model.label)
    ends = time.monotonic() + seconds if seconds is not None else None
    live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else None
    next_line = time.monotonic() + LINE_EVERY
    with live or nullcontext():
        while not stop.is_set() and not demo.failed.is_set():
            now = time.monotonic()
            if ends is not None and now >= ends:
                return
            tally = running.tally()
            if model.most_calls is not None and tally.changes and tally.model_calls >= model.most_calls:
                return
            view.look(tally)
            if live is not None:
                picture = view.picture(
                    tally, news=running.ledger.news(), width=console.width, height=console.height
                )
                live.update(picture, refresh=True)
            elif now >= next_line:
                next_line += LINE_EVERY
                console.print(view.line(tally), highlight=False, soft_wrap=True)
            pause = min(LOOK_EVERY, ends - now) if ends is not None else LOOK_EVERY
            await stopped_within(stop, seconds=pause)
