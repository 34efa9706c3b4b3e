"""Figures that pages show come from a stored run of a benchmark, and from nowhere else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMPARISON = bench("comparison_pages")
PEERS = bench("peers_pages")
SCALE = bench("scale_pages")
RUN = json.loads(COMPARISON.RESULTS.read_text())


@pytest.mark.parametrize("pages", [COMPARISON, PEERS, SCALE], ids=["comparison", "peers", "scale"])
def test_the_tables_are_those_of_the_stored_run(pages: ModuleType) -> None:
    run = json.loads(pages.RESULTS.read_text())
    other = json.loads(pages.RESULTS.read_text(), parse_float=lambda number: float(number) * 1.5)
    for page, marker in pages.PAGES.items():
        text = page.read_text()
        assert pages.with_tables(text, marker, run) == text, page.name
        assert pages.with_tables(text, marker, other) != text, page.name


def test_the_best_figure_of_a_column_is_bold_whosever_it_is() -> None:
    run = json.loads(PEERS.RESULTS.read_text())
    for name in run["figures"]:
        run["figures"][name]["mixed"]["worst_ms"] = 1.0 if name == "glide" else 50.0
    row = next(line for line in PEERS.summary(run).splitlines() if "GLIDE" in line)
    assert "**1.0 ms**" in row
    assert PEERS.summary(run).count("50 ms") == len(run["figures"]) - 1


def test_the_plot_can_be_made_of_it(tmp_path: Path) -> None:
    COMPARISON.plot(RUN, tmp_path / "again.png")
    again, stored = (tmp_path / "again.png").read_bytes(), COMPARISON.PLOT.read_bytes()
    assert again[:8] == stored[:8] == b"\x89PNG\r\n\x1a\n"
    assert again[16:24] == stored[16:24]  # width and height


@pytest.mark.parametrize("pages", [PEERS, SCALE], ids=["peers", "scale"])
def test_the_picture_can_be_made_of_its_run(pages: ModuleType, tmp_path: Path) -> None:
    pages.plot(json.loads(pages.RESULTS.read_text()), tmp_path / "again.png")
    again, stored = (tmp_path / "again.png").read_bytes(), pages.PICTURE.read_bytes()
    assert again[16:24] == stored[16:24]  # width and height


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="comparison-tables"):
        COMPARISON.with_tables("no markers", COMPARISON.ALL, RUN)


def test_make_bench_runs_every_benchmark() -> None:
    """All but the races, which take arguments of their own and are told of in docs/reliability.md."""
    (listed,) = re.findall(r"for bench in (.+?);", (ROOT / "Makefile").read_text())
    texts = {path.stem: path.read_text() for path in (ROOT / "bench").glob("*.py") if path.stem != "harness"}
    assert set(listed.split()) == {name for name, text in texts.items() if re.search(r"\bfinish\(", text)}


def test_a_benchmark_ends_with_its_figures_plainly_and_under_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {"200": {"p50_ms": 1.5}, "2000": {"p50_ms": 2.0}}
    bench("harness").finish("latency", figures, as_json=True, repeats=3)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said | figures == said
    assert said["latency"] == figures
    assert said["repeats"] == 3
