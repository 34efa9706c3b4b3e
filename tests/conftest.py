"""Real servers for the tests: a Postgres for each process, a Valkey as new for each test, checks for leaks.

========================  ====================================================================================
``database``              a fresh, migrated database; ``postgres`` could create event triggers, as on Supabase
``plain_database``        the same where event triggers were refused, as on plain Postgres
``empty_database``        a fresh database without migrations
``valkey``                a Valkey server of the test's own, or a used one that is as new
``redis_url``             its URL
``namespace``             an unstale namespace nobody else uses
``own_postgres``          a migrated Postgres server of the test's own, to be killed and restarted
========================  ====================================================================================

A server that does not start is an error of every test that wanted it: nothing is skipped.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast, get_args

import pytest
import structlog

from servers import (
    Database,
    create_database,
    expect_no_tasks,
    fresh_database,
    run_apart,
)
from servers.valkeys import Valkeys
from unstale_worker.dev_servers import EmbeddedPostgres, EmbeddedValkey, migrate
from unstale_worker.dev_servers.installs import PostgresVersion

TESTS = Path(__file__).parent
POSTGRES_SETTINGS = {"fsync": "off"}  # safe with kill -9; only a crash of the machine loses data

LONGEST_FIRST = ("packaging", "deploys", "chaos", "plans", "model", "faults")
"""Folders with the longest tests: one that begins last keeps one process busy when the others have ended."""

_numbers = itertools.count(1)


def postgres_version() -> PostgresVersion:
    """Return the major version of the Postgres of this test process."""
    wanted = os.environ.get("UNSTALE_TEST_POSTGRES", "18")
    for version in get_args(PostgresVersion):
        if wanted == version:
            return cast(PostgresVersion, version)
    raise pytest.UsageError(f"UNSTALE_TEST_POSTGRES is {wanted!r}; set it to 15, 16, 17 or 18.")


def pytest_configure(config: pytest.Config) -> None:
    # Under nohup, or in a script's background, these signals are ignored; child processes would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    config.addinivalue_line(
        "markers", "leaves_keys(pattern, ...): keys without TTL the test may leave, as regular expressions"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In one of several test processes, put the long tests first; each gets the next test that is left."""
    if hasattr(config, "workerinput"):

        def rank(item: pytest.Item) -> int:
            folder = item.path.relative_to(TESTS).parts[0]
            return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

        items.sort(key=rank)


@pytest.fixture(autouse=True)
def _leaves_no_tasks(request: pytest.FixtureRequest) -> None:
    """Fail an async test that leaves a pending task on its loop after its fixtures are closed."""
    function = getattr(request, "function", None)
    if inspect.iscoroutinefunction(inspect.unwrap(function) if function else None):
        request.getfixturevalue("_no_tasks_afterwards")


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Restore the logging configuration after a test that sets it up as the worker's command does."""
    loggers = [logging.getLogger(name) for name in (None, "unstale", "unstale_worker")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
async def _no_tasks_afterwards() -> AsyncIterator[None]:
    yield
    await expect_no_tasks()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The Postgres of this test process, with Supabase's roles; each test gets a database of it.

    It is version 18. ``UNSTALE_TEST_POSTGRES`` in the environment names another major version.
    """
    server = EmbeddedPostgres(version=postgres_version(), settings=POSTGRES_SETTINGS)
    run_apart(server.__aenter__())
    try:
        run_apart(server.create_supabase_roles())
        yield server
    finally:
        run_apart(server.close())


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database with the migrations, event triggers included."""
    return _template(postgres_server, "template_migrated", event_triggers=True)


@pytest.fixture(scope="session")
def plain_template(postgres_server: EmbeddedPostgres) -> str:
    """Name of a database whose migrations were refused event triggers."""
    return _template(postgres_server, "template_plain", event_triggers=False)


def _template(server: EmbeddedPostgres, name: str, *, event_triggers: bool) -> str:
    run_apart(create_database(server, name=name, template="template1"))
    run_apart(migrate(server, database=name, event_triggers=event_triggers))
    return name


@pytest.fixture
def database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Database]:
    """A fresh database with unstale's migrations, as on Supabase."""
    with fresh_database(postgres_server, name=f"test_{next(_numbers)}", template=migrated_template) as ours:
        yield ours


@pytest.fixture
def plain_database(postgres_server: EmbeddedPostgres, plain_template: str) -> Iterator[Database]:
    """A fresh database with unstale's migrations, where event triggers were refused."""
    with fresh_database(postgres_server, name=f"test_{next(_numbers)}", template=plain_template) as ours:
        yield ours


@pytest.fixture
def empty_database(postgres_server: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database without anything of unstale."""
    with fresh_database(postgres_server, name=f"test_{next(_numbers)}", template="template1") as ours:
        yield ours


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A migrated server (database ``postgres``) that the test may kill, stop and start."""
    server = EmbeddedPostgres(settings=POSTGRES_SETTINGS)
    run_apart(server.__aenter__())
    try:
        run_apart(server.create_supabase_roles())
        run_apart(migrate(server, database="postgres"))
        yield server
    finally:
        run_apart(server.close())


@pytest.fixture(scope="session")
def valkeys() -> Iterator[Valkeys]:
    """The Valkey servers of this test process. With ``UNSTALE_TEST_PROGRAM=redis`` they are Redis."""
    servers = Valkeys("redis" if os.environ.get("UNSTALE_TEST_PROGRAM") == "redis" else "valkey")
    yield servers
    servers.close()


@pytest.fixture
def valkey(request: pytest.FixtureRequest, valkeys: Valkeys) -> Iterator[EmbeddedValkey]:
    """A Valkey of the test's own; if it still runs afterwards, every key in it has a TTL or is permanent."""
    server = valkeys.take()
    yield server
    allowed = [pattern for mark in request.node.iter_markers("leaves_keys") for pattern in mark.args]
    valkeys.give_back(server, allowed=allowed)


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """The URL of the test's Valkey."""
    return valkey.url


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return f"test-{secrets.token_hex(4)}"
