"""An embedded worker without Redis checks the captures too, and drops near copies until they are repaired."""

import logging

import pytest

from servers import Database, eventually
from servers.both_sources import KINDS, way
from unstale_worker.captures import monitor
from unstale_worker.rules import TableName
from workers import SCHEMA, connected
from workers.no_redis import alone, follower_of

KEY = "user:1:profile"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_broken_capture_is_said_and_near_copies_are_dropped_until_it_is_repaired(
    plain_database: Database, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("CHECK_EVERY", "REPEAT_EVERY", "LEAST_PAUSE"):
        monkeypatch.setattr(monitor, name, 0.1)
    caplog.set_level(logging.INFO, "unstale")
    table = TableName("public", "profiles")
    async with connected(plain_database.dsn) as db, way(kind, plain_database) as there:
        await db.execute(SCHEMA)
        await db.execute("insert into profiles values (1, 'old')")
        settings = dict(there.settings)
        async with alone(settings.pop("database_url"), **settings) as cache:

            async def name_now() -> str | None:
                name: str | None = await cache.get_or_load(
                    KEY, lambda: db.fetchval("select name from profiles where id = 1")
                )
                return name

            assert await name_now() == "old"
            follower = follower_of(cache)
            await db.execute("alter table profiles disable trigger unstale_1_update")
            await eventually(lambda: table in follower.coverage.broken)
            for name in ("new", "newer"):
                await db.execute("update profiles set name = $1 where id = 1", name)

                async def seen(wanted: str = name) -> bool:
                    return await name_now() == wanted

                await eventually(seen, message="the change is seen, although nothing captures it")
            await db.execute("select unstale.watch('public.profiles', '{id}')")
            await eventually(lambda: not follower.coverage.broken)
    assert sum("may go unreported" in record.message for record in caplog.records) == 1
    assert sum("whole again" in record.message for record in caplog.records) == 1
