"""A standby warns at its start of Python loaders that it could not call if it led."""

import signal
from pathlib import Path

import pytest
import structlog

from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.observe.status import Role
from unstale_worker.refresh.python.loader_calls import mistakes
from unstale_worker.rules import Rules
from workers import PROFILES, SCHEMA, connected, redis_at, running_worker, settings_for, worker_process

LOADERS = """
[refresh."user:{user_id}:profile"]
loader = "no_such_module:greet"

[refresh."user:{user_id}:greeting_instructions"]
loader = "refresh_loaders:greeting"
"""


@pytest.mark.parametrize("leading", [False, True])
async def test_a_broken_import_is_said_before_it_matters(
    leading: bool, database: Database, redis_url: str
) -> None:
    """By a standby as by a leader; standing by, and taking over, go on."""
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        if not leading:
            await redis.set(Names().leader, "somebody", px=60_000)
        with structlog.testing.capture_logs() as logs:
            rules = PROFILES.replace("[ttl]", f"{LOADERS}\n[ttl]")
            async with running_worker(database.dsn, redis_url, rules=rules, leading=leading) as worker:

                def problems() -> list[str]:
                    return [line["problem"] for line in logs if "problem" in line]

                await eventually(problems, message="the loader that is not there is named")
                assert worker.status().role is (Role.LEADING if leading else Role.STANDBY)
                await redis.delete(Names().leader)
                await eventually(lambda: worker.status().role is Role.LEADING and worker.status().ready)
                assert all("no_such_module:greet" in problem for problem in problems())


def naming(module: str) -> str:
    """Rules with a loader in this module."""
    return PROFILES.replace("[ttl]", f'[refresh."user:{{id}}:profile"]\nloader = "{module}:load"\n\n[ttl]')


@pytest.mark.parametrize("leading", [False, True])
async def test_an_import_that_never_ends_does_not_keep_a_worker_from_ending(
    leading: bool, database: Database, redis_url: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    text = f"import pathlib, threading\npathlib.Path({str(begun)!r}).touch()\nthreading.Event().wait()\n"
    (tmp_path / "endless_loaders.py").write_text(text)
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        if not leading:
            await redis.set(Names().leader, "somebody", px=120_000)
        rules = naming("endless_loaders")
        with worker_process(database.dsn, redis_url, rules=rules, PYTHONPATH=str(tmp_path)) as process:
            await eventually(begun.exists, timeout=60, message="it imports its loaders")
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None, message="it ends all the same")
            assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "problem", "missing"),
    [
        ("import sys\nsys.exit(2)\n", "the module cannot be imported (SystemExit: 2)", True),
        ("raise KeyboardInterrupt\n", "the module cannot be imported (KeyboardInterrupt: )", True),
        ("import os\nos._exit(3)\n", "it ended its process (exit code 3)", False),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "signal 11 ended it", False),
    ],
)
async def test_a_module_that_ends_the_process_is_a_mistake_of_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str, missing: bool
) -> None:
    """A script without a guard would take the worker that imports it along."""
    (tmp_path / "ending_loaders.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    (mistake,) = await mistakes(settings_for(None, "redis://nowhere"), Rules.parse(naming("ending_loaders")))
    assert problem in str(mistake.error)
    assert mistake.missing is missing
