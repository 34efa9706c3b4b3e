"""`unstale learn`, `doctor --loaders` and the pytest option, as users call them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from servers import Database
from unstale import Cache, ConnectionPool
from unstale.companion.recording import recorder
from unstale.companion.recording.reading import Observation, Reading
from unstale.settings import AgentSettings, PoolSettings
from unstale.testing import InMemory
from unstale_worker.learn.report import read_recording
from unstale_worker.rules import Rules
from workers.commands import environment, run

TABLES = """
create table profiles (id bigint primary key, name text);
create table notes (profile_id bigint primary key, body text, read_at timestamptz);
"""
PROFILES = '[[watch]]\ntable = "profiles"\nkeys = ["user:{id}:profile"]\n'
NOTES = '[[watch]]\ntable = "public.notes"\nkeys  = ["user:{profile_id}:profile"]\n'
APPLICATION = """
from unstale import AgentSettings, Cache, ConnectionPool

async def profile(user):
    async with ConnectionPool.from_env() as pool, Cache(AgentSettings(redis_enabled=False)) as cache:
        async def load():
            rows = await (await pool.postgres()).fetch(
                "select p.name, n.body from profiles p left join notes n on n.profile_id = p.id"
                " where p.id = $1", user
            )
            return [row["name"] for row in rows]
        return await cache.get_or_load(f"user:{user}:profile", load)

if __name__ == "__main__":
    import asyncio
    asyncio.run(profile(7))
"""
OTHER = """
def other():
    class Other:
        async def fetch(self, *arguments):
            return []
    return Other()
"""
TESTS = """
import asyncio
import pytest
from application import profile

@pytest.mark.parametrize("user", [1, 2])
def test_profile(user, unstale_cache):
    assert unstale_cache.run(profile(user)) == []
"""


@pytest.fixture
async def settings(database: Database, tmp_path: Path) -> dict[str, str]:
    connection = await asyncpg.connect(database.dsn)
    await connection.execute(TABLES)
    await connection.close()
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "unstale.toml").write_text(PROFILES)
    return {"DATABASE_URL": database.dsn}


def test_learn_reports_the_missing_rule_until_it_is_written(tmp_path: Path, settings: dict[str, str]) -> None:
    program = ["--", sys.executable, "application.py"]
    found = run("learn", *program, cwd=tmp_path, settings=settings)
    assert found.code == 1, found.err
    assert "user:*:profile reads public.notes, and no rule watches it: select p.name" in found.out
    assert NOTES in found.out
    assert "not for production" in found.err
    assert sorted(each.name for each in (tmp_path / ".unstale").iterdir()) == [".gitignore", "loaders.jsonl"]

    doctor = json.loads(run("doctor", "--loaders", "--json", cwd=tmp_path, settings=settings).out)
    (finding,) = [each for each in doctor["findings"] if each["subject"] == "loaders"]
    assert NOTES in finding["remedy"]

    # Shown again without a run, the rule written; then the table left out instead.
    for text in (PROFILES + NOTES, PROFILES + '[learn]\nignore_tables = ["notes"]\n',
                 PROFILES + '[learn]\nignore_keys = ["user:*"]\n'):  # fmt: skip
        (tmp_path / "unstale.toml").write_text(text)
        again = run("learn", "--json", cwd=tmp_path, settings=settings)
        assert again.code == 0, again.out
        assert json.loads(again.out)["missing"] == []
    # A filter that leaves out what the loader reads is said, and fails nothing.
    narrow = PROFILES + NOTES + 'columns = ["read_at"]\n'
    (tmp_path / "unstale.toml").write_text(narrow)
    again = run("learn", cwd=tmp_path, settings=settings)
    assert again.code == 0
    left = "column left out: user:*:profile reads body of public.notes, which columns of its rules leaves out"
    assert left in again.out
    listed = run("doctor", "--loaders", "--json", cwd=tmp_path, settings=settings).out
    assert [each["severity"] for each in json.loads(listed)["findings"] if left in each["finding"]] == [
        "info"
    ]
    (tmp_path / "unstale.toml").write_text(narrow + '[learn]\nignore_columns = ["notes.body"]\n')
    assert "left out" not in run("learn", cwd=tmp_path, settings=settings).out
    (tmp_path / "unstale.toml").unlink()
    bare = run("learn", cwd=tmp_path, settings=settings)
    assert bare.code == 1
    assert NOTES in bare.out
    assert 'table = "public.profiles"' in bare.out

    assert run("learn", "--", sys.executable, "-c", "raise SystemExit(3)", cwd=tmp_path).code == 1
    nothing = run("learn", "--", sys.executable, "-c", "", cwd=tmp_path)
    assert nothing.code == 1, nothing.out
    assert "No statement of a loader was recorded" in nothing.out
    assert "asyncpg.create_pool" in nothing.out
    absent = run("learn", "--recording", "nowhere.jsonl", cwd=tmp_path)
    assert absent.code == 2
    assert "record with `unstale learn -- COMMAND`" in absent.err


@pytest.mark.parametrize("processes", [[], ["-n", "2"]])
def test_the_pytest_option_fails_a_build(
    tmp_path: Path, settings: dict[str, str], processes: list[str]
) -> None:
    (tmp_path / "test_application.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *processes]

    def tested(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = tested("--unstale-learn=fail")
    assert code == 1, said
    assert "2 passed" in said
    assert "user:*:profile reads public.notes, and no rule watches it" in said
    assert NOTES in said
    (tmp_path / "pytest.ini").write_text("[pytest]\nunstale_learn = report\n")
    assert tested()[0] == 0
    assert "reads public.notes" in tested()[1]
    (tmp_path / "unstale.toml").write_text(PROFILES + NOTES)
    code, said = tested("--unstale-learn=fail")
    assert code == 0, said
    assert "Every table that they read is watched." in said
    # Loaders whose statements are not seen were not compared; without loaders nothing is to be compared.
    (tmp_path / "application.py").write_text(
        APPLICATION.replace("await (await pool.postgres())", "await other()") + OTHER
    )
    code, said = tested("--unstale-learn=fail")
    assert code == 1, said
    assert "No statement of a loader was recorded" in said
    (tmp_path / "test_application.py").write_text("def test_nothing() -> None: ...\n")
    code, said = tested("--unstale-learn=fail")
    assert code == 0, said
    assert "No loader ran" in said


@pytest.fixture
def nothing_records() -> Iterator[None]:
    recorder.stop()
    yield
    recorder.stop()


@pytest.mark.usefixtures("nothing_records")
async def test_without_it_pools_open_plain_connections(
    database: Database, unstale_cache: InMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Off, and with a left-over UNSTALE_LEARN in production, no code of the recording is on the path."""
    for learn in (None, str(tmp_path / "gone")):
        async with (
            ConnectionPool(PoolSettings(database_url=database.dsn, learn=learn)) as pool,
            (await pool.postgres()).acquire() as connection,
        ):
            assert type(connection._con) is asyncpg.Connection  # type: ignore[attr-defined]
    assert [record.message for record in caplog.records].count(
        "UNSTALE_LEARN is set, but no `unstale learn` runs: statements are not recorded"
    ) == 1
    assert recorder.current(None) is None


@pytest.mark.usefixtures("nothing_records")
async def test_a_recording_changes_nothing_for_the_loader(
    database: Database, unstale_cache: InMemory, tmp_path: Path
) -> None:
    """In a transaction, in a failed one, and where Postgres cannot plan: the loader's results are its own."""
    recorder.start(tmp_path)
    async with (
        ConnectionPool(PoolSettings(database_url=database.dsn)) as pool,
        Cache(AgentSettings()) as cache,
    ):

        async def load() -> object:
            async with (await pool.postgres()).acquire() as connection:
                await connection.execute("create temp table mine (id int)")
                async with connection.transaction():
                    await connection.execute("insert into mine values (1)")
                    assert await connection.fetchval("select id from mine") == 1
                    assert await connection.fetchval("show work_mem")
                    await connection.execute("insert into mine values ($1)", 2)
                assert await connection.fetchval("select count(*) from mine") == 2
                transaction = connection.transaction()
                await transaction.start()
                with pytest.raises(asyncpg.UndefinedTableError):
                    await connection.fetch("select * from nowhere")
                with pytest.raises(asyncpg.InFailedSQLTransactionError):
                    await connection.fetch("select 1")
                await transaction.rollback()
                return await connection.fetchval("select current_setting('plan_cache_mode')")

        assert await cache.get_or_load("a:1", load) == "auto"
    doubts = [doubt for each in read_recording(tmp_path) for doubt in each.reading.doubts]
    assert any("nowhere" in doubt for doubt in doubts)


def test_rules_for_learn_name_mistakes() -> None:
    from unstale.errors import RuleErrors

    with pytest.raises(RuleErrors, match=r"learn\.ignore_table") as caught:
        Rules.parse(PROFILES + '[learn]\nignore_table = ["notes"]\n')
    assert "ignore_tables" in str(caught.value)
    with pytest.raises(RuleErrors, match="not a table name"):
        Rules.parse(PROFILES + '[learn]\nignore_tables = ["a.b.c"]\n')
    with pytest.raises(RuleErrors, match="not a column of a table"):
        Rules.parse(PROFILES + '[learn]\nignore_columns = ["name"]\n')
    observation = Observation("a:1", "a:*", {2: 1}, "select 1", Reading(doubts=("x",)))
    assert Observation.decode(observation.encode()) == observation
