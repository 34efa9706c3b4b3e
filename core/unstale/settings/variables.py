"""The environment variables of all settings, to find one that is misspelt."""

import logging
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from unstale.settings.agent import AgentSettings
from unstale.settings.environment import DOTENV, read_environment
from unstale.settings.pools import PoolSettings
from unstale.settings.worker import WorkerSettings

PREFIX: Final = "UNSTALE_"

logger = logging.getLogger("unstale")
_warned: set[str] = set()


def variables() -> dict[str, str]:
    """Return the environment variable of each setting, by field name."""
    return {
        field: cls.variables(field)[0]
        for cls in (AgentSettings, PoolSettings, WorkerSettings)
        for field in cls.model_fields
    }


def unknown_variables(env_file: str | Path | None = DOTENV) -> dict[str, str | None]:
    """Return the names in the environment and ``.env`` that begin with ``UNSTALE_`` and are no setting.

    Each has the variable that was probably meant.
    """
    known = {name.removeprefix(PREFIX) for name in variables().values() if name.startswith(PREFIX)}
    found: dict[str, str | None] = {}
    for name in sorted(read_environment(env_file)):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in known:
            near = get_close_matches(name.removeprefix(PREFIX), known, n=1, cutoff=0.75)
            found[name] = f"{PREFIX}{near[0]}" if near else None
    return found


def agent_settings(*, env_file: str | Path | None = DOTENV, **arguments: Any) -> AgentSettings:
    """Return what `AgentSettings.from_env` does, and log once in this process that a variable is none."""
    settings = AgentSettings.from_env(env_file=env_file, **arguments)
    for name, meant in unknown_variables(env_file).items():
        if name not in _warned:
            _warned.add(name)
            hint = f"did you mean {meant}?" if meant else "docs/settings.md lists them all"
            logger.warning("%s is not a setting and has no effect; %s", name, hint)
    return settings
