"""Reads the environment and ``.env``. Nothing else in the package reads settings from there."""

import os
from pathlib import Path
from typing import Final

DOTENV: Final = ".env"
"""Looked for in the working directory."""


def read_environment(env_file: str | Path | None) -> dict[str, str]:
    """Return the variables of ``env_file``, if it exists, and of the environment, which beats it.

    Names are in capitals: ``redis_url`` sets ``REDIS_URL``, too. An empty value means that the variable is
    not set, as Compose and CI pass one for a variable that they do not have.
    """
    found: dict[str, str] = {}
    if env_file is not None and Path(env_file).is_file():
        from dotenv import dotenv_values

        values = dotenv_values(env_file, encoding="utf-8")
        found = {name.upper(): value for name, value in values.items() if value}
    found |= {name.upper(): value for name, value in os.environ.items() if value.strip()}
    return {name: value for name, value in found.items() if value.strip()}
