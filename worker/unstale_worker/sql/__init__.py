"""The worker's SQL: one statement per file, named after the file."""

from functools import cache
from importlib.resources import files


@cache
def statement(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return files("unstale_worker").joinpath("sql", f"{name}.sql").read_text("utf-8")
