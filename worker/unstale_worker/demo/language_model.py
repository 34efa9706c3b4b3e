"""The demo's language model: the choice of a model, and the stand-in process for use without an API key."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from unstale_worker.demo import child
from unstale_worker.demo.reports import ModelReport

OPENAI_MODEL: Final = "gpt-5.4-mini"
CHECK_SECONDS: Final = 5.0
"""Maximum seconds for the real API to accept the key."""


@dataclass(frozen=True, slots=True)
class Model:
    """The model that the agents call.

    Attributes:
        label: Description for display.
        name: Name in the API.
        most_calls: The demo ends after about this many calls; None: calls are free.
        environment: Environment variables that make an agent use it; None: not known until the stand-in runs.
    """

    label: str
    name: str
    most_calls: int | None = None
    environment: dict[str, str] | None = field(default=None, repr=False)


STAND_IN: Final = Model("stand-in, no real model", "stand-in")


async def choose_model(*, most_calls: int, say: Callable[[str], None]) -> Model:
    """Return the real model if ``OPENAI_API_KEY`` is set and accepted, else the stand-in."""
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        return STAND_IN
    from openai import AsyncOpenAI, OpenAIError

    try:
        async with AsyncOpenAI(max_retries=0, timeout=CHECK_SECONDS) as openai:
            await openai.models.list()
    except OpenAIError as error:
        say(
            f"OPENAI_API_KEY is set, but the API failed ({type(error).__name__}): greetings come from the "
            f"{STAND_IN.label}"
        )
        return STAND_IN
    environment = {name: value for name, value in os.environ.items() if name.startswith("OPENAI_")}
    name = os.environ.get("COMPANION_MODEL", OPENAI_MODEL)
    say(
        f"OPENAI_API_KEY is set: {name} writes the greetings, which costs money; the demo ends after about "
        f"{most_calls} calls"
    )
    return Model(f"{name} over its API", name, most_calls, environment)


async def main(stop: asyncio.Event) -> None:
    """Serve the stand-in until ``stop`` is set."""
    from companion.stand_in import StandIn

    async with StandIn() as model:
        child.send(ModelReport(url=model.url))
        await stop.wait()


if __name__ == "__main__":
    child.run(main)
