"""An application with caches at module level: one for async code, one for threads."""

from pydantic import BaseModel

import unstale.sync
from unstale import Cache

cache = Cache.from_env()
blocking_cache = unstale.sync.Cache.from_env()

PEOPLE = {42: "Ada"}
"""Stands in for a table."""


class Profile(BaseModel):
    name: str


@cache.cached("user:{user_id}:profile")
async def profile(user_id: int) -> Profile | None:
    name = PEOPLE.get(user_id)
    return None if name is None else Profile(name=name)


async def rename(user_id: int, name: str) -> None:
    PEOPLE[user_id] = name
    await profile.invalidate(user_id)


@blocking_cache.cached("user:{user_id}:greeting", ttl=60)
def greeting(user_id: int) -> str:
    return f"Hello {PEOPLE[user_id]}"
