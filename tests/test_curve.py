from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdslite.serving.curve import ArrivalRate, LatencyCurve, worth_waiting_s


def learned(seconds: dict[int, float]) -> LatencyCurve:
    curve = LatencyCurve()
    for rows, value in seconds.items():
        curve.observe("s", rows, value)
    return curve


def test_an_unknown_shape_costs_nothing_yet() -> None:
    assert LatencyCurve().estimate("s", 4) == 0.0
    assert LatencyCurve().floor("s", 4) == 0.0


def test_between_points_the_curve_is_straight_and_beyond_them_proportional() -> None:
    curve = learned({1: 1.0, 2: 2.0, 4: 4.0})
    assert curve.estimate("s", 3) == pytest.approx(3.0)
    assert curve.estimate("s", 8) == pytest.approx(8.0)


def test_below_its_first_point_the_curve_is_flat() -> None:
    assert learned({8: 2.0}).estimate("s", 1) == pytest.approx(2.0)


def test_a_change_of_speed_is_learned_and_one_outlier_hardly_noticed() -> None:
    curve = learned({8: 0.010})
    curve.observe("s", 8, 10.0)
    assert curve.estimate("s", 8) < 0.013
    for _ in range(100):
        curve.observe("s", 8, 0.020)
    assert curve.estimate("s", 8) == pytest.approx(0.020, rel=0.05)


def test_a_size_between_points_teaches_both_of_them() -> None:
    curve = learned({4: 1.0, 8: 1.0})
    for _ in range(50):
        curve.observe("s", 6, 2.0)
    assert curve.estimate("s", 4) == pytest.approx(2.0, rel=0.05)
    assert curve.estimate("s", 8) == pytest.approx(2.0, rel=0.05)


def test_the_floor_forgets_a_disturbance_but_not_a_slowdown() -> None:
    curve = learned({1: 1e-5})
    for _ in range(20):
        curve.observe("s", 1, 1e-2)
    assert curve.floor("s", 1) < 2e-5
    for _ in range(5000):
        curve.observe("s", 1, 1e-2)
    assert curve.floor("s", 1) == pytest.approx(1e-2)


def test_shapes_are_bounded_and_the_oldest_is_forgotten() -> None:
    curve = LatencyCurve()
    for number in range(200):
        curve.observe(number, 1, 1.0)
    assert curve.estimate(0, 1) == 0.0
    assert curve.floor(0, 1) == 0.0
    assert curve.estimate(199, 1) == 1.0


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 10.0), min_size=1), st.integers(1, 200))
def test_an_estimate_is_never_negative_or_absent(seconds: dict[int, float], rows: int) -> None:
    assert learned(seconds).estimate("s", rows) > 0.0


def test_arrivals_are_counted_over_the_last_window() -> None:
    rate = ArrivalRate(window_s=0.1)
    now = 0.0
    for _ in range(1000):
        now += 0.001
        rate.add(1, now)
    assert rate.per_second(now) == pytest.approx(1000, rel=0.02)
    assert rate.per_second(now + 1.0) < 1.0


def test_waiting_pays_when_the_fixed_cost_is_more_than_everybody_loses() -> None:
    fixed = learned({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0})
    assert worth_waiting_s(fixed, "s", 1, rate=10.0) == pytest.approx(0.1)
    # a = 1, b = 0, g = 0.1: worth it while (n + 1) * 0.1 < 1
    assert worth_waiting_s(fixed, "s", 8, rate=10.0) > 0.0
    assert worth_waiting_s(fixed, "s", 9, rate=10.0) == 0.0


def test_waiting_never_pays_without_traffic_or_when_rows_cost_their_share() -> None:
    proportional = learned({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
    assert worth_waiting_s(proportional, "s", 1, rate=100.0) == 0.0
    fixed = learned({1: 1.0, 2: 1.0})
    assert worth_waiting_s(fixed, "s", 1, rate=0.0) == 0.0
    assert worth_waiting_s(fixed, "s", 1, rate=0.5) == 0.0
