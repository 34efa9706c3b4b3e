"""The files of a Supabase project that an embedded database is made of."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from unstale.errors import ConfigurationError

FOLDER: Final = Path("supabase")
"""Folder of the Supabase command line, below the project's own."""


@dataclass(frozen=True, slots=True)
class Project:
    """Paths of a project's files, and the settings of ``supabase/config.toml`` that matter here."""

    migrations: Path | None = None
    """The folder of migrations, if there is one."""
    roles: Path | None = None
    """``supabase/roles.sql``, which runs before the first migration."""
    seeds: tuple[Path, ...] = ()
    """Files of ``[db.seed] sql_paths``, in their order."""
    missing_seeds: tuple[str, ...] = ()
    """Entries of ``sql_paths`` that match no file."""
    schemas: tuple[str, ...] = ("public", "graphql_public")
    """Schemas that the REST API exposes."""
    max_rows: int = 1_000
    """Most rows of one answer of the REST API."""
    grants_new_tables: bool = False
    """True if new tables in ``public`` are granted to the roles of the API."""

    @classmethod
    def read(cls, root: Path = Path()) -> Project:
        """Read the project in the folder `root`; raises `ConfigurationError` for a broken ``config.toml``."""
        folder = root / FOLDER
        config = _config(folder / "config.toml")
        seed, api = _table(config, "db", "seed"), _table(config, "api")
        seeds, missing = list[Path](), list[str]()
        if seed.get("enabled", True) is not False:
            for pattern in _texts(seed, "sql_paths", ("./seed.sql",)):
                found = sorted(path for path in folder.glob(pattern.removeprefix("./")) if path.is_file())
                seeds += [path for path in found if path not in seeds]
                if not found and "sql_paths" in seed:
                    missing.append(str(pattern))
        migrations, roles = folder / "migrations", folder / "roles.sql"
        return cls(
            migrations=migrations if migrations.is_dir() else None,
            roles=roles if roles.is_file() else None,
            seeds=tuple(seeds),
            missing_seeds=tuple(missing),
            schemas=_texts(api, "schemas", ("public", "graphql_public")),
            max_rows=_number(api, "max_rows", 1_000),
            grants_new_tables=api.get("auto_expose_new_tables") is True,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The migrations, in the order of their names."""
        return () if self.migrations is None else tuple(sorted(self.migrations.glob("*.sql")))


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}; correct the file") from error


def _table(config: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found: Any = config
    for name in names:
        found = found.get(name, {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def _texts(table: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = table.get(name, default)
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise ConfigurationError(f"{FOLDER / 'config.toml'}: {name} = {value!r}: expected a list of texts")
    return tuple(value)


def _number(table: Mapping[str, Any], name: str, default: int) -> int:
    value = table.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{FOLDER / 'config.toml'}: {name} = {value!r}: expected a positive number")
    return value
