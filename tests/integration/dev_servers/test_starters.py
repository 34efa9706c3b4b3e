"""Schemas of the kinds that public starters have run as they are, each in a database of its own."""

from __future__ import annotations

import hashlib
import hmac
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from servers import run_apart
from unstale_worker.dev_servers import EmbeddedPostgres
from unstale_worker.dev_servers.project import Project
from unstale_worker.dev_servers.running_sql import SqlFileError
from unstale_worker.dev_servers.server_stack import set_up

STARTERS = Path(__file__).with_name("starters")
TEMPLATE = "template_supabase"
ADA = "11111111-1111-4111-8111-111111111111"
NEW_USER = (
    "insert into auth.users (id, email, raw_user_meta_data) values ($1, 'a@b.c', '{\"full_name\": \"Ada\"}')"
)

# What each starter must have made: a query, and its answer.
MADE: dict[str, list[tuple[str, object]]] = {
    "todos": [("select count(*) from pg_policies where tablename = 'todos'", 3)],
    "profiles": [
        ("select full_name from profiles", "Ada"),
        ("select storage.foldername('a/b/c.tar.gz')", ["a", "b"]),
        ("select storage.filename('a/b/c.tar.gz')", "c.tar.gz"),
        ("select storage.extension('a/b/c.tar.gz')", "gz"),
        ("select path_tokens from storage.objects", ["a", "b.png"]),
    ],
    "chat_rooms": [
        ("select count(*) from pg_publication_tables where pubname = 'supabase_realtime'", 2),
        ("select custom_access_token_hook('{\"claims\": {}}') ->> 'claims'", '{"user_role": null}'),
    ],
    "broadcast": [
        ("select array_agg(event order by event) from realtime.messages", ["INSERT", "greeting"]),
        ("select payload -> 'record' ->> 'content' from realtime.messages where event = 'INSERT'", "hi"),
    ],
    "subscriptions": [
        ("select 'paused' = any (enum_range(null::subscription_status)::text[])", True),
        ("select indisvalid from pg_index where indexrelid = 'subscriptions_user'::regclass", True),
    ],
    "embeddings": [("select content from match_documents('[1,0.1,0]', 1)", "hello")],
    "organizations": [("select current_org()", None), ("select private.has_role($1, '{owner}')", False)],
    "jobs": [
        ("select count(*) from cron.job", 1),
        ("select count(*) from supabase_functions.hooks", 1),
        ("select decrypted_secret from vault.decrypted_secrets where name = 'service_key'", "a-key"),
        ("select net.http_post('https://x.example', '{}') is not null", True),
        ("select count(*) from net.http_request_queue", 1),
    ],
    "extensions": [
        ("select slug::text from articles", "deja-vu"),
        ("select digest from articles", hashlib.sha1(b"abc").digest()),
        ("select length(secret) from articles", 32),
    ],
    "events": [
        ("select count(*) from events_per_day", 40),
        ("select count(*) from events_2026_11", 15),
        ("select to_regclass('events_2027_01') is not null", True),
    ],
    "search": [
        ("select title from books where fts @@ to_tsquery('english', 'rabbit')", "The Tale of Peter Rabbit"),
        ("select count(*) from search_books('Pupp')", 1),
    ],
    "dumped": [
        ("select to_regclass('public.after_dump') is not null", True),
        ("select body from notes where id = 1", "one; two\nthree 'quoted' $$ -- not a comment"),
        ("select raw_user_meta_data ->> 'name' from auth.users where email like 'ada%'", 'Ada; "the" first'),
        ("select email from auth.identities", "ada@example.com"),
        ("select nextval('notes_id_seq')", 3),
        ("select last_value from auth.refresh_tokens_id_seq", 7),
        ("select state::text from notes where owner_id not in (select id from auth.users)", "published"),
    ],
    "passwords": [("select email from people", "grace@example.com")],
}  # fmt: skip


@asynccontextmanager
async def connected(server: EmbeddedPostgres, database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.dsn(database=database))
    try:
        yield connection
    finally:
        await connection.close()


async def created(server: EmbeddedPostgres, name: str, *, template: str = TEMPLATE) -> None:
    connection = await asyncpg.connect(server.superuser_dsn)
    try:
        await connection.execute(f"create database {name} owner postgres template {template}")
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def platform() -> Iterator[EmbeddedPostgres]:
    """A server whose template is an empty Supabase project with unstale's migrations."""
    server = EmbeddedPostgres(settings={"fsync": "off"}, supabase=True)
    run_apart(server.__aenter__())
    try:
        run_apart(server.create_supabase_roles())
        run_apart(created(server, TEMPLATE, template="template1"))
        run_apart(set_up(server, Project(), database=TEMPLATE))
        yield server
    finally:
        run_apart(server.close())


def project(folder: Path, name: str) -> Project:
    """A project with one starter; its text is encoded and its lines end as on another machine."""
    (folder / "migrations").mkdir(parents=True)
    text = (STARTERS / f"{name}.sql").read_text()
    if name == "todos":
        (folder / "migrations" / f"1_{name}.sql").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    else:
        shutil.copy(STARTERS / f"{name}.sql", folder / "migrations" / f"1_{name}.sql")
    if name == "dumped":  # what a dump sets is gone in the next file
        (folder / "migrations" / "2_after.sql").write_text("create table after_dump ();")
    seed = STARTERS / f"{name}.seed.sql"
    if not seed.exists():
        return Project(migrations=folder / "migrations")
    (folder / "seed.sql").write_bytes(seed.read_text().replace("\n", "\r\n").encode("utf-16"))
    return Project(migrations=folder / "migrations", seeds=(folder / "seed.sql",))


async def test_every_starter_runs_as_it_is(platform: EmbeddedPostgres, tmp_path: Path) -> None:
    assert set(MADE) == {path.stem for path in STARTERS.glob("*.sql")} - {"dumped.seed"}
    for name, made in MADE.items():
        await created(platform, name)
        sentences: list[str] = []
        starter = project(tmp_path / name, name)
        await set_up(platform, starter, database=name, tell=sentences.append)
        async with connected(platform, name) as connection:
            await connection.execute(NEW_USER.replace("$1", f"'{uuid.uuid4()}'"))
            if name == "profiles":
                await connection.execute(
                    "insert into storage.objects (bucket_id, name) values ('avatars', 'a/b.png')"
                )
            for query, answer in made:
                found = await connection.fetchval(query, *([uuid.uuid4()] if "$1" in query else []))
                assert found == answer, (name, query)
            # Captures of a table follow on any of them, also on one of the platform's.
            await connection.execute("select unstale.watch('auth.users', '{id}')")
            await connection.execute(NEW_USER.replace("$1", f"'{ADA[:-1]}2'").replace("a@b.c", "b@b.c"))
            entry = "select keys from unstale.outbox order by xid desc, id desc limit 1"
            assert await connection.fetchval(entry) == [f"{ADA[:-1]}2"], name
            problems = "select * from unstale.check() where severity = 'error'"
            assert await connection.fetch(problems) == [], name
        assert all("pgsodium" in sentence for sentence in sentences), sentences
        assert bool(sentences) is (name == "dumped")
        if name in ("dumped", "jobs", "broadcast"):  # a second start finds everything done
            await set_up(platform, starter, database=name)


async def test_the_platform_is_none_of_the_users_own(platform: EmbeddedPostgres) -> None:
    """Its tables are in its own schemas, and a file that creates one of them is told so."""
    await created(platform, "untouched")
    async with connected(platform, "untouched") as connection:
        mine = "select tablename from pg_tables where schemaname = 'public'"
        assert [name for (name,) in await connection.fetch(mine)] == ["unstale_wakeup"]
        published = "select tablename from pg_publication_tables where pubname = 'supabase_realtime'"
        assert [name for (name,) in await connection.fetch(published)] == ["unstale_wakeup"]
        assert await connection.fetch("select * from unstale.watched") == []
        history = "select name from supabase_migrations.schema_migrations"
        assert all(name.startswith("unstale") for (name,) in await connection.fetch(history))


async def test_stand_ins_compute_what_the_extensions_do(platform: EmbeddedPostgres) -> None:
    await created(platform, "computing")
    await set_up(platform, Project(), database="computing")
    async with connected(platform, "computing") as connection:
        for size in (0, 1, 55, 56, 63, 64, 119, 120, 200):
            data = bytes(range(size % 256))
            for kind in ("md5", "sha1", "sha256", "sha512"):
                assert (
                    await connection.fetchval("select digest($1::bytea, $2)", data, kind)
                    == hashlib.new(kind, data).digest()
                )
                signed = await connection.fetchval(
                    "select hmac($1::bytea, $2::bytea, $3)", data, b"k" * size, kind
                )
                assert signed == hmac.new(b"k" * size, data, kind).digest(), (size, kind)
        for version, made in ((3, uuid.uuid3), (5, uuid.uuid5)):
            call = f"select uuid_generate_v{version}(uuid_ns_url(), $1)"
            assert str(await connection.fetchval(call, "https://a.example")) == str(
                made(uuid.NAMESPACE_URL, "https://a.example")
            )
        first = uuid.UUID(str(await connection.fetchval("select uuid_generate_v1()")))
        assert (first.version, first.variant) == (1, uuid.RFC_4122)
        now = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
        assert abs((first.time - 0x01B21DD213814000) / 1e7 - now) < 600
        hashed = await connection.fetchval("select crypt('secret', gen_salt('bf'))")
        assert await connection.fetchval("select crypt('secret', $1) = $1", hashed)
        assert not await connection.fetchval("select crypt('Secret', $1) = $1", hashed)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="stand-in"):
            await connection.fetchval("select crypt('secret', '$2a$06$abcdefghijklmnopqrstuv')")


MISTAKES = {
    "create table a ();\n\n-- a comment\ncreate tabel b ();": (
        ":4: syntax error", "`create tabel b ()`", "correct the file"),
    "create table a ();\nselect\n    1,\n    nothing\nfrom a;": (":4: column \"nothing\" does not exist",),
    "create extension postgis;\ncreate table a (b geometry);": (
        "type \"geometry\" does not exist", "postgis of ", ":1", "unstale worker"),
    "select * from auth.oauth_clients;": ("auth.oauth_clients", "`unstale dev` does not", "docs/dev.md"),
    "\\i other.sql\n": ("command of psql",),
    "create table a ();\nvacuum a;\nselect 1/0;": (":3: division by zero", "stay applied"),
    "select 1;\nCOPY storage.objects (bucket_id, name) FROM stdin;\nb\tx\n\\.\n": (
        ":2: ", "violates foreign key", "is not present in table \"buckets\""),
}  # fmt: skip


async def test_what_cannot_run_is_named_with_file_line_and_statement(
    platform: EmbeddedPostgres, tmp_path: Path
) -> None:
    await created(platform, "broken")
    for number, (text, wanted) in enumerate(MISTAKES.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "7_broken.sql").write_text(text)
        with pytest.raises(SqlFileError) as raised:
            await set_up(platform, Project(migrations=folder), database="broken")
        sentence = str(raised.value)
        assert sentence.startswith(f"{folder / '7_broken.sql'}:"), sentence
        assert "\n" not in sentence
        for part in wanted:
            assert part in sentence, sentence
        async with connected(platform, "broken") as connection:
            recorded = "select count(*) from supabase_migrations.schema_migrations where version = '7'"
            assert await connection.fetchval(recorded) == 0
            kept = await connection.fetchval("select to_regclass('public.a') is not null")
            assert kept is ("vacuum" in text)
            await connection.execute("drop table if exists a")
