"""The Supabase double of unstale, and the official JavaScript client to try it with."""

from unstale_worker.supabase_double import Keys, SupabaseDouble

__all__ = ["Keys", "SupabaseDouble"]
