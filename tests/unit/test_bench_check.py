"""The comparison of benchmark ratios fails on a worsening beyond the noise, and on nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import check
from check import Ratio, compared, load, ratios_of

LATENCY, HITS = "latency.ratio.200.p50", "hits.redis_100.throughput_ratio"


@pytest.mark.parametrize(
    ("name", "stored", "found", "fails"),
    [
        (LATENCY, Ratio(1.3, 0.0), Ratio(1.3, 0.0), False),
        (LATENCY, Ratio(1.3, 0.0), Ratio(1.42, 0.0), False),  # 9 %: below the least that counts
        (LATENCY, Ratio(1.3, 0.0), Ratio(1.5, 0.0), True),
        (LATENCY, Ratio(1.3, 0.0), Ratio(0.9, 0.0), False),  # better
        (LATENCY, Ratio(1.3, 0.05), Ratio(1.6, 0.05), False),  # 23 % of 30 % that noise explains
        (LATENCY, Ratio(1.3, 0.05), Ratio(1.8, 0.05), True),
        (HITS, Ratio(4.0, 0.01), Ratio(5.0, 0.01), False),  # larger is better
        (HITS, Ratio(4.0, 0.01), Ratio(3.5, 0.01), True),
    ],
)
def test_only_a_worsening_beyond_the_noise_fails(name: str, stored: Ratio, found: Ratio, fails: bool) -> None:
    (change,) = compared({name: stored}, {name: found})
    assert change.fails is fails
    assert str(change).startswith("WORSE" if fails else "ok")


def test_a_ratio_that_only_one_side_has_is_not_compared() -> None:
    assert compared({LATENCY: Ratio(1, 0)}, {HITS: Ratio(1, 0)}) == []


def test_value_and_noise_come_from_the_repeats_and_survive_the_file(tmp_path: Path) -> None:
    runs = []
    for factor in (1.0, 1.1, 1.2):
        run: dict[str, object] = {}
        for name in check.RATIOS:
            *folders, last = name.split(".")
            at = run
            for folder in folders:
                at = at.setdefault(folder, {})  # type: ignore[assignment]
            at[last] = 2 * factor
        runs.append(run)
    found = ratios_of(runs)
    assert found.keys() == check.RATIOS.keys()
    assert found[LATENCY].value == pytest.approx(2.2)
    assert found[LATENCY].noise == pytest.approx(0.1 / 2.2, abs=1e-3)  # half of the distance from 2.1 to 2.3
    path = tmp_path / "ratios.json"
    path.write_text(json.dumps({"ratios": {name: ratio._asdict() for name, ratio in found.items()}}))
    assert load(path) == found
