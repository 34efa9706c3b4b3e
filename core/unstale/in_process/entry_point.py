"""Finds the embedded worker by its entry point, as the core does not import the worker's package."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from unstale.errors import ConfigurationError, SettingError
from unstale.in_process.outbox_feed import OutboxFeed
from unstale.settings import AgentSettings

GROUP: Final = "unstale.embedded_workers"
"""Entry-point group in which a distribution registers a `Factory`."""


class EmbeddedWorker(Protocol):
    """Follows the database for one cache, in the cache's event loop.

    Attributes:
        tried: Set once the first attempt has ended, with or without success.
        refused: The error that makes every attempt fail, if the first attempt found one.
    """

    tried: asyncio.Event
    refused: ConfigurationError | None

    def start(self) -> None:
        """Start to follow, and return at once."""
        ...

    def hint(self) -> None:
        """Read now instead of at the next poll, because a caller waits."""
        ...

    async def close(self) -> None:
        """Stop, and close every connection."""
        ...


Factory = Callable[[AgentSettings, OutboxFeed], EmbeddedWorker]
"""Returns a worker that is not started; raises `ConfigurationError` for unusable settings or rules."""


def embedded_worker(settings: AgentSettings, feed: OutboxFeed) -> EmbeddedWorker:
    """Return the installed worker; raises `ConfigurationError`."""
    from importlib.metadata import entry_points  # 50 ms, and only agents without Redis need it

    from unstale.runtime.extras import needs

    found = next(iter(entry_points(group=GROUP)), None)
    if found is None:
        raise SettingError(
            "UNSTALE_EMBEDDED_WORKER: no embedded worker is installed; install the distribution `unstale` "
            "again (in a source tree: `pip install -e .`)"
        )
    with needs("worker", what="UNSTALE_EMBEDDED_WORKER"):
        factory: Factory = found.load()
    return factory(settings, feed)
