"""The last minute of one version's requests: counts and latencies a second, in a ring. Owns nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mdslite import blame
from mdslite.store.tallies import AN_OCTAVE, BINS, FIRST_MS, SecondCount

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Recent:
    """Figures of the last `window_s` seconds: of the last minute, or of as much of it as the version has
    served. `requests` are all, `errors` and `refused` those that `blame` tells apart; latencies are of good
    answers. None without requests."""

    window_s: float
    requests: int
    errors: int
    refused: int
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    requests_total: int  # since the start


class Window:
    """A ring of seconds, each labelled with the unix second that it holds."""

    def __init__(self) -> None:
        self._second = np.full(WINDOW_S, -1, dtype=np.int64)
        self._others = np.zeros((WINDOW_S, 2), dtype=np.int64)  # errors, refused
        self._bins = np.zeros((WINDOW_S, BINS), dtype=np.int32)
        self._first: int | None = None

    def add(self, second: SecondCount) -> None:
        """Count the requests that ended in one second."""
        slot = second.second % WINDOW_S
        if self._second[slot] != second.second:
            self._second[slot], self._others[slot], self._bins[slot] = second.second, 0, 0
        self._others[slot] += (second.errors, second.refused)
        self._bins[slot, second.bins] += np.array(second.counts, dtype=np.int32)
        self._first = second.second if self._first is None else min(self._first, second.second)

    def read(self, now: float, *, requests_total: int, since: float | None = None) -> Recent:
        """The figures of the minute before `now`, or of the time from `since` or the first request on,
        whichever was earlier, if that is shorter; but never of less than a second."""
        last = int(now)
        there = (self._second > last - WINDOW_S) & (self._second <= last)
        spread = self._bins[there].sum(axis=0)
        good = int(spread.sum())
        errors, refused = self._others[there].sum(axis=0).tolist()
        requests = good + errors + refused
        begins = [float(last - WINDOW_S + 1)]  # of the second that is going on, there is a part as yet
        if known := [one for one in (since, self._first) if one is not None]:
            begins.append(min(known))
        window_s = max(1.0, now - max(begins))
        return Recent(
            window_s=window_s,
            requests=requests,
            errors=errors,
            refused=refused,
            rps=requests / window_s,
            p50_ms=_percentile(spread, 0.50),
            p99_ms=_percentile(spread, 0.99),
            error_rate=blame.error_rate(good=good, errors=errors),
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
