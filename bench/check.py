"""Compare the ratios of short benchmark runs with the stored ones; exit 1 if one worsened beyond the noise.

Only ratios count, each measured within one run: absolute times say as much about the machine as about the
code. Each benchmark runs several times. The median is the figure, and half the distance of the quartiles its
noise, as a share of it; both are stored. With ``--write`` bench/results/ratios.json is written instead.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness import RESULTS, arguments, machine, noise

STORED: Final = RESULTS / "ratios.json"
NOISES: Final = 3
"""How many times the noise of both runs together a worsening has to exceed."""
LEAST: Final = 0.1
"""A smaller worsening is never reported: a few short runs may agree by chance."""

BENCHES: Final[Mapping[str, tuple[str, ...]]] = {
    "latency": ("--repeats", "3", "--seconds", "2"),
    "hits": ("--repeats", "3"),
    "opening": ("--quick",),
    "writepath": ("--repeats", "3", "--seconds", "2"),
}
"""The benchmarks, and the arguments that make them short."""

RATIOS: Final[Mapping[str, bool]] = {
    "latency.ratio.200.p50": False,
    "latency.ratio.200.p99": False,
    "latency.ratio.200.cpu": False,
    "latency.ratio.2000.p50": False,
    "latency.ratio.2000.p99": False,
    "latency.ratio.2000.cpu": False,
    "hits.near_private.time_ratio": False,
    "hits.near_shared.time_ratio": False,
    "hits.redis.time_ratio": False,
    "hits.redis_100.throughput_ratio": True,
    "opening.ratio": False,
    "writepath.tpcb.throughput_ratio": True,
    "writepath.tpcb.cpu_ratio": False,
    "writepath.update.throughput_ratio": True,
    "writepath.bulk.time_ratio": False,
}
"""Where each ratio stands in the output of its benchmark, and True if larger is better."""


class Ratio(NamedTuple):
    """A ratio, and by how much of itself it varies between runs."""

    value: float
    noise: float


class Change(NamedTuple):
    """By how much of itself a ratio is worse than the stored one, and how much of that is noise."""

    name: str
    stored: Ratio
    found: Ratio
    worse: float
    allowed: float

    @property
    def fails(self) -> bool:
        """True if the ratio is worse by more than noise explains."""
        return self.worse > self.allowed

    def __str__(self) -> str:
        word = "WORSE" if self.fails else "ok"
        values = f"{self.stored.value:8.3f} -> {self.found.value:8.3f}"
        return f"{word:6} {self.name:36} {values}  {self.worse:+7.1%}, noise {self.allowed:.1%}"


def compared(stored: Mapping[str, Ratio], found: Mapping[str, Ratio]) -> list[Change]:
    """Compare the ratios that both have."""
    changes = []
    for name in stored.keys() & found.keys():
        before, now = stored[name], found[name]
        worse = before.value / now.value - 1 if RATIOS[name] else now.value / before.value - 1
        allowed = max(LEAST, NOISES * (before.noise + now.noise))
        changes.append(Change(name, before, now, worse, allowed))
    return sorted(changes)


def ratios_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Ratio]:
    """The ratios of several runs, each the merged output of the benchmarks."""
    found = {}
    for name in RATIOS:
        values = [float(_at(run, name)) for run in runs]
        found[name] = Ratio(round(statistics.median(values), 4), noise(values))
    return found


def load(path: Path) -> dict[str, Ratio]:
    """Read stored ratios; those that are not compared any more are left out."""
    stored = json.loads(path.read_text())["ratios"]
    return {name: Ratio(**stored[name]) for name in RATIOS if name in stored}


def _at(run: Mapping[str, Any], name: str) -> Any:
    value: Any = run
    for part in name.split("."):
        value = value[part]
    return value


def _output(bench: str) -> Any:
    print(f"{bench} {' '.join(BENCHES[bench])}", flush=True)
    script = Path(__file__).with_name(f"{bench}.py")
    done = subprocess.run(
        [sys.executable, str(script), "--json", *BENCHES[bench]],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])[bench]


def main() -> None:
    options = arguments(__doc__ or "", repeats=3, write=False)
    if not options.write and not STORED.exists():
        sys.exit(f"There is no {STORED}. On a quiet machine run bench/check.py --write, and commit the file.")
    found = ratios_of([{bench: _output(bench) for bench in BENCHES} for _ in range(options.repeats)])
    if options.write:
        result = {
            "ratios": {name: ratio._asdict() for name, ratio in found.items()},
            "machine": machine(),
            "repeats": options.repeats,
        }
        STORED.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {STORED}")
        return
    changes = compared(load(STORED), found)
    print(*changes, sep="\n")
    if any(change.fails for change in changes):
        sys.exit(1)


if __name__ == "__main__":
    main()
