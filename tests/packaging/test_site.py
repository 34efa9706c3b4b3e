"""The site of the documentation: complete, searchable, without other hosts, without links to nowhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "site" / "build.py"
BROKEN = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import build
real = build.text_of
build.text_of = lambda path: real(path) + sys.argv[3] * (path == "SECURITY.md")
build.build_site(pathlib.Path(sys.argv[2]))
"""
LOADS = re.compile(r"<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=\"?(https?:)?//", re.IGNORECASE)
RAW_LIST = re.compile(r"<p>[^<]*(?:<(?!/p>)[^>]*>[^<]*)*?\n(?:- |\d+\. |\|)")

pytestmark = pytest.mark.xdist_group("site")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = run(BUILD, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there_and_is_found_by_search(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / page.stem / "index.html").is_file(), page.name
        assert f"docs/{page.stem}/" in places, page.name
    assert "max_slot_wal_keep_size" in "".join(entry["text"] for entry in index["docs"])


def test_a_reader_asks_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert LOADS.search(page.read_text()) is None, page
    for style in site.rglob("*.css"):
        assert re.search(r"url\(\s*[\"']?https?:|@import", style.read_text()) is None, style


def test_lists_and_tables_are_shown_as_such(site: Path) -> None:
    for page in (site / "docs").rglob("*.html"):
        found = RAW_LIST.search(page.read_text())
        assert found is None, (page, found and found[0][-200:])


def test_language_models_get_an_index_of_the_sources(site: Path) -> None:
    text = (site / "llms.txt").read_text()
    assert text.startswith("# unstale\n\n> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(links)
    for link in links:
        assert (site / link).read_text() == (ROOT / link).read_text()


def test_links_that_lead_nowhere_fail_the_build(tmp_path: Path) -> None:
    links = ["docs/gone.md", "docs/rules.md#gone", "#gone"]
    done = run("-c", BROKEN, BUILD.parent, tmp_path, "".join(f"\n[broken]({link})\n" for link in links))
    assert done.returncode != 0
    for link in links:
        assert f"'{link}'" in done.stderr
