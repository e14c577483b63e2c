"""How sure a figure is: confidence intervals for shares, means, differences and percentiles. Pure functions.

share_interval        Wilson (1927): a share of a few or of rare events, where the textbook's fails
share_difference      Newcombe (1998), method 10: the difference of two shares, from their Wilson intervals
mean_interval         Student (1908): a mean; with many values the normal's quantile
mean_difference       Welch (1947): the difference of two means of unequal variances
percentile_interval   order statistics (David and Nagaraja, "Order Statistics", 2003, 7.1): no form assumed
percentile_ratio      from the two percentiles' intervals, each at the level that makes the ratio's hold
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and the interval [low, high] that holds the true one with the level's probability."""

    value: float
    low: float
    high: float


def share_interval(count: int, total: int, *, level: float = LEVEL) -> Estimate | None:
    """The share of `count` in `total`; None of nothing."""
    if not total:
        return None
    z = _quantile(level)
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At its ends the formula is exact, its arithmetic is not.
    low = 0.0 if not count else max(0.0, middle - half)
    high = 1.0 if count == total else min(1.0, middle + half)
    return Estimate(share, low, high)


def share_difference(
    count: int, total: int, other_count: int, other_total: int, *, level: float = LEVEL
) -> Estimate | None:
    """The first share less the other one."""
    first = share_interval(count, total, level=level)
    other = share_interval(other_count, other_total, level=level)
    if first is None or other is None:
        return None
    value = first.value - other.value
    below = math.hypot(first.value - first.low, other.high - other.value)
    above = math.hypot(first.high - first.value, other.value - other.low)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above))


def mean_interval(count: int, total: float, squares: float, *, level: float = LEVEL) -> Estimate | None:
    """The mean of `count` values, given their sum and sum of squares; None below two values."""
    if count < 2:
        return None
    mean = total / count
    variance = max(0.0, (squares - count * mean * mean) / (count - 1))
    half = _student(level, count - 1) * math.sqrt(variance / count)
    return Estimate(mean, mean - half, mean + half)


def mean_difference(values: Values, other: Values, *, level: float = LEVEL) -> Estimate | None:
    """The mean of `values` less that of `other`; None where either has fewer than two."""
    if len(values) < 2 or len(other) < 2:
        return None
    error, other_error = values.var(ddof=1) / len(values), other.var(ddof=1) / len(other)
    value = float(values.mean() - other.mean())
    if not error + other_error:
        return Estimate(value, value, value)
    freedom = (error + other_error) ** 2 / (error**2 / (len(values) - 1) + other_error**2 / (len(other) - 1))
    half = _student(level, freedom) * math.sqrt(error + other_error)
    return Estimate(value, value - half, value + half)


def percentile_interval(values: Values, share: float, *, level: float = LEVEL) -> Estimate | None:
    """A percentile, such as `share` 0.99. The bounds are values that occurred; where too few did to know one,
    it is infinite (or zero, below). None of nothing."""
    count = len(values)
    if not count:
        return None
    ordered = np.sort(values)
    half = _quantile(level) * math.sqrt(count * share * (1 - share))
    first, last = math.floor(count * share - half), math.ceil(count * share + half)
    low = float(ordered[first - 1]) if first >= 1 else 0.0
    high = float(ordered[last]) if last < count else math.inf
    return Estimate(float(np.quantile(ordered, share, method="inverted_cdf")), low, high)


def percentile_ratio(values: Values, other: Values, share: float, *, level: float = LEVEL) -> Estimate | None:
    """How many times the other's percentile the first one's is."""
    each = math.sqrt(level)  # both hold together with the level's probability
    first = percentile_interval(values, share, level=each)
    second = percentile_interval(other, share, level=each)
    if first is None or second is None or not second.value:
        return None
    low = first.low / second.high if second.high else 0.0
    high = first.high / second.low if second.low else math.inf
    return Estimate(first.value / second.value, low, high)


def _quantile(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def _student(level: float, freedom: float) -> float:
    """Student's quantile by an expansion of the normal's (Abramowitz and Stegun, 1964, 26.7.5), good to 1 %
    from three degrees of freedom on; below, from its closed forms."""
    if freedom < 1.5:
        return math.tan(math.pi * level / 2)
    if freedom < 2.5:
        return 2 * (level / 2) * math.sqrt(2 / (1 - level * level)) if level < 1 else math.inf
    z = _quantile(level)
    terms: Sequence[float] = (
        z,
        (z**3 + z) / 4 / freedom,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / freedom**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / freedom**4,
    )
    return math.fsum(terms)
