"""The arithmetic with which bench/scale.py tells flat costs from growing ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCALE = bench("scale_pages")


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [
        ([2.0, 2.2, 2.6], "flat (1.30 ×)"),
        ([2.6, 2.0, 2.1], "flat (1.30 ×)"),
        ([2.0, 20.0, 200.0], "n^1.00"),
        ([1.0, 100.0, 10_000.0], "n^2.00"),
        ([3.0, 2.0, 1.0], "n^-0.24"),
    ],
)
def test_a_cost_is_flat_or_has_an_exponent(costs: list[float], verdict: str) -> None:
    assert SCALE.growth([10, 100, 1_000], costs) == verdict


def test_the_exponent_is_that_of_uneven_sizes_too() -> None:
    sizes = [1, 10, 100, 300]
    assert SCALE.exponent(sizes, [0.5 * size**0.5 for size in sizes]) == pytest.approx(0.5)
