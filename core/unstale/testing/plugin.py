"""The pytest plugin: fixtures only, and no import until a test asks for one.

======================  ======================================================================================
``unstale_cache``       every cache of the process works in memory during the test, and the test can ask what
                        was loaded and invalidated: `unstale.testing.InMemory`
``unstale_uncached``    the same, where nothing is ever stored
``unstale_servers``     Postgres, Valkey and a worker, started once for the session: `unstale.testing.Servers`
======================  ======================================================================================
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from unstale.testing.caches import InMemory
    from unstale.testing.servers import Servers


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
