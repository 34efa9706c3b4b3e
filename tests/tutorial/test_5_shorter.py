"""Page 5: the same, shorter: a decorator, many keys at once, and early refresh."""

from pathlib import Path

import asyncpg
from pydantic import BaseModel

from unstale import Cache

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"


class Profile(BaseModel):
    id: int
    name: str


async def test_a_function_behind_the_cache(cache: Cache, db: asyncpg.Connection) -> None:
    @cache.cached("user:{user_id}:profile")
    async def profile(user_id: int) -> Profile | None:
        row = await db.fetchrow("select * from profiles where id = $1", user_id)
        return None if row is None else Profile(**row)

    assert await profile(42) == Profile(id=42, name="Ada")
    assert await profile(7) is None  # not found is an answer, too

    async with cache.subscribe("user:*") as events:
        await db.execute("insert into profiles values (7, 'Grace')")
        await anext(events)
    assert await profile(7) == Profile(id=7, name="Grace")


async def test_many_keys_at_once(cache: Cache, db: asyncpg.Connection) -> None:
    async with cache.subscribe("user:100:*") as events:
        await db.execute("insert into profiles select n, 'user ' || n from generate_series(100, 104) as n")
        await anext(events)
    asked: list[str] = []

    async def load_profiles(keys: list[str]) -> dict[str, Profile]:
        asked.extend(keys)
        ids = [int(key.split(":")[1]) for key in keys]
        rows = await db.fetch("select * from profiles where id = any($1)", ids)
        return {f"user:{row['id']}:profile": Profile(**row) for row in rows}

    keys = [f"user:{n}:profile" for n in range(100, 106)]
    for _ in range(2):
        profiles = await cache.get_many(keys, load_profiles, model=Profile)
        assert profiles["user:101:profile"] == Profile(id=101, name="user 101")
        assert profiles["user:105:profile"] is None
    assert sorted(asked) == keys  # each once, and not again


async def test_the_pages_code_runs(cache: Cache) -> None:
    """The example in docs/agent.md under "Shorter"."""
    code = PAGE.read_text().partition("### Shorter")[2].partition("```python\n")[2].partition("```")[0]
    calls = 0

    async def load_profile(user_id: int) -> dict[str, object]:
        nonlocal calls
        calls += 1
        return {"name": f"user {user_id}"}

    body = "\n".join("    " + line for line in code.splitlines())
    scope: dict[str, object] = {"cache": cache, "load_profile": load_profile}
    exec(f"async def run():\n{body}\n    return Profile, await profile(42)", scope)
    run: object = scope["run"]
    model, found = await run()  # type: ignore[operator]  # made by exec
    assert found == model(name="user 42")
    assert calls == 3  # the first, the fresh one, and after the invalidation
