"""Loaders that tests name in their rules: they count their calls, and behave as a test says."""

import asyncio
from collections import Counter

import httpx2
import openai

from unstale import Refresh

calls: Counter[str] = Counter()
"""Calls of each key."""
mood: dict[str, str] = {}
"""What the loader does for a key: ``fail``, ``hang``, ``refuse`` (once), ``wait`` (until `opened`)."""
running = most_running = 0
opened = asyncio.Event()


def reset() -> None:
    """Forget all calls and moods; call it when a test begins."""
    global running, most_running, opened
    calls.clear()
    mood.clear()
    running = most_running = 0
    opened = asyncio.Event()


async def greeting(refresh: Refresh) -> dict[str, object]:
    """Return a greeting with the name that the database has when the loader begins."""
    global running, most_running
    calls[refresh.key] += 1
    running += 1
    most_running = max(most_running, running)
    try:
        database = await refresh.pool.postgres()
        user = int(refresh.key.split(":")[1])
        name = await database.fetchval("select name from public.profiles where id = $1", user)
        await _behave(refresh.key)
        return {"greeting": f"Hello {name}", "call": calls[refresh.key]}
    finally:
        running -= 1


async def summary(refresh: Refresh) -> dict[str, object]:
    """Another value than `greeting` returns."""
    calls[refresh.key] += 1
    return {"summary": refresh.key}


async def _behave(key: str) -> None:
    match mood.get(key):
        case "fail":
            raise ValueError("no idea what to say")
        case "hang":
            await asyncio.Event().wait()
        case "refuse":
            del mood[key]
            request = httpx2.Request("POST", "http://localhost/v1/chat/completions")
            response = httpx2.Response(429, headers={"retry-after-ms": "700"}, request=request)
            raise openai.RateLimitError("slow down", response=response, body=None)
        case "wait":
            await opened.wait()
        case _:
            await asyncio.sleep(0.02)


not_async = len


async def no_argument() -> None:
    """Cannot be called with a refresh."""
