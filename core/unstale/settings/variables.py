"""The environment variables of all settings, to find one that is misspelt."""

from unstale.settings.agent import AgentSettings
from unstale.settings.environment import DOTENV, read_environment
from unstale.settings.pools import PoolSettings
from unstale.settings.worker import WorkerSettings


def variables() -> dict[str, str]:
    """Return the environment variable of each setting, by field name."""
    return {
        field: cls.variables(field)[0]
        for cls in (AgentSettings, PoolSettings, WorkerSettings)
        for field in cls.model_fields
    }


def unknown_variables() -> list[str]:
    """Return the names in the environment and ``.env`` that begin with ``UNSTALE_`` and are no setting."""
    known = set(variables().values())
    return sorted(
        name for name in read_environment(DOTENV) if name.startswith("UNSTALE_") and name not in known
    )
