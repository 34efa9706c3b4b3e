"""Join the rounds of bench/peers.py, and write them into pages: tables between markers, and a picture.

``python bench/peers_pages.py`` does it again from the stored run. Nothing here measures, and no figure is
typed by hand. The best figure of each column is bold, whoever's it is.
"""

import json
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).with_name("results") / "peers.json"
PICTURE: Final = ROOT / "docs" / "images" / "peers.png"
ALL: Final = "peers-tables"
SHORT: Final = "peers-summary"
PAGES: Final = {ROOT / "docs" / "comparison.md": ALL, ROOT / "README.md": SHORT}
OURS, OTHERS, LIGHT = "#2a9d5c", "#5b8db8", "#b0b0b0"

Run = dict[str, Any]
Value = float | None


def merged(turns: Sequence[Run]) -> Run:
    """Several rounds of one way as one: sums of counts, medians of costs, percentiles of all delays."""

    def median(part: str) -> dict[str, float]:
        shared = [name for name in turns[0][part] if all(name in turn[part] for turn in turns)]
        return {name: round(statistics.median(turn[part][name] for turn in turns), 3) for name in shared}

    mixed = {name: sum(turn["mixed"][name] for turn in turns) for name in turns[0]["mixed"]}
    delays = sorted(delay for turn in turns for delay in turn["gone"]["delays_ms"])
    gone: dict[str, Any] = {
        "changes": sum(turn["gone"]["changes"] for turn in turns),
        "never": sum(turn["gone"]["never"] for turn in turns),
    }
    if delays:
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            gone[name] = round(delays[min(len(delays) - 1, int(share * len(delays)))], 3)
    return {
        "mixed": {**mixed, "worst_ms": round(max(turn["mixed"]["worst_ms"] for turn in turns), 1)},
        "gone": gone,
        "hits": median("hits"),
        "writes": median("writes"),
        "races": {name: sum(turn["races"][name] for turn in turns) for name in turns[0]["races"]},
    }


def write_pages(results: Path = RESULTS) -> list[Path]:
    """Write picture and tables; returns what was written."""
    run = json.loads(results.read_text())
    PICTURE.parent.mkdir(exist_ok=True)
    plot(run, PICTURE)
    for page, marker in PAGES.items():
        page.write_text(with_tables(page.read_text(), marker, run))
    return [PICTURE, *PAGES]


def with_tables(text: str, marker: str, run: Run) -> str:
    """``text`` with the tables of a run between its markers; raises ValueError when it has none."""
    begin, end = f"<!-- {marker}: written by bench/peers.py -->\n", f"<!-- /{marker} -->\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no lines {begin!r} and {end!r}")
    tables = everything(run) if marker == ALL else summary(run)
    return pattern.sub(lambda _: begin + tables + end, text)


def everything(run: Run) -> str:
    """All tables, in Markdown."""
    of = _Columns(run)
    changed = {name: each for name, each in run["figures"].items() if each["writes"]}
    writes = _Columns({**run, "figures": changed})
    parts = [
        _wrapped(
            f"Measured {run['machine']}; {run['repeats']} round{'s' if run['repeats'] > 1 else ''}, "
            f"at a load of {run['load']:.1f} before it began. The best figure of a column is bold."
        )
        + "\n",
        "Staleness:\n\n",
        _table(
            of.column("way"),
            of.column("stale reads", _stale_share, percent),
            of.column("oldest answer", _worst, ms),
            of.column("commit → gone, p50", _gone("p50_ms"), ms),
            of.column("commit → gone, p99", _gone("p99_ms"), ms),
            of.column(f"stale after {run['give_up']:.0f} s", _gone("never"), count),
            of.column("database reads of 100", lambda each: _ratio(each, "loads") * 100, count),
        ),
        f"\nKeys that were stale after a race that was provoked, of {run['raced']}:\n\n",
        _table(
            of.column("way"),
            of.column("a load is overtaken", _race("load_against_delete"), count),
            of.column("by a second fill too", _race("two_fills"), count),
            of.column("listener cut off", _race("cut_off"), count),
        ),
        "\nHits, one after the other unless it says 100, with the CPU time of the agent in brackets:\n\n",
        _table(
            of.column("way"),
            of.column("from memory", _hit("memory_us"), us, _hit("memory_cpu_us")),
            of.column("from Redis", _hit("redis_us"), us, _hit("redis_cpu_us")),
            of.column(
                "100 at once, from Redis", _hit("redis_per_s_of_100"), per_s,
                _hit("redis_cpu_us_of_100"), best=max,
            ),
            of.column("CPU of Redis a hit", _hit("redis_server_cpu_us"), us),
        ),
        "\nMemory:\n\n",
        _table(
            of.column("way"),
            of.column("agent with nothing cached", _hit("agent_mb"), megabytes),
            of.column("agent, for each entry", _hit("memory_bytes"), count, unit=" B"),
            of.column("Redis, for each key", _hit("redis_bytes"), count, unit=" B"),
        ),
        "\nSingle-row UPDATE of 8 sessions, beside what hears of the changes, on the same cores:\n\n",
        _table(
            writes.column("way"),
            writes.column("rate, of that without a trigger", _write("rate_ratio"), times, best=max),
            writes.column("CPU of Postgres a transaction", _cpu_ratio, times),
        ),
    ]  # fmt: skip
    parts += [
        "\nThe ways that rely on a TTL alone add nothing to a write.\n\nWhere another way was better:\n\n",
        *(_wrapped(f"- {each}") for each in of.beaten + writes.beaten),
        "\nHow each was configured:\n\n",
        *(_wrapped(f"- **{each['title']}**: {each['how']}") for each in run["ways"].values()),
    ]
    return "".join(parts)


def summary(run: Run) -> str:
    """The columns that matter most, in Markdown."""
    of = _Columns(run)
    return _table(
        of.column("way"),
        of.column("stale reads", _stale_share, percent),
        of.column("oldest answer", _worst, ms),
        of.column("commit → gone, p50", _gone("p50_ms"), ms),
        of.column("commit → gone, p99", _gone("p99_ms"), ms),
        of.column(f"stale after provoked races, of {3 * run['raced']}", _all_races, count),
        of.column("hit in memory", _hit("memory_us"), us),
        of.column("hit in Redis", _hit("redis_us"), us),
    )


class _Columns:
    """Columns of a table with a row for each way."""

    def __init__(self, run: Run) -> None:
        self._figures: dict[str, Run] = run["figures"]
        self._titles = {name: each["title"] for name, each in run["ways"].items()}
        self.beaten: list[str] = []
        """Columns in which unstale is not the best, with those that are."""

    def column(
        self,
        head: str,
        value: Callable[[Run], Value] | None = None,
        shown: Callable[[float], str] = str,
        bracket: Callable[[Run], Value] | None = None,
        *,
        best: Callable[[list[float]], float] = min,
        unit: str = "",
    ) -> list[str]:
        if value is None:
            return [head, *(self._titles[name] for name in self._figures)]
        values = [value(each) for each in self._figures.values()]
        known = [shown(each) for each in values if each is not None]
        first = shown(best([each for each in values if each is not None])) if known else ""
        better = [self._titles[n] for n, each in zip(self._figures, values, strict=True)
                  if each is not None and shown(each) == first]  # fmt: skip
        if "unstale" in self._figures and better and self._titles["unstale"] not in better:
            self.beaten.append(f"{head}: {better[0] if len(better) == 1 else f'{len(better)} others'}")
        cells = []
        for each, figures in zip(values, self._figures.values(), strict=True):
            cell = "–" if each is None else shown(each) + unit
            if each is not None and shown(each) == first:
                cell = f"**{cell}**"
            inside = bracket(figures) if bracket else None
            cells.append(cell if inside is None else f"{cell} ({us(inside)})")
        return [head, *cells]


def plot(run: Run, path: Path) -> None:
    """The picture of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures: dict[str, Run] = run["figures"]
    titles = [run["ways"][name]["title"].replace("`", "").replace(", with ", ",\nwith ") for name in figures]
    places = range(len(figures))
    colors = [OURS if name == "unstale" else OTHERS for name in figures]
    figure, (stale, gone, hits, races) = pyplot.subplots(
        1, 4, figsize=(15, 5), sharey=True, constrained_layout=True
    )

    shares = [100 * _stale_share(each) for each in figures.values()]
    bars = stale.barh(places, shares, color=colors, height=0.6)
    stale.bar_label(bars, labels=[percent(share / 100) for share in shares], padding=3, fontsize=8)
    stale.set_xlim(0, max(*shares, 1) * 1.3)
    stale.set_xlabel("stale reads, %")

    floor = 0.05
    for place, each, color in zip(places, figures.values(), colors, strict=True):
        p50, p99 = (max(floor, each["gone"].get(name, floor)) for name in ("p50_ms", "p99_ms"))
        gone.plot([p50, p99], [place, place], color=color, linewidth=3, solid_capstyle="round")
        gone.plot([p50], [place], "o", color=color, markersize=7)
        gone.annotate(f" {ms(p50)} / {ms(p99)}", (p99, place), fontsize=8, va="center", xytext=(4, 0),
                      textcoords="offset points")  # fmt: skip
    gone.set_xscale("log")
    gone.set_xlim(floor, 2e5)
    gone.set_xlabel("commit → gone: p50 (dot) to p99, ms")

    for offset, name, color, label in (
        (-0.2, "redis_us", LIGHT, "from Redis"), (0.2, "memory_us", OURS, "from memory"),
    ):  # fmt: skip
        shown = [(place, each["hits"][name]) for place, each in zip(places, figures.values(), strict=True)
                 if name in each["hits"]]  # fmt: skip
        bars = hits.barh([place + offset for place, _ in shown], [value for _, value in shown], height=0.36,
                         color=color, label=label)  # fmt: skip
        hits.bar_label(bars, labels=[us(value) for _, value in shown], padding=3, fontsize=8)
    hits.set_xscale("log")
    hits.set_xlim(0.3, max(each["hits"].get("redis_us", 1) for each in figures.values()) * 12)
    hits.set_xlabel("a hit, µs")
    hits.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    left = [0.0] * len(figures)
    for name, label, color in (
        ("load_against_delete", "a load is overtaken", "#e9c46a"),
        ("two_fills", "by a second fill too", "#f4a261"),
        ("cut_off", "listener cut off", "#e76f51"),
    ):  # fmt: skip
        values = [float(each["races"].get(name, 0)) for each in figures.values()]
        races.barh(places, values, left=left, height=0.6, color=color, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, total in zip(places, left, strict=True):
        races.annotate(f" {total:.0f}", (total, place), fontsize=8, va="center")
    races.set_xlim(0, 3.5 * run["raced"])
    races.set_xlabel(f"keys stale after provoked races, of {3 * run['raced']}")
    races.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

    stale.set_yticks(places, titles, fontsize=9)
    stale.invert_yaxis()
    for axes in (stale, gone, hits, races):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.suptitle("The same reads and changes, cached in nine ways. Shorter is better.", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def ms(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def us(microseconds: float) -> str:
    return f"{microseconds:.0f} µs" if microseconds >= 10 else f"{microseconds:.1f} µs"


def percent(share: float) -> str:
    return "0" if share == 0 else f"{100 * share:.2f} %" if share < 0.01 else f"{100 * share:.1f} %"


def per_s(rate: float) -> str:
    return f"{rate:,.0f}/s"


def count(number: float) -> str:
    return f"{number:,.0f}"


def times(ratio: float) -> str:
    return f"{ratio:.2f} ×"


def megabytes(number: float) -> str:
    return f"{number:.0f} MB"


def _ratio(each: Run, name: str) -> float:
    return float(each["mixed"][name] / each["mixed"]["reads"])


def _stale_share(each: Run) -> float:
    return _ratio(each, "stale")


def _worst(each: Run) -> Value:
    return float(each["mixed"]["worst_ms"])


def _all_races(each: Run) -> Value:
    return float(sum(each["races"].values()))


def _cpu_ratio(each: Run) -> Value:
    return float(each["writes"]["cpu_us"] / each["writes"]["plain_cpu_us"])


def _gone(name: str) -> Callable[[Run], Value]:
    return lambda each: each["gone"].get(name)


def _hit(name: str) -> Callable[[Run], Value]:
    return lambda each: each["hits"].get(name)


def _race(name: str) -> Callable[[Run], Value]:
    return lambda each: each["races"].get(name)


def _write(name: str) -> Callable[[Run], Value]:
    return lambda each: each["writes"].get(name)


def _wrapped(text: str) -> str:
    """A paragraph, or an item of a list, in lines of at most 100 columns."""
    indent = "  " if text.startswith("- ") else ""
    lines = textwrap.wrap(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines)


def _table(*columns: list[str]) -> str:
    head, *rows = zip(*columns, strict=True)
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for written in write_pages():
        print(f"written: {written}")
