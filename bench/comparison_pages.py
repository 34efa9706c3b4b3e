"""Write the figures of a run of comparison.py into pages: tables between markers, and a plot.

``python bench/comparison_pages.py`` does it again from the stored run. Nothing here measures, and no
figure is typed by hand.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = Path(__file__).with_name("results") / "comparison.json"
PLOT: Final = ROOT / "docs" / "images" / "comparison.png"
ALL: Final = "comparison-tables"
SHORT: Final = "comparison-summary"
PAGES: Final = {ROOT / "docs" / "performance.md": ALL, ROOT / "README.md": SHORT}
ORIGINAL, POOL, CACHE = "#b0b0b0", "#5b8db8", "#2a9d5c"


def write_pages(results: Path = RESULTS) -> list[Path]:
    """Write plot and tables; returns what was written."""
    run = json.loads(results.read_text())
    PLOT.parent.mkdir(exist_ok=True)
    plot(run, PLOT)
    for page, marker in PAGES.items():
        page.write_text(with_tables(page.read_text(), marker, run))
    return [PLOT, *PAGES]


def with_tables(text: str, marker: str, run: dict[str, Any]) -> str:
    """``text`` with the tables of a run between its markers; raises ValueError when it has none."""
    begin, end = f"<!-- {marker}: written by bench/comparison.py -->\n", f"<!-- /{marker} -->\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no lines {begin!r} and {end!r}")
    tables = everything(run) if marker == ALL else summary(run)
    return pattern.sub(lambda _: begin + tables + end, text)


def everything(run: dict[str, Any]) -> str:
    """All tables, in Markdown."""
    figures, day = run["figures"], run["figures"]["day"]
    network, parallel, client = figures["network"], figures["parallel"], figures["client"]
    parts = [f"Measured {run['machine']}; {run['repeats']} run{'s' if run['repeats'] > 1 else ''}.\n\n"]
    parts.append(
        _table(
            ("operation", "original", "with pool", "with pool and cache", "from Redis only"),
            [
                _operation("get a profile", figures["profile"]),
                _operation("generate a greeting", figures["greeting"]),
                _operation("background processing of a turn", figures["background"]),
                ("an OpenAI client", ms(client["original_ms"]), *[ms(client["pool_ms"])] * 2, ""),
                (
                    "five operations", ms(parallel["original_ms"]), ms(parallel["pool_parallel_ms"]),
                    ms(parallel["pool_parallel_ms"]), "",
                ),
            ],
        )
    )  # fmt: skip
    parts.append(
        f"\nFive operations: {parallel['speedup']:.1f} times faster than one after the other with clients of "
        f"their own,\n{parallel['speedup_within_the_pool']:.1f} times within the pool. Health checks cost "
        f"{figures['health']['cpu_percent']:.3f} % of a core.\n\n"
    )
    parts.append(
        _table(
            (f"{network['requests']:,.0f} requests", "original", "with pool", "saved"),
            [
                _saving("new connections, and TLS handshakes", network, "connections"),
                _saving("DNS look-ups", network, "lookups"),
            ],
        )
    )
    ttl, ours = day["by_ttl"], day["unstale"]
    parts.append(
        f"\nA day of traffic, {day['changes']:,.0f} changes, {day['by_others']:,.0f} of them made by others "
        "than the\nagents (an hour of the day took a second):\n\n"
    )
    parts.append(
        _table(
            ("", "original", "cache by TTL", "unstale, the same TTLs"),
            [
                ("values read", *(f"{day[way]['reads']:,.0f}" for way in ("original", "by_ttl", "unstale"))),
                (
                    "database queries",
                    *(f"{day[way]['queries']:,.0f}" for way in ("original", "by_ttl", "unstale")),
                ),
                ("queries saved", "0 %", f"{ttl['queries_saved_percent']:.1f} %",
                 f"{ours['queries_saved_percent']:.1f} %"),
                ("stale reads (older than the instance had been told)", "", "never told",
                 f"{ours['stale_reads']:.0f}"),
                ("reads that began after a commit and missed it", "",
                 *(f"{way['older_than_the_newest_commit']:,.0f}" for way in (ttl, ours))),
                ("by at most", "", f"{ttl['oldest_minutes_of_the_day']:.0f} minutes of the day",
                 f"{ours['oldest_ms_of_the_run']:.1f} ms"),
            ],
        )
    )  # fmt: skip
    return "".join(parts)


def summary(run: dict[str, Any]) -> str:
    """The lines that matter most, in Markdown."""
    figures, day = run["figures"], run["figures"]["day"]
    return _table(
        ("", "original", "with pool", "with pool and cache"),
        [
            _either("get a profile", figures["profile"]),
            _either("generate a greeting", figures["greeting"]),
            (
                "a day's database queries", f"{day['original']['queries']:,.0f}",
                f"{day['original']['queries']:,.0f}", f"{day['unstale']['queries']:,.0f}",
            ),
        ],
    )  # fmt: skip


def plot(run: dict[str, Any], path: Path) -> None:
    """The picture of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures, day = run["figures"], run["figures"]["day"]
    parallel, client, network = figures["parallel"], figures["client"], figures["network"]
    rows: list[tuple[str, tuple[float | None, ...]]] = [
        ("get a profile", _three(figures["profile"])),
        ("generate a greeting", _three(figures["greeting"])),
        ("background processing", _three(figures["background"])),
        ("five operations", (parallel["original_ms"], parallel["pool_parallel_ms"], None)),
        ("make an OpenAI client", (client["original_ms"], client["pool_ms"], None)),
    ]
    shares = [
        ("database queries\nof a day", day["unstale"]["queries_saved_percent"], CACHE),
        ("new connections,\nTLS handshakes", network["connections_saved_percent"], POOL),
        ("DNS look-ups", network["lookups_saved_percent"], POOL),
    ]
    figure, (times, savings) = pyplot.subplots(
        1, 2, figsize=(11, 4.2), width_ratios=(3, 1.5), constrained_layout=True
    )
    ways = (("original", ORIGINAL), ("with pool", POOL), ("with pool and cache: a hit in memory", CACHE))
    for number, (way, color) in enumerate(ways):
        shown = [
            (place, value) for place, (_, values) in enumerate(rows) if (value := values[number]) is not None
        ]
        bars = times.barh(
            [place + (number - 1) * 0.27 for place, _ in shown], [value for _, value in shown],
            height=0.25, color=color, label=way, left=1e-4,
        )  # fmt: skip
        times.bar_label(bars, labels=[ms(value) for _, value in shown], padding=3, fontsize=8)
    times.set_xscale("log")
    times.set_xlim(1e-4, 1e5)
    times.set_yticks(range(len(rows)), [row[0] for row in rows])
    times.invert_yaxis()
    times.set_xlabel("milliseconds (logarithmic)")
    figure.legend(loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    bars = savings.barh(
        range(len(shares)),
        [share for _, share, _ in shares],
        color=[color for *_, color in shares],
        height=0.5,
    )
    savings.bar_label(bars, labels=[f"{share:.0f} %" for _, share, _ in shares], padding=3, fontsize=9)
    savings.set_yticks(range(len(shares)), [name for name, *_ in shares])
    savings.invert_yaxis()
    savings.set_xlim(0, 118)
    savings.set_xlabel("saved, in percent")
    for axes in (times, savings):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("What an agent's operations take: database 50–100 ms away, model 0.5–1 s", fontsize=11)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


def ms(milliseconds: float) -> str:
    """Rounded to what can be told apart."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    if milliseconds >= 10:
        return f"{milliseconds:.0f} ms"
    if milliseconds >= 0.1:
        return f"{milliseconds:.2f} ms"
    return f"{milliseconds * 1000:.1f} µs"


def _three(figures: dict[str, float]) -> tuple[float, float, float]:
    return figures["original_ms"], figures["pool_ms"], figures["near_ms"]


def _operation(name: str, figures: dict[str, float]) -> tuple[str, ...]:
    redis = ms(figures["redis_ms"]) if "redis_ms" in figures else ""
    return (name, *map(ms, _three(figures)), redis)


def _either(name: str, figures: dict[str, float]) -> tuple[str, ...]:
    *cells, memory, redis = _operation(name, figures)
    return (*cells, f"{memory}, from Redis {redis}")


def _saving(name: str, figures: dict[str, float], what: str) -> tuple[str, ...]:
    return (
        name, f"{figures[f'original_{what}']:,.0f}", f"{figures[f'pool_{what}']:,.0f}",
        f"{figures[f'{what}_saved_percent']:.1f} %",
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for written in write_pages():
        print(f"written: {written}")
