"""Official programs that Supabase users run. If one is missing, fail in CI, else skip the test."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from services.kubernetes import HELM, SCHEMAS

HERE = Path(__file__).parents[1] / "platform"
REPOSITORY = HERE.parent.parent


def supabase_cli() -> Path:
    """Return the path of the official command line, which ``.ci/run`` installs."""
    program = HERE / "node_modules" / ".bin" / "supabase"
    if not program.exists():
        _missing("the Supabase CLI", f"npm install --no-package-lock --prefix {HERE.relative_to(REPOSITORY)}")
    return program


def pg_prove() -> str:
    """Return the path of the runner of pgTAP tests."""
    program = shutil.which("pg_prove")
    if program is None or not Path("/usr/share/postgresql/15/extension/pgtap.control").exists():
        _missing("pgTAP", "apt-get install postgresql-15-pgtap libtap-parser-sourcehandler-pgtap-perl")
    return program


def pg_cron() -> None:
    """Require the extension pg_cron of Debian's Postgres 15."""
    if not Path("/usr/share/postgresql/15/extension/pg_cron.control").exists():
        _missing("pg_cron", "apt-get install postgresql-15-cron")


def program(name: str, *, remedy: str) -> str:
    """Return the path of a program of this machine."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/lib/postgresql/15/bin")
    if found is None:
        _missing(name, remedy)
    return found


async def run(
    *command: str | Path, cwd: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, for a minute at most."""
    return await asyncio.to_thread(
        subprocess.run,
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "SUPABASE_TELEMETRY_DISABLED": "1", **(environment or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def helm() -> Path:
    """Return the path of helm, which lies beside the schemas of Kubernetes."""
    if not HELM.exists() or not SCHEMAS.exists():
        _missing("helm", "python tests/services/kubernetes.py")
    return HELM


def _missing(what: str, remedy: str) -> NoReturn:
    sentence = f"{what} is not installed: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(sentence)
    pytest.skip(sentence)
