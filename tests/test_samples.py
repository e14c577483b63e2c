from __future__ import annotations

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
