"""The last minute of one version's requests: counts and latencies a second, in a ring. Owns nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdslite.store.tallies import AN_OCTAVE, BINS, FIRST_MS, SecondCount

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Recent:
    """Figures of the last `window_s` seconds; errors are statuses of 400 and above. None without requests."""

    window_s: int
    requests: int
    errors: int
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    requests_total: int  # since the start


class Window:
    """A ring of seconds, each labelled with the unix second that it holds."""

    def __init__(self) -> None:
        self._second = np.full(WINDOW_S, -1, dtype=np.int64)
        self._errors = np.zeros(WINDOW_S, dtype=np.int64)
        self._bins = np.zeros((WINDOW_S, BINS), dtype=np.int32)
        self._first: int | None = None

    def add(self, second: SecondCount) -> None:
        """Count the requests that ended in one second."""
        slot = second.second % WINDOW_S
        if self._second[slot] != second.second:
            self._second[slot], self._errors[slot], self._bins[slot] = second.second, 0, 0
        self._errors[slot] += second.errors
        self._bins[slot, second.bins] += np.array(second.counts, dtype=np.int32)
        self._first = second.second if self._first is None else min(self._first, second.second)

    def read(self, now: float, *, requests_total: int) -> Recent:
        """The figures of the minute before `now`, or of the time since the first request if shorter."""
        last = int(now)
        there = (self._second > last - WINDOW_S) & (self._second <= last)
        spread = self._bins[there].sum(axis=0)
        requests, errors = int(spread.sum()), int(self._errors[there].sum())
        age_s = WINDOW_S if self._first is None else now - self._first
        return Recent(
            window_s=WINDOW_S,
            requests=requests,
            errors=errors,
            rps=requests / min(max(age_s, 1.0), WINDOW_S),
            p50_ms=_percentile(spread, 0.50),
            p99_ms=_percentile(spread, 0.99),
            error_rate=errors / requests if requests else None,
            requests_total=requests_total,
        )


def _percentile(spread: NDArray[np.int64], share: float) -> float | None:
    """Interpolated within its bin, evenly in the logarithm."""
    total = np.cumsum(spread)
    if not total[-1]:
        return None
    wanted = share * total[-1]
    bin_number = int(np.searchsorted(total, wanted, side="left"))
    below = float(total[bin_number - 1]) if bin_number else 0.0
    inside = (wanted - below) / float(spread[bin_number])
    return float(FIRST_MS * 2 ** ((bin_number + inside) / AN_OCTAVE))
