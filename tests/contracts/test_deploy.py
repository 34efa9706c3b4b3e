"""The dashboard and the alerts are those of the table of metrics."""

import json
import re
import runpy
from pathlib import Path

from unstale_worker.observe.agent_metrics import AGENT_METRICS, AgentMetric
from unstale_worker.observe.metric_table import DEFINITIONS, Definition

ROOT = Path(__file__).parents[2]
METRICS: list[Definition | AgentMetric] = [*DEFINITIONS, *AGENT_METRICS]
ALERTS = [definition.alert for definition in METRICS if definition.alert is not None]


def test_both_files_are_what_the_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "deploy" / "generate.py"))
    remedy = "run `python deploy/generate.py`"
    assert (ROOT / "deploy/grafana/unstale.json").read_text() == script["dashboard"](), remedy
    assert (ROOT / "deploy/prometheus/alerts.yml").read_text() == script["alerts"](), remedy


def test_each_metric_has_a_panel() -> None:
    panels = json.loads((ROOT / "deploy/grafana/unstale.json").read_text())["panels"]
    shown = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    for definition in METRICS:
        assert re.search(rf"\b{definition.name}(_bucket)?\b", shown), definition.name


def test_each_alert_has_a_name_of_its_own_and_leads_to_a_page() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        page, _, section = alert.look.partition("#")
        text = (ROOT / "docs" / page).read_text()
        headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)]
        assert not section or section in headings, alert.look


def test_the_pages_name_each_alert() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    for definition in METRICS:
        if definition.alert is not None:
            part = text.partition(f"## `{definition.name}`")[2].partition("\n## ")[0]
            assert definition.alert.name in part, definition.name
