"""Wake-ups through Supabase Realtime: hints, kept alive whatever happens to the client or the connection."""

from unstale_worker.sources.realtime.realtime_wakeups import RealtimeWakeUps
from unstale_worker.sources.realtime.target import Target, Timing

__all__ = ["RealtimeWakeUps", "Target", "Timing"]
