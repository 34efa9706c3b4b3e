"""Build the documentation as a site: ``python deploy/site/build.py [FOLDER]``, or ``make docs``.

It follows the links of README.md, so the site has every page that a reader of the repository can reach, at
the same relative paths. The navigation and llms.txt come from the tables under "Where next". A link or an
anchor that leads nowhere, and a page that no table names, fail the build. Needs the extra ``docs``.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import unquote

from mkdocs.commands.build import build
from mkdocs.config import load_config

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
ROW = re.compile(r"^\| \[[^\]]+\]\(([^)#]+\.md)\) \| (.+) \|$", re.MULTILINE)
SECTION = re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE)


class Page(NamedTuple):
    """A page that README.md's tables name."""

    path: str
    description: str


def text_of(path: str) -> str:
    return (ROOT / path).read_text()


def title(path: str) -> str:
    """Return a page's first heading, without the marks of code."""
    found = re.search(r"^# (.+)$", text_of(path), re.MULTILINE)
    assert found is not None, f"{path} has no heading"
    return found[1].replace("`", "")


def reached() -> list[str]:
    """Return the paths of all files that can be reached from README.md, in the order of the first link."""
    found = ["README.md"]
    for page in found:
        if not page.endswith(".md"):
            continue
        for target in LINK.findall(text_of(page)):
            if re.match(r"[a-z]+:", target):
                continue
            linked = (ROOT / page).parent / unquote(target)
            if linked.is_file():  # a file that is not there fails the build
                path = str(linked.resolve().relative_to(ROOT))
                if path not in found:
                    found.append(path)
    return found


def sections() -> Iterator[tuple[str, list[Page]]]:
    """Yield each table under "Where next": its name and its pages."""
    parts = SECTION.split(text_of("README.md").partition("\n## Where next\n")[2])
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        yield name, [Page(*row) for row in ROW.findall(body)]


def navigation(files: list[str]) -> list[dict[str, object]]:
    """Return mkdocs' navigation: README.md, the tables, then pages that only other pages lead to."""
    found: list[dict[str, object]] = [{"unstale": "README.md"}]
    listed = {"README.md"}
    for name, pages in sections():
        found.append({name: [{title(page.path): page.path} for page in pages]})
        listed |= {page.path for page in pages}
    deeper = [path for path in files if path.endswith("/README.md") and path not in listed]
    return [*found, {"Deeper": [{title(path): path} for path in deeper]}]


def llms_txt() -> str:
    """Return the index for language models, in the form of llmstxt.org; its links lead to the Markdown."""
    lines = ["# unstale", "", "> Keeps Redis and in-process caches true to a Supabase Postgres.", ""]
    lines += ["A committed change of a watched table removes its keys from Redis and from every process."]
    for name, pages in [("Overview", [Page("README.md", "what it is, what it promises")]), *sections()]:
        rows = [f"- [{title(page.path)}]({page.path}): {page.description}" for page in pages]
        lines += ["", f"## {name}", "", *rows]
    return re.sub(r"\[([^\]]+)\]\([^)]*\)(?=[^:])", r"\1", "\n".join(lines)) + "\n"


def anchor(heading: str, separator: str) -> str:
    """Return a heading's anchor as the repository's host makes it, so that links work in both places."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def for_python_markdown(text: str) -> str:
    """Write lists as Python-Markdown wants them; the repository's host reads both ways.

    What belongs to an item is indented by four columns instead of two or three, and an item that follows a
    paragraph inside the item before it is set apart by a blank line.
    """
    lines: list[str] = []
    fence: int | None = None  # the shift of the block of code that the line is in
    parted = False  # the item has a blank line in it
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        shift = fence if fence is not None else 4 - indent if 0 < indent < 4 else 0
        if line.lstrip().startswith("```"):
            fence = shift if fence is None else None
        if fence is None and not indent and re.match(r"- |\d+\. ", line):
            if parted and lines[-1]:
                lines.append("")
            parted = False
        elif indent and lines and not lines[-1]:
            parted = True
        lines.append(" " * shift + line)
    return "\n".join(lines) + "\n"


def build_site(folder: Path) -> None:
    """Build the site into ``folder``; end the process if a link leads nowhere."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    files = reached()
    with TemporaryDirectory() as made:
        source = Path(made)
        for path in files:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith(".md"):
                wide = "---\nhide: [toc]\n---\n" if path == "README.md" else ""  # its drawing needs the room
                (source / path).write_text(wide + for_python_markdown(text_of(path)))
            else:
                shutil.copy(ROOT / path, source / path)
        shutil.copy(HERE / "site.css", source)
        config = load_config(
            str(HERE / "mkdocs.yml"), docs_dir=made, site_dir=str(folder), nav=navigation(files)
        )
        config.mdx_configs["toc"]["slugify"] = anchor
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
        config.plugins.on_shutdown()
    for path in files:
        if path.endswith(".md"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    (folder / "llms.txt").write_text(llms_txt())


if __name__ == "__main__":
    build_site(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").absolute())
