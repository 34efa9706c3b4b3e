"""Imports point one way: the contracts of pyproject.toml hold, without an ignore list."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
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
