"""Asks several servers the same question at the same time, and stops when enough of them have answered."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from redis.asyncio.connection import Connection, SSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from unstale.runtime.cancellation import cancelled

SHARE: Final = 0.5
"""Share of the connect timeout that asking for the primary may take; the rest is for the primary."""

Place = tuple[str, int]
"""Host and port."""
A = TypeVar("A")


class NoPrimary(RedisConnectionError):
    """There is no primary to connect to; the text is a complete sentence with its remedy."""


@dataclass(frozen=True, slots=True)
class Asked(Generic[A]):
    """The answers that came in time.

    Attributes:
        answers: One of each server that answered, in the order in which they came.
        problems: The problems of the others in words, each once.
    """

    answers: Sequence[A]
    problems: Sequence[str]


async def ask_all(
    places: Sequence[Place],
    ask: Callable[[str, int], Awaitable[A | str]],
    *,
    enough: Callable[[Sequence[A]], bool],
    seconds: float,
) -> Asked[A]:
    """Ask every server, until the answers are enough, all have answered, or ``seconds`` are over.

    ``ask`` returns an answer, or a server's problem in words.
    """

    async def one(place: Place) -> A | str:
        return await ask(*place)

    answers: list[A] = []
    problems: list[str] = []
    asked = {asyncio.create_task(one(place), name="unstale-ask") for place in places}
    waiting = set(asked)
    try:
        until = asyncio.get_running_loop().time() + seconds
        while waiting and not enough(answers):
            left = until - asyncio.get_running_loop().time()
            done, waiting = await asyncio.wait(
                waiting, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                found = task.result()
                problems.append(found) if isinstance(found, str) else answers.append(found)
            if not done:
                break
    finally:
        for task in asked:
            await cancelled(task)
    shown = sorted(set(problems))
    if waiting:
        shown.append(f"{len(waiting)} did not answer within {seconds:g} s")
    return Asked(answers, shown)


async def question(place: Place, options: dict[str, Any], tls: bool, seconds: float, *words: str) -> Any:
    """Send one command over a connection of its own; raises redis-py's errors."""
    kind = SSLConnection if tls else Connection
    connection = kind(
        **{**options, "host": place[0], "port": place[1]}, protocol=2, retry=Retry(NoBackoff(), 0),
        socket_timeout=None, socket_connect_timeout=seconds, driver_info=None,
    )  # fmt: skip
    try:
        await connection.connect()
        await connection.send_command(*words)
        return await connection.read_response(timeout=math.inf)
    finally:
        await connection.disconnect(nowait=True)
