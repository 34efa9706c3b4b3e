"""Real servers from wheels, for the demo, ``unstale dev``, benchmarks and tests."""

from unstale_worker.dev_servers.embedded_postgres import EmbeddedPostgres
from unstale_worker.dev_servers.embedded_valkey import EmbeddedValkey
from unstale_worker.dev_servers.migrations import apply_migrations, migrations_folder
from unstale_worker.dev_servers.server_stack import Stack, migrate, stack

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "Stack",
    "apply_migrations",
    "migrate",
    "migrations_folder",
    "stack",
]
