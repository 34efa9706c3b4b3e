"""The arithmetic with which bench/peers.py judges reads. No clock runs here."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


JUDGE = bench("peers_judge")
Read = JUDGE.Read


def test_a_read_is_stale_only_if_it_began_longer_than_the_grace_after_a_newer_commit() -> None:
    commits = JUDGE.Commits([(7, 1, 10.0), (7, 2, 20.0)])
    reads = [
        Read(7, 0, 9.9),  # nothing newer was acknowledged
        Read(7, 1, 9.9),  # newer than what was acknowledged: the commit was visible before
        Read(7, 0, 10.0),  # began at that moment
        Read(7, 0, 10.005),  # behind, within the grace
        Read(7, 0, 10.25),  # stale by 250 ms
        Read(7, 1, 19.0),  # current
        Read(7, 1, 20.5),  # stale by 500 ms
        Read(7, 0, 20.5),  # stale since version 1, not since version 2: 10.5 s
        Read(7, 2, 99.0),  # current
        Read(8, 0, 99.0),  # never changed
    ]
    found = commits.judge(reads, grace=0.01)
    assert (found.reads, found.behind, found.stale) == (10, 4, 3)
    assert found.worst == pytest.approx(10.5)
    assert commits.judge(reads[:3]) == JUDGE.Staleness(3, 0, 0, 0.0)
    assert commits.judge(reads[:4], grace=0.001).stale == 1


def test_a_version_is_replaced_by_the_first_newer_one_that_was_acknowledged() -> None:
    """Two sessions: the acknowledgement of version 2 arrives before that of version 1."""
    commits = JUDGE.Commits([(1, 2, 5.0), (1, 1, 5.5), (1, 3, 6.0)])
    assert commits.replaced(1, 0) == 5.0
    assert commits.replaced(1, 1) == 5.0
    assert commits.replaced(1, 2) == 6.0
    assert commits.replaced(1, 3) == math.inf
    assert commits.replaced(2, 0) == math.inf


def test_a_table_whose_rows_were_changed_before_starts_from_any_version() -> None:
    commits = JUDGE.Commits([(1, 41, 5.0), (1, 42, 6.0)])
    assert commits.judge([Read(1, 40, 5.5), Read(1, 41, 5.5), Read(1, 41, 7.0)]).stale == 2


def test_gone_means_gone_for_every_reader() -> None:
    delays, never = JUDGE.gone_everywhere(
        {1: 10.0, 2: 20.0, 3: 30.0},
        [{1: 10.001, 2: 19.999, 3: 30.2}, {1: 10.003, 2: 19.998}],
    )
    assert delays == [
        pytest.approx(0.003),
        0.0,
    ]  # a read that began before the acknowledgement was new already
    assert never == 1
