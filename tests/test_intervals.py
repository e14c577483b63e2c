"""Confidence intervals against published tables and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdslite.intervals import (
    Estimate,
    _student,
    mean_difference,
    mean_interval,
    percentile_interval,
    percentile_ratio,
    share_difference,
    share_interval,
)


def near(found: Estimate | None, *wanted: float, within: float = 5e-4) -> bool:
    assert found is not None
    return (found.value, found.low, found.high) == pytest.approx(wanted, abs=within)


def test_shares_are_those_of_the_published_examples() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
    assert near(share_interval(81, 263), 0.3080, 0.2553, 0.3662)
    assert near(share_interval(15, 148), 0.1014, 0.0624, 0.1605)
    assert near(share_interval(0, 20), 0.0, 0.0, 0.1611)
    assert near(share_interval(1, 29), 0.0345, 0.0061, 0.1718)
    assert share_interval(0, 0) is None
    assert near(share_interval(5, 5), 1.0, 0.5655, 1.0)


def test_differences_of_shares_are_those_of_the_published_examples() -> None:
    # Newcombe (1998), "Interval estimation for the difference", table II, method 10.
    assert near(share_difference(56, 70, 48, 80), 0.2, 0.0524, 0.3339)
    assert near(share_difference(9, 10, 3, 10), 0.6, 0.1705, 0.8090)
    assert near(share_difference(10, 10, 0, 10), 1.0, 0.6075, 1.0)
    assert share_difference(1, 1, 0, 0) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_student_s_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert _student(0.95, freedom) == pytest.approx(quantile, rel=0.01)


def test_a_mean_s_interval_shrinks_with_the_number_of_values() -> None:
    values = [4.0, 6.0, 5.0, 7.0]
    found = mean_interval(4, sum(values), sum(value**2 for value in values))
    assert found is not None
    assert found.value == 5.5
    assert found.high - found.value == pytest.approx(3.182 * math.sqrt(5 / 3 / 4), rel=0.01)
    assert mean_interval(1, 1.0, 1.0) is None


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_the_truth_as_often_as_they_promise(seed: int) -> None:
    random = np.random.default_rng(seed)
    rounds, held = 400, {"mean": 0, "percentile": 0, "ratio": 0, "share": 0}
    for _ in range(rounds):
        first, other = random.exponential(2.0, 300), random.exponential(1.0, 500)
        truths = {
            "mean": (mean_difference(first, other), 1.0),
            "percentile": (percentile_interval(first, 0.9), -2.0 * math.log(0.1)),
            "ratio": (percentile_ratio(first, other, 0.9), 2.0),
            "share": (share_difference(random.binomial(80, 0.3), 80, random.binomial(60, 0.1), 60), 0.2),
        }
        for name, (found, truth) in truths.items():
            assert found is not None
            held[name] += found.low <= truth <= found.high
    for name, count in held.items():
        assert count / rounds > 0.92, (name, count)


def test_a_percentile_that_too_few_values_can_tell_has_no_upper_bound() -> None:
    found = percentile_interval(np.arange(1.0, 51.0), 0.99)
    assert found is not None
    assert (found.value, found.high) == (50.0, math.inf)
    many = percentile_interval(np.arange(1.0, 5001.0), 0.99)
    assert many is not None
    assert 4930 < many.low < 4950 < many.high < 4970
    assert percentile_interval(np.array([]), 0.5) is None
    assert percentile_ratio(np.array([1.0]), np.array([]), 0.5) is None


def test_equal_values_differ_by_nothing() -> None:
    same = np.ones(5)
    assert mean_difference(same, same) == Estimate(0.0, 0.0, 0.0)
    assert mean_difference(same[:1], same) is None
