"""Where the time of one change goes, hop by hop, beside the bare chain: a picture for docs/performance.md.

The chains of `latency.py` run in turns at each rate, with a clock at each hop (`traced.py`). A hop ends at
the median of all changes, in milliseconds since the commit was acknowledged; of the agents the last one
counts. With ``--write`` the figures go to bench/results/waterfall.json, and the picture to
docs/images/latency.png.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
from harness import arguments, ended, machine, medians, run, store
from latency import RATES, Carried, carried, chains

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "latency.png"
OURS: Final = {
    "wake-up heard": "#8c8c8c",
    "turn of the loop": "#c4a484",
    "outbox read": "#4c72b0",
    "planned": "#dd8452",
    "script sent": "#937860",
    "message heard": "#c44e52",
    "near cache dropped": "#55a868",
    "subscriber told": "#8172b3",
}
"""What each hop ends with, in order, and its color; the floor has those that it shares."""


async def main() -> None:
    options = arguments(__doc__ or "", repeats=3, seconds=4.0, write=False)
    seconds = options.seconds / 4 if options.quick else options.seconds
    figures = await traced(seconds, options.repeats)
    print(json.dumps(figures, indent=1))
    if options.write:
        store("waterfall", figures, repeats=options.repeats)
        draw(figures, PICTURE, load=os.getloadavg()[1])
        print(f"written: {PICTURE}")


async def traced(seconds: float, repeats: int) -> dict[str, Any]:
    """Medians over the repeats of when each hop of either chain had ended."""
    runs: dict[tuple[int, str], list[Carried]] = {}
    with TemporaryDirectory(prefix="unstale-bench-") as name:
        os.environ["BENCH_TRACE"], folder = name, Path(name)
        script = str(Path(__file__).with_name("traced.py"))
        async with chains(int(sum(RATES) * seconds * repeats) + 10, command=(script,)) as (running, workers):
            low = 1
            for _ in range(repeats):
                for rate in RATES:
                    for chain in ("bare", "user"):
                        run_ = await carried(
                            running, chain, workers[chain], rate, seconds, low, script="traced.py"
                        )
                        runs.setdefault((rate, chain), []).append(run_)
                    low += int(rate * seconds)
            floor = await ended(workers["bare"])
        (ours,), heard = _written(folder, "worker"), _written(folder, "agent")
    steps = {key: times for keys, *times in ours for key in keys}
    bare = {key: [woken, woken, read, read, sent] for woken, read, sent, _, keys in floor for key in keys}
    last: dict[str, Sequence[float]] = {}
    for agent in heard:
        for key, times in agent.items():
            last[key] = max(last.get(key, times), times)
    return {
        str(rate): {
            "ours": medians([hops(each, steps, last) for each in runs[rate, "user"]]),
            "floor": medians([hops(each, bare, {}) for each in runs[rate, "bare"]]),
        }
        for rate in RATES
    }


def _written(folder: Path, role: str) -> list[Any]:
    """What the traced processes of a role wrote when they ended."""
    return [orjson.loads(path.read_bytes()) for path in folder.glob(f"{role}-*.json")]


def hops(
    run_: Carried, steps: Mapping[str, Sequence[float]], heard: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Milliseconds from the commit until each hop had ended, in the median; none before the last one."""
    found: list[list[float]] = []
    for key, at in run_.committed.items():
        if key in steps and all(key in dropped for dropped in run_.drops):
            told = max(dropped[key] for dropped in run_.drops)
            points = [*steps[key][:5], *heard.get(key, (told, told)), told]
            found.append([1000 * (point - at) for point in points])
    middle = [sorted(column)[len(column) // 2] for column in zip(*found, strict=True)]
    ends = [max(0.0, *middle[: place + 1]) for place in range(len(middle))]
    return dict(zip(OURS, ends, strict=True))


def draw(figures: Mapping[str, Any], path: Path, *, load: float) -> None:
    """Draw both chains at each rate, one bar each, a segment for each hop."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(RATES), 1, figsize=(10, 4.4), sharex=True, constrained_layout=True)
    longest = max(max(bar.values()) for rate in figures.values() for bar in rate.values())
    for axis, rate in zip(axes, RATES, strict=True):
        for place, chain in enumerate(("ours", "floor")):
            begun = 0.0
            for hop, end in figures[str(rate)][chain].items():
                axis.barh(
                    place, end - begun, left=begun, height=0.6, color=OURS[hop],
                    label=hop if (place, rate) == (0, RATES[0]) else None,
                )  # fmt: skip
                if end - begun > 0.05 * longest:
                    axis.text(
                        (begun + end) / 2, place, f"{end - begun:.2f}",
                        ha="center", va="center", fontsize=8, color="white",
                    )  # fmt: skip
                begun = end
            axis.text(begun, place, f"  {begun:.2f} ms", va="center", fontsize=9)
        axis.set_yticks((0, 1), ("unstale", "bare chain"))
        axis.invert_yaxis()
        axis.set_title(f"{rate:,} changes a second", fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.1)
    axes[-1].set_xlabel("milliseconds since the commit was acknowledged (median of all changes)")
    figure.suptitle(f"Where the time of one change goes ({machine()}, load {load:.0f})", fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False, title="up to")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    run(main)
