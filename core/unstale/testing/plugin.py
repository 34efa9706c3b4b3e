"""The pytest plugin: fixtures, and the option that finds missing rules; no import until one is used.

======================  ======================================================================================
``unstale_cache``       every cache of the process works in memory during the test, and the test can ask what
                        was loaded and invalidated: `unstale.testing.InMemory`
``unstale_uncached``    the same, where nothing is ever stored
``unstale_servers``     Postgres, Valkey and a worker, started once for the session: `unstale.testing.Servers`
======================  ======================================================================================

``--unstale-learn=report`` prints the tables that loaders read and no rule watches, with the rules to add;
``--unstale-learn=fail`` also fails the session.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unstale.testing.caches import InMemory
    from unstale.testing.learning import Learning
    from unstale.testing.servers import Servers


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, and a setting of the same meaning for pytest's configuration file."""
    text = "tables that loaders read and no rule watches: report them, or also fail"
    parser.getgroup("unstale").addoption(
        "--unstale-learn", choices=("off", "report", "fail"), default=None, help=text
    )
    parser.addini("unstale_learn", text, default="off")


def pytest_configure(config: pytest.Config) -> None:
    """Start recording if the option asks for it."""
    mode = config.getoption("--unstale-learn") or config.getini("unstale_learn")
    if mode == "off":
        return
    if mode not in ("report", "fail"):
        raise pytest.UsageError(f"unstale_learn is {mode!r}; set it to off, report or fail")
    from unstale.testing.learning import begin

    config.pluginmanager.register(begin(config, mode), "unstale-learn")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop recording."""
    learning: Learning | None = config.pluginmanager.get_plugin("unstale-learn")
    if learning is not None:
        learning.end()


@pytest.fixture
def unstale_cache() -> "Iterator[InMemory]":
    """Every cache of the process, in memory: no server, and no cache has to be opened."""
    from unstale.testing.caches import in_memory

    with in_memory() as caches:
        yield caches


@pytest.fixture
def unstale_uncached() -> "Iterator[InMemory]":
    """Every cache of the process, but each read that does not join a running load loads."""
    from unstale.testing.caches import in_memory

    with in_memory(stores=False) as caches:
        yield caches


@pytest.fixture(scope="session")
def unstale_servers(pytestconfig: pytest.Config) -> "Iterator[Servers]":
    """Postgres, Valkey and a worker with the project's migrations and rules, for the whole session."""
    from unstale.testing.servers import started

    with started(pytestconfig.rootpath) as servers:
        yield servers
