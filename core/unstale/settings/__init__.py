"""Settings of agents, worker and connection pools: every knob once, with one default.

Names that an application usually has already (``REDIS_URL``, ``SUPABASE_URL`` …) are kept. Every other
variable begins with ``UNSTALE_``.
"""

from unstale.settings.agent import AgentSettings
from unstale.settings.pools import PoolSettings
from unstale.settings.shared import DatabaseSettings, OutboxSettings, SharedSettings
from unstale.settings.worker import WorkerSettings

__all__ = [
    "AgentSettings",
    "DatabaseSettings",
    "OutboxSettings",
    "PoolSettings",
    "SharedSettings",
    "WorkerSettings",
]
