"""A Supabase project for development and tests: Realtime and the REST API over a real Postgres.

    async with SupabaseDouble(database) as project:
        client = await create_async_client(project.url, project.keys.secret)
        project.realtime.faults.join_delay = 12

Real are: the WAL the changes come from (pgoutput), publication, replica identity, grants and row level
security, tables and functions, the roles and their timeouts, the wire protocol, the close codes. Missing are:
presence, replay, rate limits, the seconds a refused client is made to wait.
``unstale dev --supabase`` serves it. Tests set its faults. Proved against the official clients for Python and
JavaScript.
"""

from unstale_worker.supabase_double.double import SupabaseDouble
from unstale_worker.supabase_double.keys import Keys

__all__ = ["Keys", "SupabaseDouble"]
