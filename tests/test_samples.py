from __future__ import annotations

import pytest

from mdslite.logrules import Log
from mdslite.serving.samples import Samples


def test_the_first_of_each_second_are_taken_good_and_failed_apart() -> None:
    samples = Samples(good=2, failed=3)
    assert [samples.due(10.0, failed=False) for _ in range(4)] == [True, True, False, False]
    assert [samples.due(10.5, failed=True) for _ in range(4)] == [True, True, True, False]
    assert not samples.due(10.9, failed=False)
    assert samples.due(11.0, failed=False)


def test_after_silence_there_is_no_more_than_a_seconds_worth() -> None:
    samples = Samples(good=1, failed=1)
    assert samples.due(10.0, failed=False)
    assert [samples.due(100.0, failed=False) for _ in range(3)] == [True, False, False]


def test_what_is_passed_over_in_a_hurry_is_a_part_of_the_same_sample() -> None:
    samples = Samples(good=10, failed=0)
    asked = [
        (second, samples.due(second + at / 1000, failed=False))
        for second in range(10, 40)
        for at in range(1000)
        if not samples.passes(second + at / 1000)
    ]
    taken = [second for second, due in asked if due]
    after = [second for second in taken if second >= 12]  # once the rate is known
    assert 0.8 * 28 * 10 <= len(after) <= 28 * 10
    assert max(map(after.count, range(12, 40))) <= 10
    assert len([second for second, _ in asked if second >= 12]) < 0.05 * 28 * 1000


def test_a_rule_passes_nothing_over() -> None:
    assert not any(Samples(Log(bodies="errors")).passes(10.0) for _ in range(100))


@pytest.mark.parametrize("pause_s", [0.5, 2.0, 13.0, 300.0])
def test_a_burst_says_nothing_of_the_little_that_comes_after_it(pause_s: float) -> None:
    samples = Samples()
    for at in range(5 * 18_000):
        now = 100 + at / 18_000
        if not samples.passes(now):
            samples.due(now, failed=False)
    start = 105 + pause_s
    calm = [start + at for at in range(30)]  # one request a second
    taken = [not samples.passes(now) and samples.due(now, failed=False) for now in calm]
    settled = 2 if pause_s < 2 else 0  # the first may still belong to the burst's second
    assert all(taken[settled:])
