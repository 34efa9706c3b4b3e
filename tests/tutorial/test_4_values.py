"""Page 4: values. JSON goes in; your own copy, a frozen object or a model comes out."""

import pytest
from pydantic import BaseModel

from unstale import Cache, Load


class Profile(BaseModel):
    name: str
    stage: int = 0


async def test_what_you_get_is_yours_to_change(cache: Cache) -> None:
    mine = await cache.get_or_load("user:42:profile", lambda: {"tags": []})
    mine["tags"].append("changed")
    assert await cache.get("user:42:profile") == {"tags": []}


async def test_a_shared_value_is_faster_and_frozen(cache: Cache) -> None:
    one = await cache.get_or_load("user:42:profile", lambda: {"tags": ["a"]}, shared=True)
    two = await cache.get_or_load("user:42:profile", lambda: {"tags": ["a"]}, shared=True)
    assert one is two
    with pytest.raises(TypeError, match="cannot be changed"):
        one["name"] = "Ada"


async def test_models_are_validated(cache: Cache) -> None:
    profile = await cache.get_or_load("user:42:profile", lambda: Profile(name="Ada"), model=Profile)
    assert profile == Profile(name="Ada", stage=0)


async def test_what_is_not_json_is_refused(cache: Cache) -> None:
    with pytest.raises(TypeError, match="not JSON"):
        await cache.get_or_load("user:42:profile", lambda: object())


async def test_a_loader_hears_whether_a_replica_will_do(cache: Cache) -> None:
    async def load_profile(load: Load) -> dict[str, object]:
        # Read a replica only if `not load.primary`, and only once it has replayed `load.need_lsn`.
        return {"key": load.key, "primary": load.primary}

    profile = await cache.get_or_load("user:42:profile", load_profile, max_staleness=0)
    assert profile == {"key": "user:42:profile", "primary": True}
