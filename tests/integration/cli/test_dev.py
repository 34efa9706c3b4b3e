"""``unstale dev`` over an afternoon: same URLs, kept data, files that change, and mistakes in them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import httpx
import pytest
from dotenv import dotenv_values
from realtime import RealtimeSubscribeStates
from supabase import AsyncClientOptions, create_async_client

from servers import eventually
from unstale import Cache, ConfigurationError
from unstale_worker.dev.places import Ports
from unstale_worker.supabase_double import Keys
from workers.commands import run, started

PROFILES = """
create table public.profiles (id uuid primary key references auth.users, name text);
insert into auth.users (id) values ('11111111-1111-4111-8111-111111111111');
alter table public.profiles enable row level security;
create policy own on public.profiles to authenticated using ((select auth.uid()) = id);
grant select, update on public.profiles to service_role, authenticated;
create function public.renamed() returns trigger language plpgsql security definer as $$
begin
    perform realtime.send(jsonb_build_object('name', new.name), 'renamed', 'room', false);
    return null;
end $$;
create policy own on realtime.messages for select to authenticated
    using (realtime.topic() = 'of:' || (select auth.uid()));
create trigger renamed after update on public.profiles for each row execute function public.renamed();
"""
ADA = "11111111-1111-4111-8111-111111111111"
RULES = '[[watch]]\ntable = "public.profiles"\nkeys = ["user:{id}:profile"]\n'
TEAMS = '\n[[watch]]\ntable = "public.teams"\nkeys = ["team:{id}"]\n'
INSERT = "insert into profiles select id, 'Ada' from auth.users"


def free_ports() -> Ports:
    """Four ports in a row that are free now, apart from those of other tests."""
    for first in range(19_000 + 40 * (Path.cwd().stat().st_ino % 10), 32_000, 4):
        try:
            (ports := Ports.from_first(first)).refuse_taken(page=True, supabase=True)
        except ConfigurationError:
            continue
        return ports
    raise AssertionError("no four ports in a row are free")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for data that Postgres can reach if the tests run as root."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


async def clients_work(env: Mapping[str, str | None]) -> None:
    """Supabase's own client reads, writes and hears what the database broadcasts; a cache follows."""
    http = httpx.AsyncClient()  # without one, the client warns of a parameter of its own
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    variables = [str(env[name]) for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY")]
    supabase = await create_async_client(variables[0], variables[1], options)
    room, heard = supabase.channel("room"), asyncio.Queue[Any]()
    room.on_broadcast("renamed", heard.put_nowait)
    profiles = supabase.table("profiles")
    try:
        await room.subscribe()
        async with Cache.from_env(env_file=None, redis_url=env["REDIS_URL"]) as cache:
            await eventually(lambda: cache.attached)
            key = f"user:{ADA}:profile"
            load: Any = profiles.select("name").eq("id", ADA).single().execute

            async def name() -> str:
                return str((await load()).data["name"])

            async with cache.subscribe(key) as events:
                assert await cache.get_or_load(key, name) == "Ada"
                await profiles.update({"name": "Grace"}).eq("id", ADA).execute()
                await anext(events)
                assert await cache.get_or_load(key, name) == "Grace"
        async with asyncio.timeout(60):
            assert (await heard.get())["payload"] == {"name": "Grace"}
        own = Keys()
        own.jwt_secret = str(env["SUPABASE_JWT_SECRET"])
        supabase.postgrest.auth(own.token("authenticated", sub=ADA))
        assert len((await supabase.table("profiles").select("*").execute()).data) == 1
        await supabase.realtime.set_auth(own.token("authenticated", sub=ADA))
        states = []
        configured: Any = {"config": {"private": True}}
        for topic in (f"of:{ADA}", "of:others"):
            private = supabase.channel(topic, configured)
            await private.subscribe(lambda state, _: states.append(state))
        assert states[:2] == [RealtimeSubscribeStates.SUBSCRIBED, RealtimeSubscribeStates.CHANNEL_ERROR]
        supabase.postgrest.auth(own.token("authenticated", sub=ADA[:-1] + "2"))
        assert (await supabase.table("profiles").select("*").execute()).data == []
    finally:
        await supabase.remove_all_channels()
        await http.aclose()


async def the_worker_has_a_login_of_its_own(database_url: str) -> None:
    """The user may give unstale_worker a password, as the README says, and lose nothing."""
    sessions = "select pid from pg_stat_activity where usename = 'unstale_dev'"
    connection = await asyncpg.connect(database_url)
    admin = await asyncpg.connect(database_url, user="supabase_admin")
    try:
        await connection.execute("alter role unstale_worker password 'of the user'")
        before = {pid for (pid,) in await admin.fetch(sessions)}
        assert before
        await admin.execute("select pg_terminate_backend(pid) from unnest($1::integer[]) pid", list(before))

        async def reconnected() -> bool:
            return bool({pid for (pid,) in await admin.fetch(sessions)} - before)

        await eventually(reconnected)
        own = await asyncpg.connect(database_url, user="unstale_worker", password="of the user")
        await own.close()
    finally:
        await connection.close()
        await admin.close()


async def test_an_afternoon(tmp_path: Path, open_folder: Path) -> None:
    ports, migrations = free_ports(), tmp_path / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (migrations / "20260101000000_profiles.sql").write_text(PROFILES)
    (tmp_path / "supabase" / "config.toml").write_text(
        '[db.seed]\nsql_paths = ["./seeds/*.sql", "none.sql"]\n'
    )
    (tmp_path / "supabase" / "seeds").mkdir()
    (tmp_path / "supabase" / "seeds" / "1.sql").write_text(INSERT)
    (rules := tmp_path / "unstale.toml").write_text(RULES)
    (tmp_path / ".env").write_text(
        "MINE=1\nUNSTALE_SOURCE=supabase\nSUPABASE_URL=https://production.example\n"
    )
    arguments = (
        "dev",
        "--port",
        str(ports.postgres),
        "--data",
        str(open_folder),
        "--env-file",
        ".env",
        "--supabase",
    )
    assert run("migration", "--offline", cwd=tmp_path).code == 0

    async with started(*arguments, cwd=tmp_path) as dev:
        await dev.line("Ctrl-C")
        first = dotenv_values(tmp_path / ".env")
        assert (first["MINE"], f":{ports.valkey}/" in str(first["REDIS_URL"])) == ("1", True)
        assert any("no file matches 'none.sql'" in line for line in dev.lines)
        taken = await asyncio.to_thread(run, *arguments, cwd=tmp_path)
        assert taken.code == 2
        assert f"{ports.postgres} for Postgres" in taken.err

        await the_worker_has_a_login_of_its_own(str(first["DATABASE_URL"]))

        # Mistakes are told, and change nothing; their correction does.
        rules.write_text(RULES.replace("keys", "keyz") + TEAMS)
        await dev.line("Did you mean keys?")
        (migrations / "20260102000000_teams.sql").write_text(
            "create table public.teams (id int);\nselect nope;"
        )
        await dev.line("20260102000000_teams.sql:2: column")
        watches = next(migrations.glob("*_unstale_watches.sql"))
        wrong = migrations / "29990101000000_unstale_watches.sql"
        wrong.write_text(watches.read_text().replace("array['id']", "array['idd']"))
        (migrations / "20260102000000_teams.sql").unlink()
        await dev.line("29990101000000_unstale_watches.sql:14: cannot watch public.profiles")
        assert "correct the rules, delete this file" in dev.lines[-1]
        wrong.unlink()
        (migrations / "20260102000000_teams.sql").write_text(
            "create table public.teams (id int primary key);"
        )
        rules.write_text(RULES + TEAMS)
        await dev.line("the rules wait, and the former ones go on: public.teams is not watched")
        assert "db push" not in dev.lines[-1]
        assert any("applied: 20260102000000_teams.sql" in line for line in dev.lines)
        assert (await asyncio.to_thread(run, "migration", "--offline", cwd=tmp_path)).code == 0
        await dev.line("the new rules are followed")
        same_data = await asyncio.to_thread(
            run, "dev", "--port", "0", "--data", str(open_folder), cwd=tmp_path
        )
        assert "uses the data in" in same_data.err
        doctor = await asyncio.to_thread(run, "doctor", cwd=tmp_path, settings={"UNSTALE_SOURCE": "auto"})
        assert "public.teams" in doctor.out
        assert "no worker" not in doctor.out
        (migrations / "20260101000000_profiles.sql").write_text(PROFILES + "-- edited")
        await dev.line("20260101000000_profiles.sql has changed since it was applied")
        assert await dev.end(signal.SIGINT) == 0

    async with started(*arguments, cwd=tmp_path) as dev:
        await dev.line(f"Ctrl-C keeps the data in {open_folder}")
        assert dotenv_values(tmp_path / ".env") == first
        connection = await asyncpg.connect(first["DATABASE_URL"])
        assert await connection.fetchval("select count(*) from profiles") == 1  # the seed ran once
        assert await connection.fetchval("select count(*) from teams") == 0
        await connection.close()
        await clients_work(first)
        assert await dev.end(signal.SIGINT) == 0
