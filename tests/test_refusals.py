"""What a lane says to whom it cannot serve."""

from __future__ import annotations

import pytest

from mdslite.serving.refusals import allowed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "200 ms were allowed"),
        (1e-6, "less than 1 ms was allowed"),
        (-1e-6, "less than 1 ms was allowed"),
    ],
)
def test_no_time_is_less_than_none(seconds: float, words: str) -> None:
    assert allowed(seconds) == words
