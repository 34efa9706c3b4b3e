"""Hands out the worker's SQL: one statement a file, named after it."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """The text of ``sql/<name>.sql``."""
    return files("unstale_worker").joinpath("sql", f"{name}.sql").read_text("utf-8")
