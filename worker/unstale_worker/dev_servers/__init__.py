"""Real servers from wheels, for the demo, for ``unstale dev``, for benchmarks and tests."""

from unstale_worker.dev_servers.migrations import apply_migrations, migrations_folder
from unstale_worker.dev_servers.postgres import EmbeddedPostgres
from unstale_worker.dev_servers.together import Stack, migrate, stack
from unstale_worker.dev_servers.valkey import EmbeddedValkey

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "Stack",
    "apply_migrations",
    "migrate",
    "migrations_folder",
    "stack",
]
