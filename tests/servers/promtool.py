"""Prometheus' own tool evaluates alerts over series that are made of real scrapes."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

Scrape = dict[str, float]
"""Values by series, as ``name{label="value"}``."""

STEP: Final = 15
"""Seconds between two scrapes of the made-up Prometheus."""
HEALTHY: Final = 120
"""Scrapes before the fault: half an hour."""
AFTER: Final = 100
"""Scrapes from the fault on, which does not end."""
COUNTS: Final = ("_total", "_bucket", "_count", "_sum")


def promtool() -> str:
    """Return the program; without it skip the test, or fail it under CI."""
    found = shutil.which("promtool")
    if found is None:
        reason = "no promtool: install Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def scraped(text: bytes) -> Scrape:
    """Read a scrape; what is not known yet is left out."""
    return {
        _series(sample.name, {**sample.labels, "instance": "worker-1"}): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not math.isnan(sample.value)
    }


@dataclass(frozen=True, slots=True)
class Fault:
    """What was scraped around a fault, which goes on as it began.

    Attributes:
        alert: The alert that has to fire.
        before: The last scrape before it.
        during: Scrapes while it lasts.
        seconds: Time from the first to the last of them: counters go on at the rate that was seen.
    """

    alert: str
    before: Scrape
    during: Sequence[Scrape]
    seconds: float

    def series(self) -> list[dict[str, str]]:
        """Return the series for promtool."""
        names = {*self.before, *self.during[-1]}
        return [{"series": name, "values": self._values(name)} for name in sorted(names)]

    def _values(self, name: str) -> str:
        first, last = self.before.get(name), self.during[-1].get(name)
        start = f"{_number(first)}x{HEALTHY - 1}"
        if last is None:
            return f"{start} _x{AFTER}"
        if name.partition("{")[0].endswith(COUNTS):
            growth = max(0.0, last - (first or 0.0)) / self.seconds * STEP
            return f"{start} {_number(first or 0.0)}+{_number(growth)}x{AFTER}"
        middle = " ".join(_number(scrape.get(name, last)) for scrape in self.during)
        return f"{start} {middle} {_number(last)}x{AFTER}"


def check_alerts(rules: Path, faults: Sequence[Fault], folder: Path) -> None:
    """Let promtool check that each alert is silent until its fault, and fires in time after it."""
    tests = []
    for fault in faults:
        ended = HEALTHY * STEP + (AFTER - 10) * STEP
        firing = f'ALERTS{{alertname="{fault.alert}",alertstate="firing"}}'
        tests.append(
            {
                "name": fault.alert,
                "interval": f"{STEP}s",
                "input_series": fault.series(),
                "promql_expr_test": [
                    {
                        "expr": f"count({firing})",
                        "eval_time": f"{(HEALTHY - 2) * STEP}s",
                        "exp_samples": [],
                    },
                    {
                        "expr": f"max(max_over_time({firing}[25m]))",
                        "eval_time": f"{ended}s",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    },
                ],
            }
        )
    file = folder / "alerts_test.yml"
    # JSON is YAML.
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(
        [promtool(), "test", "rules", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _number(value: float | None) -> str:
    """Write a value for promtool, without an exponent; ``_`` stands for none."""
    return "_" if value is None else f"{value:.9f}"


def _series(name: str, labels: dict[str, str]) -> str:
    inside = ", ".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"
