"""A release: one version everywhere, and packages that an index would accept."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import unstale

ROOT = Path(__file__).parents[2]
PLACES = {
    "Dockerfile": r'image\.version="(.+?)"',
    "deploy/helm/unstale/Chart.yaml": r"^version: (\S+)$",
    "docker-compose.yml": r"image: unstale:(\S+)",
    "CHANGELOG.md": r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$",
    "docs/upgrading.md": r"^## To (\S+)$",
}
"""Files that name the version, each with the pattern whose first match is the newest one."""

pytestmark = pytest.mark.xdist_group("install")


@pytest.fixture(scope="module")
def built_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)],
        cwd=ROOT, check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def checked(program: str, *arguments: str | Path) -> str:
    """Run a program of this environment, and return its output; it must succeed."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metadata(wheel: Path) -> str:
    """Return the wheel's METADATA."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


@pytest.mark.parametrize("place", PLACES)
def test_every_place_names_this_version(place: str) -> None:
    found = re.search(PLACES[place], (ROOT / place).read_text(), re.MULTILINE)
    assert found is not None, place
    assert found[1] == unstale.__version__, "core/unstale/version.py has another one"


def test_the_packages_have_it_too(built_wheel: Path, built_sdist: Path) -> None:
    assert f"\nVersion: {unstale.__version__}\n" in metadata(built_wheel)
    assert built_sdist.name == f"unstale-{unstale.__version__}.tar.gz"
    assert checked("unstale", "--version") == f"unstale {unstale.__version__}\n"


def test_an_index_would_accept_them(built_wheel: Path, built_sdist: Path) -> None:
    assert checked("twine", "check", "--strict", built_wheel, built_sdist).count("PASSED") == 2
    checked("check-wheel-contents", "--toplevel", "unstale,unstale_worker", built_wheel)


def test_the_source_makes_the_same_wheel(built_wheel: Path, built_sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(built_sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=source, check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    (made,) = tmp_path.glob("*.whl")
    with ZipFile(made) as one, ZipFile(built_wheel) as other:
        assert {(item.filename, item.CRC) for item in one.infolist()} == {
            (item.filename, item.CRC) for item in other.infolist()
        }
