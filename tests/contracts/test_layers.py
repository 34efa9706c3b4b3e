"""Imports point one way: the contracts of pyproject.toml hold, without an ignore list."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
            "--config",
            str(config),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "core"), str(ROOT / "worker")))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contracts_hold() -> None:
    done = lint(ROOT / "pyproject.toml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_contract_ignores_anything() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert len(contracts) >= 2
    assert not any("ignore_imports" in contract for contract in contracts)


def test_nothing_of_the_cache_is_left_out_of_the_contract_on_pools() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (listed,) = (
        each["source_modules"] for each in contracts if "unstale.compat" in each.get("forbidden_modules", ())
    )
    modules = (path for path in (ROOT / "core" / "unstale").iterdir() if path.suffix in ("", ".py"))
    found = {f"unstale.{path.stem}" for path in modules if not path.name.startswith("_")}
    above = {"unstale.companion", "unstale.compat", "unstale.sync", "unstale.telemetry", "unstale.testing"}
    assert found - above - {"unstale.reads", "unstale.reads_many"} == set(listed)


def imported(source: str) -> set[str]:
    """First names of the modules that a file imports, apart from those for the type checker only."""
    tree = ast.parse(source)
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


EXTRAS = {
    "core/unstale/companion/pools": ["companion"],
    "core/unstale/companion/recording": ["companion"],
    "core/unstale/reading/replicas.py": ["companion"],
    "core/unstale/companion/tools/livekit.py": ["livekit"],
    "core/unstale/runtime/spans.py": ["otel"],
    "core/unstale/sealing": ["crypto"],
    "core/unstale/telemetry/opentelemetry_counters.py": ["otel"],
    "core/unstale/telemetry/prometheus_collector.py": ["prometheus"],
    "core/unstale/companion/tools/mcp.py": ["mcp"],
    "core/unstale/testing/plugin.py": ["tests"],  # pytest, which loads it
    "worker": ["worker"],
    "worker/unstale_worker/demo": ["companion"],
    "examples/companion": ["companion"],
}
"""Extras beside the dependencies of an agent that the files of a folder may import from."""


def test_what_is_imported_is_declared() -> None:
    """A package that only comes along with another one may go with its next release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {"unstale", "unstale_worker", "companion"}
    distributions = packages_distributions()
    for folder in ("core", "worker", "examples/companion"):
        for path in (ROOT / folder).rglob("*.py"):
            wanted = list(project["dependencies"])
            for place, extras in EXTRAS.items():
                if path.is_relative_to(ROOT / place):
                    wanted += [one for extra in extras for one in project["optional-dependencies"][extra]]
            declared = {re.split(r"[^\w.-]", one)[0].lower() for one in wanted}
            for name in imported(path.read_text()) - ours - set(sys.stdlib_module_names):
                names = {one.lower().replace("_", "-") for one in distributions[name]}
                assert names & declared, (path, name, names)


def test_a_contract_that_is_broken_is_noticed(tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text(
        """
        [tool.importlinter]
        root_packages = ["unstale", "unstale_worker"]

        [[tool.importlinter.contracts]]
        name = "The other way round"
        type = "forbidden"
        source_modules = ["unstale_worker"]
        forbidden_modules = ["unstale"]
        """
    )

    assert lint(config).returncode == 1
