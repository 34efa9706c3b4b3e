"""Write a run of bench/scale.py into docs/performance.md: a table between markers, and a picture.

``python bench/scale_pages.py`` does it again from the stored run. Nothing here measures.
"""

import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).with_name("results") / "scale.json"
PICTURE: Final = ROOT / "docs" / "images" / "scale.png"
TABLES: Final = "scale-tables"
PAGES: Final = {ROOT / "docs" / "performance.md": TABLES}
TITLES: Final = {
    "keys_in_redis": "keys in Redis",
    "watched_tables": "watched tables, a rule each",
    "rows_of_a_transaction": "rows of one transaction",
    "value_bytes": "bytes of a value",
    "near_entries": "entries of a near cache",
}
FLAT: Final = 1.3
"""Largest cost by the smallest one up to which a cost counts as flat."""

Run = dict[str, Any]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, by least squares: 0 is flat, 1 is linear."""
    xs, ys = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    x, y = statistics.fmean(xs), statistics.fmean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def growth(sizes: Sequence[float], costs: Sequence[float]) -> str:
    """The verdict on a row of costs, in words."""
    spread = max(costs) / max(min(costs), 1e-9)
    if spread <= FLAT:
        return f"flat ({spread:.2f} ×)"
    return f"n^{exponent(sizes, costs):.2f}"


def write_pages(results: Path = RESULTS) -> list[Path]:
    """Write picture and table; returns what was written."""
    run = json.loads(results.read_text())
    PICTURE.parent.mkdir(exist_ok=True)
    plot(run, PICTURE)
    for page, marker in PAGES.items():
        page.write_text(with_tables(page.read_text(), marker, run))
    return [PICTURE, *PAGES]


def with_tables(text: str, marker: str, run: Run) -> str:
    """``text`` with the table of a run between its markers; raises ValueError when it has none."""
    begin, end = f"<!-- {marker}: written by bench/scale.py -->\n", f"<!-- /{marker} -->\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no lines {begin!r} and {end!r}")
    return pattern.sub(lambda _: begin + table(run) + end, text)


def table(run: Run) -> str:
    """All axes, in Markdown."""
    lines = [
        f"Measured {run['machine']},\nat a load of {run['load']:.1f}.\n\n",
        "| what grows | cost | at each size | growth |\n",
        "|" + " --- |" * 4 + "\n",
    ]
    for axis, costs in run["figures"].items():
        for number, (cost, found) in enumerate(costs.items()):
            sizes = [float(size) for size in found]
            shown = ", ".join(short(each) for each in found.values())
            grows = f"{TITLES[axis]}: {', '.join(map(short, sizes))}" if number == 0 else ""
            lines.append(f"| {grows} | {cost} | {shown} | {growth(sizes, list(found.values()))} |\n")
    return "".join(lines)


def plot(run: Run, path: Path) -> None:
    """The picture of a run: each cost relative to its first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(run["figures"]), figsize=(16, 3.6), constrained_layout=True)
    for axes, (axis, costs) in zip(panels, run["figures"].items(), strict=True):
        sizes: list[float] = []
        for cost, found in costs.items():
            sizes = [float(size) for size in found]
            values = list(found.values())
            axes.plot(sizes, [each / max(values[0], 1e-9) for each in values], "o-", markersize=4, label=cost)
        axes.axhspan(1 / FLAT, FLAT, color="#2a9d5c", alpha=0.12)
        axes.set_xscale("log")
        axes.set_yscale("log")
        bottom, top = axes.get_ylim()
        axes.set_ylim(min(bottom, 0.3), max(top, 4) * 3)
        axes.set_xlabel(TITLES[axis], fontsize=9)
        axes.legend(fontsize=7, frameon=False, loc="upper left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Costs, relative to the first size. Green: flat within 1.3 ×.", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def short(number: float) -> str:
    """Three digits, and k or M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


if __name__ == "__main__":
    for written in write_pages():
        print(f"written: {written}")
