"""A missing rule is found: one rule deleted at a time, of the companion and of 20 other loaders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from companion.agent import Companion
from companion.stand_in import StandIn
from servers import Database
from unstale import AgentSettings, Cache, ConnectionPool, PoolSettings
from unstale.companion.recording import recorder
from unstale.companion.recording.reading import Observation
from unstale.testing import InMemory
from unstale_worker.demo.example import companion_folder
from unstale_worker.learn.report import Learned, learn, read_recording
from unstale_worker.rules import Rules, TableName

SYNTHETIC = Path(__file__).with_name("synthetic.sql").read_text("utf-8")


@pytest.fixture
def recording(tmp_path: Path) -> Any:
    recorder.start(tmp_path)
    yield tmp_path
    recorder.stop()


def missing(found: Learned) -> set[tuple[str, str]]:
    return {(each.keys, each.table) for each in found.missing}


def without(rules: Rules, number: int) -> Rules:
    """Return the rules without one of their watches."""
    watches = rules.watches[:number] + rules.watches[number + 1 :]
    tables = {key: rules.tables[key] for watch in watches for key in [(watch.table.schema, watch.table.name)]}
    return replace(rules, watches=watches, tables=tables)


async def test_each_deleted_rule_of_the_companion_is_reported(
    database: Database, unstale_cache: InMemory, recording: Path
) -> None:
    rules = Rules.load(companion_folder() / "unstale.toml")
    connection = await asyncpg.connect(database.dsn)
    await connection.execute((companion_folder() / "supabase" / "seed.sql").read_text())
    await connection.close()
    async with (
        StandIn(seconds=(0.0, 0.0)) as model,
        ConnectionPool(
            PoolSettings(database_url=database.dsn, openai_api_key="k", openai_base_url=model.url)
        ) as pool,
        Cache(AgentSettings()) as cache,
    ):
        companion = Companion(cache, pool)
        for user in (1, 2):
            await companion.session(user)
            await companion.knowledge.search(user, "a")
    observations = read_recording(recording)
    assert missing(learn(rules, observations)) == set()
    assert learn(rules, observations).doubts == ()
    # A trigger changes it together with the columns of the rules, which cannot be known.
    assert [(each.table, each.columns) for each in learn(rules, observations).columns] == [
        ("public.memories", ("version",)),  # by the greeting
        ("public.memories", ("version",)),  # by a search
        ("public.organizations", ("version",)),
    ]
    for number, watch in enumerate(rules.watches):
        found = learn(without(rules, number), observations)
        assert {each.table for each in found.missing} == {str(watch.table)}, watch
        # What it proposes is a rule for the same keys.
        proposed = Rules.parse(found.toml)
        assert {each.table for each in proposed.watches} == {watch.table}
        assert {glob for each in proposed.watches for glob in each.patterns} == watch.patterns, found.toml
    learned = Rules.parse(learn(None, observations).toml)
    assert missing(learn(learned, observations)) == set()
    (fanout,) = [watch for watch in learned.watches if watch.query is not None]
    assert fanout.table == TableName("public", "organizations")
    assert fanout.query is not None
    assert fanout.query.normal == Rules.parse(ORGANIZATIONS).watches[0].query.normal  # type: ignore[union-attr]


ORGANIZATIONS = """
[[watch]]
table = "organizations"
keys = ["user:{user_id}:settings"]
query = "select user_id from public.members where org_id = {id}"
"""

Loader = Callable[[ConnectionPool, Cache], Awaitable[object]]


def fetch(statement: str, *arguments: object) -> Loader:
    async def load(pool: ConnectionPool, cache: Cache) -> object:
        rows = await (await pool.postgres()).fetch(statement, *arguments)
        return [list(map(str, row)) for row in rows]

    return load


async def prepared(pool: ConnectionPool, cache: Cache) -> object:
    async with (await pool.postgres()).acquire() as connection:
        statement = await connection.prepare("select body from notes where person_id = $1")
        return [row["body"] for row in await statement.fetch(1)]


async def with_cursor(pool: ConnectionPool, cache: Cache) -> object:
    async with (await pool.postgres()).acquire() as connection, connection.transaction():
        return [row["title"] async for row in connection.cursor("select title from rooms where id = $1", 1)]


async def under_policies(pool: ConnectionPool, cache: Cache) -> object:
    async with (await pool.postgres()).acquire() as connection, connection.transaction():
        await connection.execute("set local role authenticated; set local app.person = '1'")
        secrets = await connection.fetch("select body from secrets where person_id = $1", 1)
        letters = await connection.fetch("select body from letters where person_id = $1", 1)
        return [row["body"] for row in (*secrets, *letters)]


async def in_tasks(pool: ConnectionPool, cache: Cache) -> object:
    postgres = await pool.postgres()
    return await asyncio.gather(
        postgres.fetchval("select name from people where id = $1", 1),
        postgres.fetchval("select points from scores where person_id = $1", 1),
    )


async def of_another_key(pool: ConnectionPool, cache: Cache) -> object:
    name = fetch("select name from people where id = $1", 7)
    return await cache.get_or_load("person:7:plain", lambda: name(pool, cache))


LOADERS: dict[str, tuple[Loader, set[str]]] = {
    "person:1:row": (fetch("select name from people where id = $1", 1), {"people"}),
    "person:1:view": (fetch("select name from named where id = $1", 1), {"people"}),
    "person:1:views": (fetch("select name from named_again where id = $1", 1), {"people"}),
    "person:1:invoked": (fetch("select body from invoked where person_id = $1", 1), {"notes"}),
    "person:1:inlined": (fetch("select body from inlined($1)", 1), {"notes"}),
    "person:1:opaque": (fetch("select opaque(id) from people where id = $1", 1), {"people", "visits"}),
    "person:1:atomic": (fetch("select atomic($1)", 1), {"scores"}),
    "person:1:procedural": (fetch("select procedural($1)", 1), {"rooms", "members"}),
    "person:1:nested": (fetch("select outer_function($1) as value", 1), {"rooms", "members"}),
    "person:1:cte": (
        fetch("with own as materialized (select * from notes where person_id = $1) "
              "select t.tag from own join tags t on t.note_id = own.id", 1),
        {"notes", "tags"},
    ),
    "person:1:recursive": (
        fetch("with recursive known(id) as (select $1::bigint union select f.b from friends f "
              "join known k on f.a = k.id) select id from known", 1),
        {"friends"},
    ),
    "person:1:policies": (under_policies, {"secrets", "grants", "letters", "blocked"}),
    "person:1:partitions": (
        fetch("select what from events where person_id = $1 and day = $2", 1, date(2026, 1, 2)),
        {"events"},
    ),
    "person:1:subqueries": (
        fetch("select (select o.plan from orgs o where o.id = p.org_id), "
              "exists (select from blocked b where b.person_id = p.id) from people p where p.id = $1", 1),
        {"people", "orgs", "blocked"},
    ),
    "person:1:union": (
        fetch("select body from notes where person_id = $1 "
              "union all select body from letters where person_id = $1", 1),
        {"notes", "letters"},
    ),
    "person:1:joins": (
        fetch("select p.name, o.plan, c.name, pr.cents from people p join orgs o on o.id = p.org_id "
              "left join countries c on c.code = o.country left join lateral "
              "(select cents from prices where plan = o.plan) pr on true where p.id = $1", 1),
        {"people", "orgs", "countries", "prices"},
    ),
    "person:1:prepared": (prepared, {"notes"}),
    "room:1:cursor": (with_cursor, {"rooms"}),
    "person:1:tasks": (in_tasks, {"people", "scores"}),
    "person:1:other": (of_another_key, {"people"}),
    "odd:1": (
        fetch('select "Value" from "Odd Table" where "The Id" = any($1::bigint[])', [1]),
        {"Odd Table"},
    ),
    "flags": (fetch("select name from flags where value"), {"flags"}),
    "person:1:partitioned": (
        fetch("select what from visits_by_day where person_id = $1", 1), {"visits_by_day"}
    ),
    "person:1:star": (fetch("select * from people where id = $1", 1), {"people"}),
    "person:1:counted": (fetch("select count(*) from notes where person_id = $1", 1), {"notes"}),
    "person:1:ordered": (fetch("select id from notes where person_id = $1 order by body", 1), {"notes"}),
    "person:1:grouped": (
        fetch("select org_id, max(name) from people where org_id = $1 group by org_id", 1), {"people"}
    ),
    "person:1:expression": (
        fetch("select coalesce(upper(name), 'org_id') || '.org_id'::text from people where id = $1", 1),
        {"people"},
    ),
}  # fmt: skip


def synthetic_rules() -> Rules:
    """Return one rule for each table of each loader; the keys are constant."""
    blocks = [
        f"[[watch]]\ntable = 'public.\"{table}\"'\nkeys = ['{key}']\n"
        for key, (_, tables) in {**LOADERS, "person:7:plain": (None, {"people"})}.items()
        for table in sorted(tables)
    ]
    return Rules.parse("\n".join(blocks))


COLUMNS: dict[str, dict[str, set[str]]] = {
    "person:1:row": {"people": {"name"}},
    "person:1:view": {"people": {"name"}},
    "person:1:views": {"people": {"name"}},
    "person:1:invoked": {"notes": {"person_id", "body"}},
    "person:1:inlined": {"notes": {"person_id", "body"}},
    "person:1:cte": {"notes": {"person_id"}, "tags": {"note_id", "tag"}},
    "person:1:policies": {"secrets": {"person_id", "body"}, "letters": {"person_id", "body"}},
    "person:1:partitions": {},  # without a primary key every change counts
    "person:1:partitioned": {"visits_by_day": {"what"}},
    "person:1:subqueries": {"people": {"org_id"}, "orgs": {"plan"}},
    "person:1:union": {"notes": {"person_id", "body"}, "letters": {"person_id", "body"}},
    "person:1:joins": {
        "people": {"name", "org_id"}, "orgs": {"plan", "country"}, "countries": {"name"}, "prices": {"cents"},
    },
    "person:1:prepared": {"notes": {"person_id", "body"}},
    "room:1:cursor": {"rooms": {"title"}},
    "person:1:tasks": {"people": {"name"}, "scores": {"points"}},
    "person:1:other": {"people": {"name"}},
    "person:7:plain": {"people": {"name"}},
    "odd:1": {"Odd Table": {"Value"}},
    "flags": {"flags": {"value"}},
    "person:1:star": {},
    "person:1:counted": {"notes": {"person_id"}},
    "person:1:ordered": {"notes": {"person_id", "body"}},
    "person:1:grouped": {"people": {"org_id", "name"}},
    "person:1:expression": {"people": {"name"}},
}  # fmt: skip
"""The columns that each loader needs, without those of primary keys; of functions they are not known."""


async def test_each_deleted_rule_of_other_loaders_is_reported(
    database: Database, unstale_cache: InMemory, recording: Path
) -> None:
    """Through views, functions, policies, partitions; false reports are counted over all of them."""
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(SYNTHETIC)
    try:
        async with (
            ConnectionPool(PoolSettings(database_url=database.dsn)) as pool,
            Cache(AgentSettings()) as cache,
        ):
            for key, (load, _) in LOADERS.items():
                await cache.get_or_load(key, lambda load=load: load(pool, cache))
            # What is not run by a loader is not recorded.
            postgres = await pool.postgres()
            await postgres.fetch("select * from orgs, visits")
            left = "select count(*) from pg_prepared_statements where name like 'unstale%'"
            assert await postgres.fetchval(left) == 0
    finally:
        await connection.close()
    observations, rules = read_recording(recording), synthetic_rules()
    false = missing(learn(rules, observations))
    assert len(false) <= 0.05 * len(rules.watches), false
    for number, watch in enumerate(rules.watches):
        found = {(each.key, each.table) for each in learn(without(rules, number), observations).missing}
        assert (watch.keys[0].text, str(watch.table)) in found, watch
    each_column_is_reported(observations)
    learned = learn(None, observations)
    assert not learned.doubts
    # The proposed rules watch everything, but for what a person has to complete.
    rest = learn(Rules.parse(learned.toml), observations)
    assert all(each.toml.startswith("# Name the columns") for each in rest.missing)
    assert {each.keys for each in rest.missing} == {
        f"person:*:{name}" for name in ("recursive", "procedural", "nested", "other", "atomic")
    }


def each_column_is_reported(observations: list[Observation]) -> None:
    """Every column that a loader needs is found, and no other: one at a time is left out of ``columns``."""
    found: dict[str, dict[str, set[str]]] = {key: {} for key in COLUMNS}
    for each in observations:
        for table, columns in each.reading.columns.items():
            found.setdefault(each.key, {}).setdefault(table.name, set()).update(columns)
    assert found == COLUMNS
    for key, tables in COLUMNS.items():
        own = [each for each in observations if each.key == key]
        for name, needed in tables.items():
            for left in needed:
                kept = sorted(needed - {left}) or ["another"]
                rule = f"[[watch]]\ntable = 'public.\"{name}\"'\nkeys = ['{key}']\ncolumns = {kept}\n"
                (reported,) = learn(Rules.parse(rule), own).columns
                assert reported.columns == (left,), (key, name)
                assert f" reads {left} of {reported.table}, which columns of its rules" in str(reported)
                ignoring = f"[learn]\nignore_columns = ['{reported.table}.{left}']\n"
                assert f"name {reported.table}.{left} in ignore_columns" in reported.remedy
                for more in (f"columns = {[*kept, left]}\n", "", f"columns = {kept}\n{ignoring}"):
                    whole = Rules.parse(rule.replace(f"columns = {kept}\n", more))
                    assert learn(whole, own).columns == ()


async def test_a_rule_with_a_tag_covers_the_keys_under_it(
    database: Database, unstale_cache: InMemory, recording: Path
) -> None:
    """No row can name the key of a search, so the rule that is proposed names the tag."""
    connection = await asyncpg.connect(database.dsn)
    await connection.execute("create table notes (id bigint primary key, owner bigint, body text)")
    await connection.close()
    async with (
        ConnectionPool(PoolSettings(database_url=database.dsn)) as pool,
        Cache(AgentSettings()) as cache,
    ):

        async def search() -> object:
            postgres = await pool.postgres()
            sql = "select id from notes where owner = $1 and body = $2"
            return len(await postgres.fetch(sql, 7, "tea"))

        async def many(keys: list[str]) -> dict[str, object]:
            return dict.fromkeys(keys, await search())

        await cache.get_or_load("search:7:tea", search, tags=["owner:7:notes", "searches"])
        await cache.get_many(["search:8:tea"], many, tags=["owner:7:notes"])
    observations = read_recording(recording)
    assert {each.key for each in observations} == {"search:7:tea", "search:8:tea"}
    rule = "[[watch]]\ntable = 'public.notes'\n"
    for names in ("tags = ['owner:{owner}:notes']", "tags = ['searches', 'owner:{owner}:notes']"):
        assert missing(learn(Rules.parse(rule + names), observations)) == set(), names
    for names in ("tags = ['owner:{owner}:letters']", "keys = ['owner:{owner}:notes']"):
        found = learn(Rules.parse(rule + names), observations)
        assert {each.table for each in found.missing} == {"public.notes"}, names
        assert 'tags  = ["owner:{owner}:notes"]' in found.toml
        assert missing(learn(Rules.parse(found.toml), observations)) == set()
