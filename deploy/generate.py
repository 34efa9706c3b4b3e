"""Writes the dashboard for Grafana and the alerts for Prometheus from the table of metrics.

    python deploy/generate.py

Both files are in the repository; a test fails while they are not what this writes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from unstale_worker.observe.agent_metrics import AGENT_METRICS, AgentMetric
from unstale_worker.observe.metric_table import DEFINITIONS, Definition

METRICS: Final[tuple[Definition | AgentMetric, ...]] = (*DEFINITIONS, *AGENT_METRICS)
HERE: Final = Path(__file__).parent
DOCS: Final = "docs"
GENERATED: Final = "Written by deploy/generate.py from the table of metrics; edit that instead."
COLUMNS: Final = 2
HEIGHT: Final = 7
WIDTH: Final = 24 // COLUMNS


def dashboard() -> str:
    """Return ``deploy/grafana/unstale.json``."""
    panels: list[dict[str, Any]] = []
    for definition in METRICS:
        place = len(panels)
        panels.append(
            _panel(definition, number=place + 1, x=place % COLUMNS * WIDTH, y=place // COLUMNS * HEIGHT)
        )
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    data = {
        "uid": "unstale",
        "title": "unstale",
        "description": GENERATED,
        "tags": ["unstale"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }
    return json.dumps(data, indent=2) + "\n"


def alerts() -> str:
    """Return ``deploy/prometheus/alerts.yml``."""
    return "\n".join(_alert_lines()) + "\n"


def _panel(definition: Definition | AgentMetric, *, number: int, x: int, y: int) -> dict[str, Any]:
    name = definition.name
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *definition.labels))
    if definition.kind == "histogram":
        rates = f"sum by (instance, le) (rate({name}_bucket[$__rate_interval]))"
        queries = [
            (f"histogram_quantile({share}, {rates})", f"{legend} {percent}")
            for share, percent in ((0.5, "50 %"), (0.99, "99 %"))
        ]
    elif definition.kind == "counter":
        queries = [(f"rate({name}[$__rate_interval])", legend)]
    else:
        queries = [(name, legend)]
    return {
        "id": number,
        "type": "timeseries",
        "title": name.removeprefix("unstale_").removesuffix("_total").replace("_", " "),
        "description": definition.help,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": _unit(definition), "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": text}
            for place, (expression, text) in enumerate(queries)
        ],
    }


def _unit(definition: Definition | AgentMetric) -> str:
    if definition.kind == "counter":
        return "s" if definition.name.endswith("_seconds_total") else "ops"
    if definition.name.endswith("_timestamp_seconds"):
        return "dateTimeAsIso"
    return "s" if definition.name.endswith("_seconds") else "short"


def _alert_lines() -> Iterator[str]:
    yield f"# {GENERATED}"
    yield "groups:"
    yield "  - name: unstale"
    yield "    rules:"
    for definition in METRICS:
        alert = definition.alert
        if alert is None:
            continue
        yield f"      - alert: {alert.name}"
        yield f"        expr: {json.dumps(alert.when.format(name=definition.name))}"
        yield f"        for: {alert.lasting}s"
        yield "        labels:"
        yield f"          severity: {alert.severity}"
        yield "        annotations:"
        yield f"          summary: {json.dumps(alert.meaning)}"
        yield f"          read: {DOCS}/{alert.look}"


def main() -> None:
    """Write both files."""
    (HERE / "grafana" / "unstale.json").write_text(dashboard(), "utf-8")
    (HERE / "prometheus" / "alerts.yml").write_text(alerts(), "utf-8")


if __name__ == "__main__":
    main()
