"""The site of the documentation: complete, searchable, without other hosts, without links to nowhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from browser import tab

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


async def test_a_browser_finds_words_and_follows_the_system(site: Path) -> None:
    """Search runs in Chromium, in light and dark, on a phone too; no other host is asked, nothing fails."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        try:
            async with tab() as page:
                for dark, scheme in ((False, "default"), (True, "slate")):
                    await page.look(width=390, height=844, dark=dark, phone=True)
                    await page.go(f"{address}docs/comparison/")
                    await page.until(f"document.body.getAttribute('data-md-color-scheme') === '{scheme}'")
                    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                    assert await page.value(too_wide) == 0, "wide tables scroll by themselves"
                await page.look()
                await page.go(f"{address}?q=max_slot_wal_keep_size")
                found = "document.querySelector('.md-search-result__link')"
                await page.until(f"{found} !== null && {found}.href.includes('/docs/comparison/')")
                assert [url for url in page.urls if not url.startswith((address, "data:"))] == []
                assert page.errors == []
        finally:
            server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


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
