"""Rows and models are read back equal by every reader, or refused before they are stored."""

from datetime import datetime

import asyncpg
import pytest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from servers import Database
from unstale import Cache
from unstale_worker.dev_servers import EmbeddedValkey
from workers.double import attached_cache


class Profile(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    display_name: str
    current_plan: str = "free"


class Secretive(BaseModel):
    plan: str = Field("free", exclude=True)


async def test_a_model_with_aliases_is_the_same_for_every_reader(
    cache: Cache, valkey: EmbeddedValkey
) -> None:
    ada = Profile(displayName="Ada", currentPlan="pro")
    assert await cache.get_or_load("user:1:profile", lambda: ada, model=Profile) == ada
    assert await cache.get("user:1:profile", model=Profile) == ada
    async with attached_cache(valkey.url) as other:
        assert await other.get("user:1:profile", model=Profile) == ada


async def test_a_value_that_would_be_read_back_different_is_not_stored(cache: Cache) -> None:
    for read in (
        cache.get_or_load("user:1:profile", lambda: Secretive(plan="pro"), model=Secretive),
        cache.get_many(
            ["user:1:profile"], lambda keys: {key: Secretive(plan="pro") for key in keys}, model=Secretive
        ),
    ):
        with pytest.raises(TypeError, match=r"'user:1:profile'.*Secretive\.plan"):
            await read
        assert await cache.get("user:1:profile", default="none") == "none"


async def test_set_refuses_what_get_would_read_back_different(cache: Cache) -> None:
    with pytest.raises(TypeError, match=r"Secretive\.plan"):
        await cache.set("state", Secretive(plan="pro"))
    await cache.set("state", Secretive(plan="pro").model_dump(mode="json"))


async def test_a_cached_function_refuses_it_too(cache: Cache) -> None:
    @cache.cached("user:{user_id}:plan")
    async def plan(user_id: int) -> list[Secretive]:
        return [Secretive(plan="pro")]

    with pytest.raises(TypeError, match=r"\[0\]\.plan"):
        await plan(1)


async def test_rows_of_every_common_column_type_are_cached(cache: Cache, database: Database) -> None:
    connection = await asyncpg.connect(database.dsn)
    row = await connection.fetchrow(
        "select gen_random_uuid() as id, 1.50::numeric as price, interval '1 day 2 hours' as took,"
        " inet '10.0.0.1' as address, cidr '10.0.0.0/8' as network, date '2024-05-17' as day,"
        " time '01:02' as clock, timetz '01:02+00' as clocktz, timestamp '2024-05-17 01:02' as at,"
        " timestamptz '2024-05-17 01:02+00' as attz, point '(1,2)' as place, array[1, null] as numbers,"
        " jsonb '{\"a\": 1}' as document, 'NaN'::numeric as wild, row(1, 'a') as pair"
    )
    await connection.close()
    assert row is not None
    expected = {
        "id": str(row["id"]),
        "price": "1.50",
        "took": "P1DT2H",
        "address": "10.0.0.1",
        "network": "10.0.0.0/8",
        "day": "2024-05-17",
        "clock": "01:02:00",
        "clocktz": "01:02:00+00:00",
        "at": "2024-05-17T01:02:00",
        "attz": "2024-05-17T01:02:00+00:00",
        "place": [1.0, 2.0],
        "numbers": [1, None],
        "document": '{"a": 1}',
        "wild": "NaN",
        "pair": [1, "a"],
    }
    for key, value in (("row:1", row), ("row:2", dict(row)), ("row:3", [row])):
        found = await cache.get_or_load(key, lambda value=value: value)
        assert found == ([expected] if isinstance(value, list) else expected)


async def test_a_row_is_validated_into_its_model(cache: Cache, database: Database) -> None:
    class Row(BaseModel):
        id: int
        at: datetime

    connection = await asyncpg.connect(database.dsn)
    row = await connection.fetchrow("select 1 as id, now() as at")
    twice = await connection.fetchrow("select 1 as id, 2 as id")
    await connection.close()
    assert row is not None
    assert await cache.get_or_load("row:1", lambda: row, model=Row) == Row(id=1, at=row["at"])
    with pytest.raises(TypeError, match="two columns 'id'"):
        await cache.get_or_load("row:2", lambda: twice)


@pytest.mark.parametrize("select", ["int4range(1, 3)", "'\\x00'::bytea", "bit '101'"])
async def test_columns_without_a_json_form_are_refused(cache: Cache, database: Database, select: str) -> None:
    connection = await asyncpg.connect(database.dsn)
    row = await connection.fetchrow(f"select {select} as value")
    await connection.close()
    assert row is not None
    with pytest.raises(TypeError, match="'row:1' is a Record that is not JSON"):
        await cache.get_or_load("row:1", lambda: row)
