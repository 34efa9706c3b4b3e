"""The example companion as its README says: `unstale dev`, two instances as processes, real answers."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from openai import AsyncOpenAI, BadRequestError

from companion.stand_in import LABEL, StandIn
from servers import Database, eventually
from unstale_worker.demo.example import companion_folder
from unstale_worker.dev_servers import apply_migrations, migrations_folder
from unstale_worker.leader.supervisor import Worker
from unstale_worker.migration.writer import write_migration
from unstale_worker.rules import Rules
from workers import applied, connected, redis_at, running_worker
from workers.commands import Command, environment, run, started

PROJECT = companion_folder()
RULES = (PROJECT / "unstale.toml").read_text()
COUNT = {
    "profiles": "select count(*) from profiles",
    "memories": "select count(*) from memories",
    "settings": "select count(*) from settings",
    "state": "select count(*) from state",
    "organizations": "select count(*) from organizations",
    "members": "select count(*) from members",
}


class Instance:
    """A running service."""

    def __init__(self, url: str, http: aiohttp.ClientSession, said: list[str]) -> None:
        self.url, self._http, self.said = url, http, said

    async def post(self, path: str, body: object, *, status: int = 200) -> dict[str, Any]:
        async with self._http.post(f"{self.url}{path}", json=body) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == status, answer
            return answer

    async def get(self, path: str) -> dict[str, Any]:
        async with self._http.get(f"{self.url}{path}") as response:
            answer: dict[str, Any] = await response.json()
            return answer


@asynccontextmanager
async def instance(
    database: Database, redis_url: str, *, errors: str = "", **settings: str
) -> AsyncIterator[Instance]:
    """``python -m companion`` in its own folder; it must end in order, with no ``errors`` but these."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "companion", "--port", "0",
        cwd=PROJECT,
        env=environment(DATABASE_URL=database.dsn, REDIS_URL=redis_url, **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    command = Command(process)
    try:
        url = (await command.line("listening on ")).rpartition(" ")[2]
        async with aiohttp.ClientSession() as http:
            yield Instance(url, http, command.lines)
        assert await command.end(signal.SIGTERM) == 0
        said = await command.errors()
        assert (errors in said) if errors else (said == "")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def seeded(database: Database) -> Database:
    async with connected(database.dsn) as connection:
        await connection.execute((PROJECT / "supabase" / "seed.sql").read_text())
    return database


@pytest.fixture
async def model() -> AsyncIterator[StandIn]:
    async with StandIn(seconds=(0.0, 0.0)) as running:
        yield running


def worker(database: Database, redis_url: str, model: StandIn) -> AbstractAsyncContextManager[Worker]:
    """With the least rights, and the model for its own loader."""
    settings: dict[str, Any] = {name.lower(): value for name, value in asking(model).items()}
    return running_worker(database.worker_dsn, redis_url, rules=RULES, **settings)


async def test_the_worker_writes_the_greeting_while_visitors_get_the_old_one(
    seeded: Database, redis_url: str
) -> None:
    async with (
        StandIn(seconds=(0.0, 0.0)) as quick,
        StandIn(seconds=(1.0, 1.0)) as slow,
        worker(seeded, redis_url, slow),
        instance(seeded, redis_url, **asking(quick)) as one,
        connected(seeded.dsn) as writer,
        redis_at(redis_url) as redis,
    ):
        assert "curious" in (await one.post("/session", {"user_id": 1}))["greeting"]["text"].lower()
        await writer.execute("update profiles set mood = 'proud' where id = 1")
        await applied(redis, writer)

        async def told() -> dict[str, Any] | None:
            session = await one.post("/session", {"user_id": 1})
            return session if session["profile"]["mood"] == "proud" else None

        session = await eventually(told, message="the instance has heard of the change")
        assert session["took"]["greeting_instructions"]["origin"] == "redis, from before a change"
        assert "curious" in session["greeting"]["text"].lower()

        async def new() -> bool:
            session = await one.post("/session", {"user_id": 1})
            return "proud" in session["greeting"]["text"].lower()

        await eventually(new, message="the new greeting is there")
        assert (quick.calls, slow.calls) == (1, 1)  # nobody who visited had to have it written


def asking(model: StandIn) -> dict[str, str]:
    return {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": model.url}


def origins(session: dict[str, Any]) -> set[str]:
    return {took["origin"] for took in session["took"].values()}


async def test_every_instance_greets_by_what_is_true_now(
    seeded: Database, redis_url: str, model: StandIn
) -> None:
    async with (
        worker(seeded, redis_url, model),
        instance(seeded, redis_url, **asking(model)) as one,
        instance(seeded, redis_url, **asking(model)) as other,
        connected(seeded.dsn) as writer,
        redis_at(redis_url) as redis,
    ):
        first = await one.post("/session", {"user_id": 1})
        assert "Ada" in first["greeting"]["text"]
        assert "curious" in first["greeting"]["text"]
        assert (first["settings"]["plan"], first["state"]["topic"]) == ("free", "an engine")
        assert first["took"]["greeting_instructions"]["origin"] == "model"
        assert first["took"]["profile"]["origin"] == "database"

        assert origins(await one.post("/session", {"user_id": 1})) == {"memory"}
        assert origins(await other.post("/session", {"user_id": 1})) == {"redis"}
        assert model.calls == 1

        searches = [{"user_id": 1, "query": query} for query in ("a", "piano")]
        for search in searches:
            assert await one.post("/search", search) == await other.post("/search", search)
        misses = (await one.get("/stats"))["cache"]["cache_misses"]
        for search in searches:
            await one.post("/search", search)
        assert (await one.get("/stats"))["cache"]["cache_misses"] == misses

        await writer.execute("update memories set recalled = recalled + 1 where user_id = 1")
        await writer.execute("update profiles set mood = 'proud' where id = 1")
        await writer.execute("update organizations set plan = 'team' where id = 1")
        await applied(redis, writer)

        async def heard() -> bool:
            sessions = [await each.post("/session", {"user_id": 1}) for each in (one, other)]
            return all(
                session["profile"]["mood"] == "proud"
                and session["settings"]["plan"] == "team"
                and "proud" in session["greeting"]["text"].lower()
                for session in sessions
            )

        await eventually(heard, message="both instances greet by the new mood and plan")
        assert (await one.get("/stats"))["cache"]["status"] == "healthy"
        assert model.calls == 2  # one greeting for both, and none for what no rule wants

        await writer.execute("update memories set content = 'She tunes the piano' where user_id = 1")
        await applied(redis, writer)

        async def found() -> bool:
            lists: Any = [await each.post("/search", search) for each in (one, other) for search in searches]
            return all(
                memories and {memory["content"] for memory in memories} == {"She tunes the piano"}
                for memories in lists
            )

        await eventually(found, message="every search of both instances finds the new text, by one tag")


async def test_the_model_may_use_the_tools_of_its_user(
    seeded: Database, redis_url: str, model: StandIn
) -> None:
    async with (
        worker(seeded, redis_url, model),
        instance(seeded, redis_url, **asking(model)) as one,
    ):
        said = await one.post("/message", {"user_id": 1, "text": "Hello there"})
        assert said == {"reply": "You said: Hello there"}
        said = await one.post("/message", {"user_id": 1, "text": "Please call clearUserCache for me"})
        assert '"removed": 4' in said["reply"]
        assert "model" in origins(await one.post("/session", {"user_id": 1}))
        said = await one.post("/message", {"user_id": 1, "text": "refreshCache"})
        assert '"refreshed": true' in said["reply"]


WRONG = [
    ("/session", {"user_id": 99}, 404, "There is no user 99."),
    ("/session", {"user": 1}, 400, "user_id: Field required"),
    ("/session", {"user_id": "me"}, 400, "valid integer"),
    ("/session", [], 400, "the body"),
    ("/message", {"user_id": 1, "text": ""}, 400, "text: String should have at least 1 character"),
    ("/nothing", {}, 404, "Not Found"),
    ("/session", {"user_id": 1}, 502, "The language model did not answer (APIConnectionError)"),
]


async def test_who_asks_wrongly_is_told_how(seeded: Database, redis_url: str) -> None:
    nobody = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    async with instance(seeded, redis_url, **nobody, errors="the model did not answer") as one:
        for path, body, status, sentence in WRONG:
            assert sentence in (await one.post(path, body, status=status))["error"]


async def test_without_a_key_it_says_what_to_do(seeded: Database, redis_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "companion", "--port", "0",
        cwd=PROJECT,
        env=environment(DATABASE_URL=seeded.dsn, REDIS_URL=redis_url),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "OPENAI_API_KEY is not set. Without one: python -m companion.stand_in\n"


async def test_the_stand_in_prints_what_makes_a_program_use_it() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-m", "companion.stand_in", "--port", "0",
        cwd=PROJECT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    command = Command(process)
    assert LABEL in await command.line("#")
    key = (await command.line("OPENAI_API_KEY=")).partition("=")[2]
    url = (await command.line("OPENAI_BASE_URL=")).partition("=")[2]
    async with AsyncOpenAI(api_key=key, base_url=url) as openai:
        assert [each.id async for each in openai.models.list()] == ["stand-in"]
    assert await command.end(signal.SIGTERM) == 0
    assert await command.errors() == ""


async def test_the_seed_watches_what_the_rules_need(seeded: Database, tmp_path: Path) -> None:
    needs = Rules.parse(RULES).tables
    async with connected(seeded.dsn) as connection:
        watched = await connection.fetch(
            "select table_name, key_columns as keys, columns from unstale.watched where state = 'watched'"
        )
    assert {
        row["table_name"]: (sorted(row["keys"]), row["columns"] and sorted(row["columns"])) for row in watched
    } == {
        name: (sorted(need.keys), need.columns and sorted(need.columns)) for (_, name), need in needs.items()
    }


async def test_a_project_of_ones_own_by_the_page(empty_database: Database, tmp_path: Path) -> None:
    """The tables first, then what `unstale migration` writes, then the rights that the page names."""
    page = (PROJECT / "README.md").read_text()
    (rights,) = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    rules = Rules.parse(RULES)
    write_migration(rules, tmp_path, base=migrations_folder())
    async with connected(empty_database.dsn) as connection:
        await connection.execute((PROJECT / "supabase" / "seed.sql").read_text())
        await apply_migrations(empty_database.dsn, tmp_path)
        await connection.execute(rights)
        watched = await connection.fetchval("select count(*) from unstale.watched where state = 'watched'")
        assert watched == len(rules.tables)
    async with connected(empty_database.superuser_dsn) as connection:
        await connection.execute("set role unstale_worker")
        for table in ("members", "profiles", "memories"):
            assert await connection.fetchval(COUNT[table]) >= 3


async def test_everybody_sees_only_their_own_rows(seeded: Database) -> None:
    tables = ("profiles", "memories", "settings", "state", "organizations", "members")
    identity = "00000000-0000-4000-8000-00000000000a"
    async with connected(seeded.dsn) as connection:
        await connection.execute("update profiles set auth_id = $1::uuid where id = 1", identity)
        async with connection.transaction():
            await connection.execute(
                "select set_config('request.jwt.claims', $1, true)", f'{{"sub": "{identity}"}}'
            )
            await connection.execute("set local role authenticated")
            counts = {table: await connection.fetchval(COUNT[table]) for table in tables}
            assert counts == dict.fromkeys(tables, 1) | {"memories": 3}
            assert await connection.execute("update settings set voice = 'sage'") == "UPDATE 1"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("update profiles set name = 'Eve'")
        async with connection.transaction():
            await connection.execute("set local role authenticated")
            assert {await connection.fetchval(COUNT[table]) for table in tables} == {0}


async def test_dev_brings_the_whole_project_up() -> None:
    async with started("dev", "--port", "0", cwd=PROJECT) as dev:
        servers = {
            name: (await dev.line(f"{name}=")).partition("=")[2] for name in ("DATABASE_URL", "REDIS_URL")
        }
        assert any("seed.sql" in line for line in dev.lines)
        doctor = await asyncio.to_thread(run, "doctor", cwd=PROJECT, settings=servers)
        assert doctor.code == 0, doctor.out
        assert await dev.end(signal.SIGINT) == 0


async def test_the_stand_in_speaks_to_the_real_client(model: StandIn) -> None:
    async with AsyncOpenAI(api_key="none", base_url=model.url) as openai:
        assert [each.id async for each in openai.models.list()] == ["stand-in"]
        answer = await openai.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "Name: Ada\nMood: calm\nMemories:\n- plays the harp"}],
        )
        text = answer.choices[0].message.content or ""
        assert ("Ada" in text, "harp" in text, answer.system_fingerprint) == (True, True, LABEL)
        with pytest.raises(BadRequestError):
            await openai.chat.completions.create(model="any", messages=[])
