"""Wake-ups through Supabase Realtime: hints that survive failures of the client and the connection."""

from unstale_worker.sources.realtime.realtime_wakeups import RealtimeWakeUps
from unstale_worker.sources.realtime.target import Target, Timing

__all__ = ["RealtimeWakeUps", "Target", "Timing"]
