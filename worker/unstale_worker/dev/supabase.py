"""The Supabase API of ``unstale dev``: REST and Realtime over the embedded Postgres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unstale_worker.dev_servers import EmbeddedPostgres, Stack
from unstale_worker.dev_servers.project import Project
from unstale_worker.supabase_double import Keys, SupabaseDouble


@dataclass(frozen=True, slots=True)
class _Database:
    """The database ``postgres`` of the embedded server."""

    server: EmbeddedPostgres
    name: str = "postgres"

    @property
    def superuser_dsn(self) -> str:
        return self.server.superuser_dsn


def supabase_double(servers: Stack, project: Project, keys: Keys, *, port: int) -> SupabaseDouble:
    """Return the API of a project, to be used inside its ``async with``."""
    return SupabaseDouble(
        _Database(servers.postgres), keys=keys, port=port, schemas=project.schemas, max_rows=project.max_rows,
        platform=True,
    )  # fmt: skip


def variables(api: SupabaseDouble) -> Mapping[str, str]:
    """Return the variables that clients of a project read, by their usual names."""
    return {
        "SUPABASE_URL": api.url,
        "SUPABASE_PUBLISHABLE_KEY": api.keys.publishable,
        "SUPABASE_SECRET_KEY": api.keys.secret,
        "SUPABASE_ANON_KEY": api.keys.anon,
        "SUPABASE_SERVICE_ROLE_KEY": api.keys.service_role,
        "SUPABASE_JWT_SECRET": api.keys.jwt_secret,
    }
