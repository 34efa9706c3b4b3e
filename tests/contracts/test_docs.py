"""The documentation says all there is: every setting, error, metric and word, and no link leads nowhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import unstale.errors
from unstale.settings import (
    AgentSettings,
    DatabaseSettings,
    OutboxSettings,
    PoolSettings,
    SharedSettings,
    WorkerSettings,
)
from unstale.settings.base import Settings
from unstale.settings.variables import variables
from unstale_worker.observe.agent_metrics import AGENT_METRICS, AgentMetric
from unstale_worker.observe.metric_table import DEFINITIONS, Definition
from unstale_worker.rules import Rules

ROOT = Path(__file__).parents[2]
FRONT = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")]
PAGES = [*FRONT, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]
PATH = re.compile(r"`((?:core|worker|tests|supabase|docs|examples|bench|docker|\.ci|\.github)/[\w./-]*)`")
MAPS = [page for page in PAGES if page.stem in ("CONTRIBUTING", "architecture")]
WIDTH = 100
WIDE = [ROOT / "CHANGELOG.md"]


def shown(page: Path) -> str:
    """Return a page's path in the repository, as the name of its test."""
    return str(page.relative_to(ROOT))


def sections(page: str) -> dict[str, str]:
    """Name and text under each heading of the form ``## `name```."""
    text = (ROOT / "docs" / page).read_text()
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    return {
        heading.strip("`"): body.strip()
        for heading, body in zip(parts[1::2], parts[2::2], strict=True)
        if heading.startswith("`")
    }


def errors() -> Iterator[type[Exception]]:
    for _, found in inspect.getmembers(unstale.errors, inspect.isclass):
        if issubclass(found, unstale.errors.UnstaleError):
            yield found


GROUPS: list[tuple[str, type[Settings]]] = [
    ("Agents and worker", SharedSettings),
    ("The database", DatabaseSettings),
    ("Following the outbox", OutboxSettings),
    ("Agents", AgentSettings),
    ("Connection pool", PoolSettings),
    ("Worker", WorkerSettings),
]
FIELDS = [
    (cls, name)
    for _, cls in GROUPS
    for name in cls.model_fields
    if not any(name in base.model_fields for base in cls.__bases__ if issubclass(base, Settings))
]


def test_every_setting_is_documented_once_under_its_class_and_nothing_else() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    found = re.findall(r"^(##|###) `?(.+?)`?$", text, re.MULTILINE)
    wanted = []
    for title, group in GROUPS:
        wanted.append(("##", title))
        wanted += [("###", cls.variables(name)[0]) for cls, name in FIELDS if cls is group]
    assert found == wanted
    assert set(variables().values()) == set(sections("settings.md"))
    assert len({name for _, name in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_a_settings_default_and_other_names_are_true(cls: type[Settings], name: str) -> None:
    names = cls.variables(name)
    said, default = sections("settings.md")[names[0]], cls.model_fields[name].default
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    shown = (
        "unset" if default is None else f"`{str(default).lower() if default in (True, False) else default}`"
    )
    assert f"Default: {shown}." in said
    assert all(f"`{other}`" in said for other in names[1:])


def test_every_error_is_documented_and_nothing_else() -> None:
    assert set(sections("errors.md")) == {error.__name__ for error in errors()}


@pytest.mark.parametrize("source", ["page", "docstring"])
def test_the_tree_of_errors_is_the_tree(source: str) -> None:
    if source == "page":
        text = (ROOT / "docs" / "errors.md").read_text().partition("```text\n")[2].partition("```")[0]
    else:
        text = inspect.cleandoc((unstale.errors.__doc__ or "").partition("::\n\n")[2])
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        name = re.split(r"\s{2,}", line.lstrip("│├└─ "))[0]
        line = line[: line.index(name) + len(name)]
        depth = (len(line) - len(name)) // 4
        del above[depth:]
        drawn[name] = above[-1] if above else "Exception"
        above.append(name)
    assert drawn == {error.__name__: error.__bases__[0].__name__ for error in errors()}


def test_every_metric_is_documented_with_its_own_sentence_and_nothing_else() -> None:
    said = sections("metrics.md")
    every: list[Definition | AgentMetric] = [*DEFINITIONS, *AGENT_METRICS]
    assert set(said) == {definition.name for definition in every}
    for definition in every:
        assert said[definition.name].startswith(f"{definition.kind.capitalize()}. {definition.help}\n")


def test_metrics_are_named_as_prometheus_wants() -> None:
    every: list[Definition | AgentMetric] = [*DEFINITIONS, *AGENT_METRICS]
    for definition in every:
        assert re.fullmatch(r"unstale_(worker|agents)_[a-z_]+", definition.name)
        assert definition.name.endswith("_total") is (definition.kind == "counter")


def test_settings_and_metrics_that_pages_mention_exist() -> None:
    known = {*variables().values()}
    metrics = {definition.name for definition in DEFINITIONS}
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"\bUNSTALE_(?!TEST_)[A-Z_]+\b", text)) <= known, page.name
        if page in (ROOT / "README.md", ROOT / "docs" / "operations.md"):
            assert set(re.findall(r"\bunstale_worker_[a-z_]+\b", text)) <= metrics


def test_the_glossary_has_each_word_once() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) == len(set(words))
    assert set(words) >= {
        "change", "outbox", "position", "source", "wake-up", "rule", "invalidate", "applier", "log", "lease",
        "near cache", "Redis tier", "fill", "watermark", "epoch", "run", "staleness", "detached", "horizon",
        "capture",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.is_file(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, target


def test_the_readme_names_every_page() -> None:
    """Its tables are the navigation of the site and llms.txt, so a page that is not there is in neither."""
    named = re.findall(r"^\| \[.+?\]\((docs/.+?)\) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_no_blank_line_cuts_a_table(page: Path) -> None:
    """What stands behind it has no head, and is shown as bars and text."""
    lines = [
        "",
        *re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL).splitlines(),
        "",
    ]
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("|") and not above.startswith("|"):
            assert re.fullmatch(r"[|: -]+", below), line


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_rules_on_pages_are_rules(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if "[[watch]]" in block:
            Rules.parse(block, file=page.name)


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{version('unstale')}]" in text or "## [Unreleased]" in text


@pytest.mark.parametrize("page", MAPS, ids=shown)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text()))
    assert len(named) > 20
    assert [
        path for path in named if not (ROOT / path).exists() and not (ROOT / f"{path}.py").is_file()
    ] == []


@pytest.mark.parametrize("page", MAPS, ids=shown)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_prose_has_at_most_a_hundred_columns(page: Path) -> None:
    prose = re.sub(
        r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.M | re.S
    )
    too_long = [
        number
        for number, line in enumerate(prose.splitlines(), 1)
        if len(line) > WIDTH and not line.lstrip().startswith(("|", "![", "<!--"))
    ]
    assert page in WIDE or too_long == []
