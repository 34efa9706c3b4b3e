"""Wake-ups through Supabase Realtime: hints, kept alive whatever happens to the client or the connection."""

from unstale_worker.realtime.target import Target, Timing
from unstale_worker.realtime.wakeups import RealtimeWakeUps

__all__ = ["RealtimeWakeUps", "Target", "Timing"]
