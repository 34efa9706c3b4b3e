"""The demo's language model: which one its agents ask, and a process that stands in where there is no key."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.demo import child
from unstale_worker.demo.reports import ModelReport

OPENAI_MODEL: Final = "gpt-5.4-mini"
CHECK_SECONDS: Final = 5.0
"""How long the real API may take to accept the key."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that the agents ask.

    Attributes:
        label: What it is, for everybody to see.
        name: As the API knows it.
        most_calls: The demo ends after about as many calls; None: they cost nothing.
        environment: What makes an agent use it; None: known once the stand-in runs.
    """

    label: str
    name: str
    most_calls: int | None = None
    environment: dict[str, str] | None = field(default=None, repr=False)


STAND_IN: Final = Model("stand-in, no real model", "stand-in")


async def choose_model(*, most_calls: int, say: Callable[[str], None]) -> Model:
    """The real one if ``OPENAI_API_KEY`` is in the environment and accepted, else the stand-in."""
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        return STAND_IN
    from openai import AsyncOpenAI, OpenAIError

    try:
        async with AsyncOpenAI(max_retries=0, timeout=CHECK_SECONDS) as openai:
            await openai.models.list()
    except OpenAIError as error:
        say(f"OPENAI_API_KEY is set, but {type(error).__name__}: greetings come from a {STAND_IN.label}")
        return STAND_IN
    environment = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}
    name = os.environ.get("COMPANION_MODEL", OPENAI_MODEL)
    say(f"OPENAI_API_KEY is set: {name} writes the greetings, for money; the demo ends after {most_calls}")
    return Model(f"{name} by its API", name, most_calls, environment)


async def main(stop: asyncio.Event) -> None:
    """Stand in until ``stop`` is set."""
    from companion.stand_in import StandIn

    async with StandIn() as model:
        child.say(ModelReport(url=model.url))
        await stop.wait()


if __name__ == "__main__":
    child.run(main)
