"""What a model's past runs say about its next one: seconds against rows, for each shape of row.

The points are powers of two. A measurement moves the two points around it by the ratio of what was seen to
what was expected (an exponential average in the multiplicative sense, clipped, so that one preempted run does
not spoil the curve); between points the curve is a straight line.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from itertools import pairwise

_SHAPES_MAX = 64
_WEIGHT = 0.125
_CLIP = 4.0
_FLOOR_DRIFT = 1.002  # a model that became slower is noticed after a few hundred runs


class LatencyCurve:
    """Learned run times of one version on one kind of device."""

    def __init__(self) -> None:
        self._curves: OrderedDict[Hashable, dict[int, float]] = OrderedDict()
        self._floors: dict[Hashable, dict[int, float]] = {}

    def estimate(self, shape: Hashable, rows: int) -> float:
        """Expected seconds of a run of `rows` rows; 0.0 while nothing is known of this shape."""
        points = self._curves.get(shape)
        if not points:
            return 0.0
        known = points.get(rows)
        if known is not None:
            return known
        sizes = sorted(points)
        if rows < sizes[0]:
            return points[sizes[0]]
        if rows > sizes[-1]:
            return points[sizes[-1]] * rows / sizes[-1]
        for low, high in pairwise(sizes):
            if rows < high:
                share = (rows - low) / (high - low)
                return points[low] + share * (points[high] - points[low])
        return points[sizes[-1]]

    def floor(self, shape: Hashable, rows: int) -> float:
        """The least that a run of about `rows` rows took lately: what it costs when nothing disturbs it.

        A power of two is looked up upwards; 0.0 while nothing is known.
        """
        floors = self._floors.get(shape)
        return floors.get(1 << (rows - 1).bit_length(), 0.0) if floors else 0.0

    def observe(self, shape: Hashable, rows: int, seconds: float) -> None:
        """Learn that a run of `rows` rows took `seconds`."""
        points = self._curves.get(shape)
        if points is None:
            points = self._curves[shape] = {}
            self._floors[shape] = {}
            if len(self._curves) > _SHAPES_MAX:
                forgotten, _ = self._curves.popitem(last=False)
                del self._floors[forgotten]
        low = 1 << (rows.bit_length() - 1)
        high = low if low == rows else low * 2
        floors = self._floors[shape]
        floors[high] = min(seconds, floors.get(high, seconds) * _FLOOR_DRIFT)
        around = (low,) if low == high else (low, high)
        if low == rows and rows not in points:
            points[rows] = seconds
            return
        expected = self.estimate(shape, rows) or seconds
        ratio = min(max(seconds / expected, 1 / _CLIP), _CLIP) ** _WEIGHT
        for size in around:
            points[size] = (points.get(size) or self.estimate(shape, size) or seconds) * ratio

    def relax(self, shape: Hashable) -> None:
        """Doubt a curve that says no: shrink it a little, so that refusing by it cannot last for ever."""
        points = self._curves.get(shape)
        if points:
            for size in points:
                points[size] *= 0.9


class ArrivalRate:
    """Rows a second, averaged exponentially over about `window_s`."""

    def __init__(self, *, window_s: float = 0.1) -> None:
        self._window_s = window_s
        self._rows = 0.0
        self._at = 0.0

    def add(self, rows: int, now: float) -> None:
        self._rows = self._rows * math.exp((self._at - now) / self._window_s) + rows
        self._at = now

    def per_second(self, now: float) -> float:
        return self._rows * math.exp((self._at - now) / self._window_s) / self._window_s


def worth_waiting_s(curve: LatencyCurve, shape: Hashable, rows: int, rate: float) -> float:
    """Seconds an idle replica should wait for one more row before it runs the `rows` queued ones; 0: none.

    One step of lookahead on the mean latency, f being the curve and g = 1/rate the expected gap. Run now: the
    queued rows take f(rows) each, and the newcomer waits until that is done and then takes f(1) alone. Wait:
    all take g + f(rows+1), the newcomer without g. With g <= f(rows) the sums differ by

        wait - run = (rows + 1) * (f(rows+1) - f(rows)) + (rows + 1) * g - f(1)

    so waiting pays while that is negative: while the fixed cost of a run of its own is more than what all
    rows lose. Where f(n) = a + b*n this is a > n*b + (n+1)*g. (Compare BentoML's dispatcher, which fits the
    line but waits on a fixed share of the mean wait.)
    """
    if rate <= 0.0:
        return 0.0
    gap = 1.0 / rate
    now = curve.estimate(shape, rows)
    if gap >= now:
        return 0.0
    added = curve.estimate(shape, rows + 1) - now
    return gap if (rows + 1) * (added + gap) < curve.estimate(shape, 1) else 0.0
