"""What pip installs is all of it: the wheel holds every file, and finds them without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
CONTENTS = {
    "core/unstale": "unstale",
    "worker/unstale_worker": "unstale_worker",
    "supabase/migrations": "unstale_worker/migrations",
    "examples/companion": "unstale_worker/examples/companion",
}
LOOK = """
from unstale_worker.demo.example import companion_folder
from unstale_worker.dev_servers import migrations_folder
import unstale
print(unstale.__file__, migrations_folder(), companion_folder(), sep="\\n")
"""

pytestmark = pytest.mark.xdist_group("wheel")  # build it once, not once per test process


@pytest.fixture(scope="module")
def installed(built_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("installed")
    with ZipFile(built_wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("folder", CONTENTS)
def test_every_file_is_in_it(installed: Path, folder: str) -> None:
    def files(top: Path) -> set[str]:
        found = {path.relative_to(top) for path in top.rglob("*") if path.is_file()}
        return {str(path) for path in found if "__pycache__" not in path.parts}

    wanted = files(ROOT / folder)
    assert wanted
    assert wanted <= files(installed / CONTENTS[folder])


def test_it_finds_its_migrations_and_its_example_in_itself(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(installed), line
