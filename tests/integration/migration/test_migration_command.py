"""``unstale migration``: the files it writes, and what a real Postgres makes of them."""

from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from servers import Database
from unstale.errors import ConfigurationError
from unstale_worker.dev_servers import apply_migrations, migrations_folder
from unstale_worker.fanout.queries import check_queries
from unstale_worker.migration.writer import WrittenMigration, write_migration
from unstale_worker.refresh.sql.sql_loading import Statements, check, load
from unstale_worker.rules import Rules

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

PROFILES = '[[watch]]\ntable = "profiles"\nkeys = ["user:{id}:profile"]\n'
MEMORIES = '[[watch]]\ntable = "memories"\nkeys = ["user:{user_id}:memories"]\ncolumns = ["content"]\n'
FLAGS = '[[watch]]\ntable = "flags"\nkeys = ["app:flags"]\n'
ODD = r"""
[[watch]]
table = "public.\"Odd 'Table\""
keys = ['odd:{"The ""Id"}']
[[watch]]
table = "organizations"
keys = ["user:{userId}:settings"]
query = "select u.\"userId\" from public.\"Members, \\ $$ 'all'\" as u where u.org_id = {id}"
"""
TABLES = r"""
create table public.profiles (id bigint primary key, name text);
create table public.memories (id bigint primary key, user_id uuid, content text);
create table public.flags (name text primary key, value bool);
create table public.organizations (id bigint primary key);
create table public."Odd 'Table" ("The ""Id" text);
create table public."Members, \ $$ 'all'" (org_id bigint, "userId" bigint);
alter table public."Members, \ $$ 'all'" enable row level security;
insert into public."Members, \ $$ 'all'" values (1, 11);
"""


def write(folder: Path, text: str, **options: object) -> WrittenMigration:
    options = {"base": migrations_folder(), "now": NOW} | options
    return write_migration(Rules.parse(text), folder, **options)  # type: ignore[arg-type]  # a bag of options


def written(result: WrittenMigration) -> str:
    assert result.path is not None
    return result.path.read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "supabase" / "migrations"


# --- the files ------------------------------------------------------------------------------------


def test_the_first_file_comes_after_our_own_migrations(folder: Path) -> None:
    result = write(folder, PROFILES)
    names = sorted(path.name for path in folder.iterdir())
    assert [path.name for path in result.base] == names[:-1]
    assert [path.read_text() for path in result.base] == [
        path.read_text() for path in sorted(migrations_folder().glob("*.sql"))
    ]
    assert result.path is not None
    assert result.path.name == names[-1]
    assert names[-1].endswith("_unstale_watches.sql")
    assert "select unstale.watch('public.profiles'::regclass, keys => array['id']::text[]" in written(result)


def test_nothing_changed_writes_nothing(folder: Path) -> None:
    write(folder, PROFILES + ODD)
    before = sorted(folder.iterdir())
    for same in (PROFILES + ODD, "# a comment\n" + ODD + PROFILES, PROFILES + ODD + '[ttl]\n"user:*" = 9\n'):
        assert write(folder, same).unchanged
    assert sorted(folder.iterdir()) == before
    # Another key of the same column needs no other capture either.
    assert write(folder, PROFILES + PROFILES.replace("user", "u") + ODD).unchanged


def test_no_rules_need_no_file(folder: Path) -> None:
    assert write(folder, "", base=None).unchanged
    assert not folder.exists()


def test_a_file_says_only_what_is_new(folder: Path) -> None:
    write(folder, PROFILES + MEMORIES)
    result = write(folder, PROFILES + MEMORIES.replace('"content"', '"content", "mood"'))
    assert [str(table) for table in result.watched] == ["public.memories"]
    assert "profiles" not in written(result)
    assert "array['content', 'mood']" in written(result)
    again = write(folder, PROFILES + MEMORIES, everything=True)
    assert [str(table) for table in again.watched] == ["public.memories", "public.profiles"]


def test_what_no_rule_names_any_more_is_unwatched_and_closed(folder: Path) -> None:
    write(folder, PROFILES + ODD)
    result = write(folder, PROFILES)
    assert [str(table) for table in result.unwatched] == ['public."Odd \'Table"', "public.organizations"]
    assert [table.name for table in result.closed] == ["Members, \\ $$ 'all'"]
    assert not result.watched
    assert write(folder, PROFILES).unchanged


def test_branches_that_each_wrote_a_file_add_up(folder: Path, tmp_path: Path) -> None:
    write(folder, PROFILES)
    other = tmp_path / "other"
    theirs = write(other, MEMORIES, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert theirs.path is not None
    theirs.path.rename(folder / theirs.path.name)
    merged = write(folder, PROFILES + MEMORIES)
    assert not merged.watched  # both are watched already; only the hash is put right
    assert [str(table) for table in write(folder, PROFILES).unwatched] == ["public.memories"]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ("20200101000000_init.sql", "20261122120000"),
        ("0001_init.sql", "20261122120000"),
        ("20261122115959_init.sql", "20261122120000"),
        ("20261122120000_init.sql", "20261122120001"),
        ("20291231235959_init.sql", "20300101000000"),
        ("20291399000000_odd.sql", "20291399000001"),
        ("99991231235959_end.sql", "99991231235960"),
        ("202611221200001234_long.sql", "202611221200001235"),
        ("99999999999999_x.txt", "20261122120000"),
        ("readme.md", "20261122120000"),
    ],
)
def test_the_new_file_sorts_after_every_other(folder: Path, there: str, expected: str) -> None:
    folder.mkdir(parents=True)
    (folder / there).touch()
    result = write(folder, PROFILES, base=None)
    assert result.path is not None
    assert result.path.name == f"{expected}_unstale_watches.sql"


def test_our_own_migrations_get_later_digits_where_theirs_would_come_too_early(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "20270101000000_users_own.sql").touch()
    result = write(folder, PROFILES)
    names = [path.name for path in result.base]
    assert names[0].startswith("20270101000001_")
    assert names == sorted(names)
    assert result.path is not None
    assert result.path.name > names[-1]
    assert write(folder, PROFILES).unchanged  # and they are known again under their new digits


def test_the_file_explains_itself(folder: Path) -> None:
    text = written(write(folder, PROFILES + ODD))
    header = text[: text.index("\nselect")]
    for word in ("What:", "Why:", "Locks:", "Undo:", "unstale.toml", "-- unstale: rules "):
        assert word in header


def test_a_query_that_calls_a_function_is_doubted_until_reads_says_more(folder: Path) -> None:
    rule = '[[watch]]\ntable = "t"\nkeys = ["u:{u}"]\nquery = "select u from app.members_of({id}) as m"\n'
    result = write(folder, rule)
    assert "app.members_of may read other tables" in written(result)
    assert len(result.doubts) == 1
    stated = write(folder, rule + 'reads = ["app.members"]\n')
    assert [str(table) for table in stated.opened] == ["app.members"]
    assert not stated.doubts


MADE_NEW = """
[refresh."user:{id}:profile"]
loader = "row"
table = "public.people"
key = "id"
[refresh."user:{id}:memories"]
loader = "sql"
query = "select jsonb_agg(m.content) as value from memories m join digest({id}) d on d = m.id"
"""


def test_what_loaders_read_is_opened_and_closed_again(folder: Path) -> None:
    result = write(folder, PROFILES + MEMORIES + MADE_NEW)
    assert [str(table) for table in result.opened] == ["public.memories", "public.people"]
    (doubt,) = result.doubts
    assert doubt.startswith("Refresh of user:{id}:memories (line 13): the function digest")
    again = write(folder, PROFILES + MEMORIES + MADE_NEW + 'reads = ["memories", "digests"]\n')
    assert [str(table) for table in again.opened] == ["public.digests"]
    assert again.doubts == ()
    python = '[refresh."user:{id}:profile"]\nloader = "app:profile"\n'
    assert [str(table) for table in write(folder, PROFILES + MEMORIES + python).closed] == [
        "public.digests",
        "public.memories",
        "public.people",
    ]


def test_what_cannot_be_used_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a valid migration name"):
        write(folder, PROFILES, name="a/b")
    result = write(folder, PROFILES, name="caches")
    assert result.path is not None
    assert result.path.name.endswith("_caches.sql")
    result.path.write_text(written(result).replace('["public", "profiles"', '["public", '))
    with pytest.raises(ConfigurationError, match="header written by unstale was changed"):
        write(folder, PROFILES)


# --- on a real Postgres ---------------------------------------------------------------------------


async def watched(connection: asyncpg.Connection) -> dict[str, tuple[list[str], list[str] | None]]:
    rows = await connection.fetch(
        "select table_name, key_columns, columns from unstale.watched where state = 'watched'"
    )
    return {row["table_name"]: (row["key_columns"], row["columns"]) for row in rows}


@pytest.mark.usefixtures("migrated_template")  # gives the worker's role its password
async def test_the_files_do_what_the_rules_say(empty_database: Database, folder: Path) -> None:
    owner = await asyncpg.connect(empty_database.dsn)
    await owner.execute(TABLES)
    rules = PROFILES + MEMORIES + FLAGS + ODD
    first = write(folder, rules)
    await apply_migrations(empty_database.dsn, folder)
    assert await watched(owner) == {
        "profiles": (["id"], None),
        "memories": (["user_id"], ["content"]),
        "flags": (["name"], None),  # a constant key: the primary key stands for a change
        "organizations": (["id"], None),
        "Odd 'Table": (['The "Id'], None),
    }
    for _ in range(2):  # running a file again is harmless
        await owner.execute(written(first))
    assert len(await watched(owner)) == 5

    # A worker with the least rights sees all rows of what its queries read, row level security or not.
    worker = await asyncpg.connect(
        empty_database.worker_dsn, server_settings={"row_security": "off", "search_path": ""}
    )
    assert await check_queries(worker, Rules.parse(rules)) == []
    await worker.close()

    second = write(folder, FLAGS)
    await owner.execute("drop table public.memories")
    await apply_migrations(empty_database.dsn, folder)
    await owner.execute(written(second))
    assert await watched(owner) == {"flags": (["name"], None)}
    assert not await owner.fetch("select from pg_policies where policyname = 'unstale_worker_reads'")
    members = "public.\"Members, \\ $$ 'all'\""
    assert not await owner.fetchval("select has_table_privilege('unstale_worker', $1, 'select')", members)
    await owner.close()


async def test_a_loader_reads_what_was_opened_to_it(database: Database, folder: Path) -> None:
    """As the worker's own role, under row level security; before the file it is told that it cannot."""
    text = PROFILES + ('[refresh."user:{id}:profile"]\nloader = "row"\ntable = "profiles"\nkey = "id"\n')
    owner = await asyncpg.connect(database.dsn)
    await owner.execute("create table public.profiles (id bigint primary key, name text)")
    await owner.execute("alter table public.profiles enable row level security")
    await owner.execute("insert into public.profiles values (7, 'Ada')")
    (spec,) = Rules.parse(text).refreshes
    worker = await asyncpg.connect(database.worker_dsn)
    try:
        assert "unstale migration" in (await check(worker, Statements(pooled=False), spec) or "")
        await owner.execute(written(write(folder, text)))
        assert await check(worker, Statements(pooled=False), spec) is None
        loaded = await load(worker, Statements(pooled=False), spec, ["user:7:profile"])
        assert loaded.values == {"user:7:profile": b'{"id": 7, "name": "Ada"}'}
    finally:
        await worker.close()
        await owner.close()


async def test_a_query_on_what_is_not_there_warns_and_a_view_is_only_granted(
    database: Database, folder: Path
) -> None:
    owner = await asyncpg.connect(database.dsn)
    await owner.execute(
        "create table public.profiles (id bigint primary key); create view public.people as select 1 as id"
    )
    heard: list[str] = []
    owner.add_log_listener(lambda _, message: heard.append(str(message)))
    query = "query = 'select p.id from people p join nowhere n on n.id = {id}'\n"
    await owner.execute(written(write(folder, PROFILES + query, base=None)))
    assert any("nowhere, which does not exist" in line for line in heard)
    assert await owner.fetchval("select has_table_privilege('unstale_worker', 'public.people', 'select')")
    await owner.close()
