"""How far two distributions lie apart, and how likely chance alone is to bring that about. Pure functions of
counts over the same cells: `base` of the baseline, `window` of what is looked at.

ks_distance    Kolmogorov (1933), Smirnov (1939). Over cells it is never more than over the values themselves
ks_tail        2 exp(-2 n D²): Massart (1990) for one sample, Wei and Dudley (2012) for two
psi            population stability index: Kullback and Leibler's (1951) divergence, both ways; its bias and
               the customary bounds of 0.1 and 0.25: Siddiqi (2006), Yurdakul and Naranjo (2020)
chi_square     Pearson (1900), of homogeneity, over cells of which ten or more are expected (Cochran, 1954)
excess_tail    Przyborowski and Wilenski (1940): two rates, given their sum, by Chernoff's (1952) bound
dispersion     how much more than chance the baseline's own hours differ: Rao and Scott's (1981) correction.
               What makes hours differ may move all values one way, whose chance has a longer tail than a
               sample's of many ways: the tests take the longer one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.float64]

EXPECTED_MIN = 10.0  # of a cell that chi-square may take by itself
GROUP_SHARE = 0.1  # of the baseline in each group of cells that the index compares
_MEAN_K2 = math.pi**2 / 12  # of Kolmogorov's distribution, the mean square
KS_NOISE = 0.63  # the deviation of its square by this mean
_SURE = 2.326  # quantile of 99 %


def joint_size(count: float, base_count: float) -> float:
    """The size of two samples together, n m / (n + m)."""
    if not count or not base_count:
        return 0.0
    return count * base_count / (count + base_count)


def ks_distance(base: Counts, window: Counts) -> tuple[float, float]:
    """The greatest distance of the two distribution functions; and the greatest where the window's is the
    lower one, which is to say that its values are greater."""
    below = np.cumsum(base)[:-1] / base.sum() - np.cumsum(window)[:-1] / window.sum()
    if not len(below):
        return 0.0, 0.0
    return float(np.abs(below).max()), max(0.0, float(below.max()))


def ks_tail(distance: float, size: float, *, dispersion: float = 1.0, sides: int = 2) -> float:
    """How likely a distance as great is, of equal distributions. What disperses counts as one normal variable
    that moves the whole distribution: its variance adds to that of the sample's bound, 1 / (4 size)."""
    stretch = 1.0 + 4.0 * _MEAN_K2 * (dispersion - 1.0)
    return min(1.0, sides * math.exp(-2.0 * size * distance * distance / stretch))


def psi(base: Counts, window: Counts) -> float:
    """Half a request is added to each cell, so that an empty one does not make it infinite."""
    expected = (base + 0.5) / (base.sum() + 0.5 * len(base))
    found = (window + 0.5) / (window.sum() + 0.5 * len(window))
    return float(np.dot(found - expected, np.log(found / expected)))


def psi_without_bias(base: Counts, window: Counts) -> float:
    """The index less what it is on average between samples of the same."""
    sizes = max(float(base.sum()), 1.0), max(float(window.sum()), 1.0)
    bias = (len(base) - 1) * (1.0 / sizes[0] + 1.0 / sizes[1])
    return max(0.0, psi(base, window) - bias)


def group_cells(base: Counts, share: float = GROUP_SHARE) -> NDArray[np.int64]:
    """Where groups of neighbouring cells begin, each of which holds at least `share` of the baseline."""
    starts, inside = [0], 0.0
    wanted = share * float(base.sum())
    for place, count in enumerate(base.tolist()):
        if inside >= wanted:
            starts.append(place)
            inside = 0.0
        inside += count
    if len(starts) > 1 and inside < wanted / 2:
        starts.pop()
    return np.array(starts, dtype=np.int64)


def chi_square(base: Counts, window: Counts, *, dispersion: float) -> tuple[float, float]:
    """The statistic, and how likely one as great is. Cells of which too few are expected count as one; where
    even that one is too small, its excess is tested by itself. So is that of what the baseline never had,
    whose share there is that of what it had once (Good, 1953). The tests share the level."""
    total, base_total = float(window.sum()), float(base.sum())
    if not total or not base_total:
        return 0.0, 1.0
    expected = (base + window) * (total / (total + base_total)) / dispersion
    large = expected >= EXPECTED_MIN
    rest, base_rest = float(window[~large].sum()), float(base[~large].sum())
    cells, base_cells = window[large], base[large]
    unseen = base == 0
    seen_once = float((base == 1).sum()) + 1.0
    new = excess_tail(float(window[unseen].sum()), total, seen_once, base_total, dispersion=dispersion)
    tail = 1.0
    if expected[~large].sum() >= EXPECTED_MIN:
        cells, base_cells = np.append(cells, rest), np.append(base_cells, base_rest)
    else:
        tail = excess_tail(rest, total, base_rest, base_total, dispersion=dispersion)
    statistic = 0.0
    if len(cells) > 1:
        share = cells.sum() / (cells.sum() + base_cells.sum())
        difference = cells - (cells + base_cells) * share
        variance = (cells + base_cells) * share * (1 - share)
        statistic = float((difference * difference / variance).sum())
        freedom = len(cells) - 1
        many_ways = chi_square_tail(statistic / dispersion, freedom)
        one_way = chi_square_tail(statistic / (1.0 + freedom * (dispersion - 1.0)), 1)
        tail = min(tail, max(many_ways, one_way))
    return statistic, min(1.0, 3 * min(tail, new))


def chi_square_tail(statistic: float, freedom: int) -> float:
    """The upper tail of the chi-square distribution: the incomplete gamma function's series, or beyond its
    middle the continued fraction (Abramowitz and Stegun, 1964, 6.5.29 and 6.5.31)."""
    a, x = freedom / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1.0 / a
        place = a
        while abs(term) > abs(total) * 1e-12:
            place += 1
            term *= x / place
            total += term
        return max(0.0, 1.0 - front * total)
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    found = d
    for step in range(1, 500):
        factor = -step * (step - a)
        b += 2
        d = 1 / (_away_from_zero(factor * d + b))
        c = _away_from_zero(b + factor / c)
        change = c * d
        found *= change
        if abs(change - 1) < 1e-12:
            break
    return min(1.0, front * found)


def excess_tail(
    count: float, total: float, base_count: float, base_total: float, *, dispersion: float
) -> float:
    """How likely as many of `total` are, where the baseline's share is the true one."""
    both = count + base_count
    if not count or not total or not base_total:
        return 1.0
    share, found = total / (total + base_total), count / both
    if found <= share:
        return 1.0
    information = found * math.log(found / share)
    if found < 1.0:
        information += (1 - found) * math.log((1 - found) / (1 - share))
    return min(1.0, math.exp(-both / dispersion * information))


def cautious_dispersion(found: float, hours: int, noise: float) -> float:
    """What it may be at worst, when `hours` have shown it: less what chance makes of none (`noise` is an
    hour's), and by the upper bound of a variance (Wilson and Hilferty, 1931), at 99 %."""
    freedom = max(hours - 1, 1)
    beyond = max(0.0, found - 1.0 - noise / math.sqrt(hours))
    low = 1.0 - 2.0 / (9 * freedom) - _SURE * math.sqrt(2.0 / (9 * freedom))
    return 1.0 + beyond / max(low, 0.3) ** 3


def ordered_dispersion(base: Counts, hours: Sequence[Counts]) -> float:
    """How many times farther than chance the hours of a baseline lie from the whole of it, squared."""
    found = []
    for hour in hours:
        rest = base - hour
        size = joint_size(float(hour.sum()), float(rest.sum()))
        if size > 0:
            distance, _ = ks_distance(np.maximum(rest, 0.0), hour)
            found.append(size * distance * distance / _MEAN_K2)
    return max(1.0, float(np.mean(found))) if found else 1.0


def neighbours_dispersion(hours: Sequence[Counts]) -> float:
    """The same of hours that follow each other: without what changes slowly, such as the time of day (von
    Neumann, 1941)."""
    found = []
    for one, other in pairwise(hours):
        size = joint_size(float(other.sum()), float(one.sum()))
        if size > 0:
            distance, _ = ks_distance(one, other)
            found.append(size * distance * distance / _MEAN_K2)
    return max(1.0, float(np.mean(found))) if found else 1.0


def unordered_dispersion(base: Counts, hours: Sequence[Counts]) -> float:
    """Pearson's statistic of the hours against the whole, by its degrees of freedom."""
    statistics, freedom = 0.0, 0.0
    shares = base / max(float(base.sum()), 1.0)
    for hour in hours:
        expected = shares * hour.sum()
        large = expected >= EXPECTED_MIN / 2
        if large.sum() > 1:
            difference = hour[large] - expected[large]
            statistics += float((difference * difference / expected[large]).sum())
            freedom += (int(large.sum()) - 1) * (1 - float(hour.sum() / base.sum()))
    return max(1.0, statistics / freedom) if freedom else 1.0


def _away_from_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
