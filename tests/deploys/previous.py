"""The version before this one, taken from the repository's own history."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

COMMIT = "2df16edf2919423b5f36c2247db51691c435d0f7"
"""Version 0.1.0."""
REPOSITORY = Path(__file__).parents[2]


def unpacked(folder: Path) -> Path:
    """Unpack the previous version into ``folder``, and return it; skip the test where history lacks it."""
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip(f"the history of this checkout is shallow and lacks version 0.1.0 (commit {COMMIT[:7]})")
    archive = subprocess.run(
        ["git", "archive", COMMIT, "core", "worker", "supabase"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def python_path(version: Path | None) -> str:
    """Return the ``PYTHONPATH`` of a process of that version; None: this one."""
    tests = str(REPOSITORY / "tests")
    own = [] if version is None else [str(version / "core"), str(version / "worker")]
    return os.pathsep.join([*own, tests])
