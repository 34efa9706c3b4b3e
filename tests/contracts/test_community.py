"""Files that a contributor or a user meets first: the licence, the workflow, the forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import unstale

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps() -> list[dict[str, Any]]:
    return [step for job in parsed(WORKFLOW)["jobs"].values() for step in job["steps"]]


def test_the_licence_is_the_same_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    assert "Copyright 2026 the unstale authors" in text
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', (ROOT / "Dockerfile").read_text())
    )
    assert labels["licenses"] == PROJECT["license"]
    assert labels["version"] == unstale.__version__


def test_every_command_of_the_workflow_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.strip() for step in steps() for line in step.get("run", "").splitlines()]
    targets = [command.split()[1] for command in commands if command.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for command in commands:
        for path in re.findall(r"(?<![\w/.-])(?:tests|\.ci)/[\w/]+", command):
            assert (ROOT / path).exists(), path


def test_the_workflow_lints_before_it_tests() -> None:
    jobs = parsed(WORKFLOW)["jobs"]
    assert any(step.get("run") == "make lint" for step in jobs["lint"]["steps"])
    assert all(job["needs"] == "lint" for name, job in jobs.items() if name != "lint")


def test_the_workflow_runs_the_pythons_that_may_install_it() -> None:
    versions = parsed(WORKFLOW)["jobs"]["versions"]["strategy"]["matrix"]["python"]
    claimed = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert set(claimed) <= set(versions)
    assert f">={versions[0]}" == PROJECT["requires-python"]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_is_one_that_the_forge_shows(form: Path) -> None:
    content = parsed(form)
    if form.stem == "config":
        return
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["type"] in ("input", "textarea", "dropdown", "checkboxes") for field in fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_the_form_for_a_stale_cache_asks_for_what_explains_one() -> None:
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / "stale.yml").read_text()
    for command in ("unstale why KEY --json", "unstale stats --json", "unstale doctor --json"):
        assert command in text
