"""Counting durations in buckets, and estimating quantiles."""

import pytest

from unstale_worker.observe.histogram import BOUNDS, Histogram, quantile


def test_a_duration_is_counted_up_to_its_bound_and_in_the_sum() -> None:
    histogram = Histogram()
    histogram.add(0.001)
    histogram.add(0.0011, 3)
    histogram.add(1_000.0)
    assert histogram.counts[:2] == [1, 3]
    assert histogram.counts[-1] == 1
    assert histogram.total == pytest.approx(1_000.0043)


def test_a_quantile_lies_in_its_bucket() -> None:
    histogram = Histogram()
    assert quantile(histogram.counts, 0.5) is None
    histogram.add(0.004, 90)
    histogram.add(0.3, 10)
    half, most = quantile(histogram.counts, 0.5), quantile(histogram.counts, 0.99)
    assert half is not None
    assert most is not None
    assert 0.002 < half < 0.005
    assert 0.2 < most < 0.5
    histogram.add(1e9, 1_000)
    assert quantile(histogram.counts, 0.99) == BOUNDS[-1]


def test_a_copy_does_not_change_any_more() -> None:
    histogram = Histogram()
    before = histogram.copy()
    histogram.add(1.0)
    assert sum(before.counts) == 0
