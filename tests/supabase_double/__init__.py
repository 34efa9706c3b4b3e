"""A Supabase project for tests: Realtime and the REST API's functions, over a real Postgres, faults included.

    async with SupabaseDouble(database) as project:
        client = await create_async_client(project.url, project.keys.secret)
        project.realtime.faults.join_delay = 12

What is real: the WAL the changes come from (pgoutput), publication, replica identity, grants and row level
security, the functions, the roles and their timeouts, the wire protocol, the close codes. What is not there:
presence, replay, broadcast from the database, rate limits, the seconds a refused client is made to wait.
Proved against the official clients for Python and JavaScript.
"""

from supabase_double.double import SupabaseDouble
from supabase_double.keys import Keys

__all__ = ["Keys", "SupabaseDouble"]
