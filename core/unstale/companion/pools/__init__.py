"""Clients of OpenAI, Supabase, Postgres and HTTP servers, made once and shared."""

from unstale.companion.pools.pool import ConnectionPool

__all__ = ["ConnectionPool"]
