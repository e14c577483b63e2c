"""What several turns say of one figure: a mean, and how far it may be off."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# Two-sided Student quantiles at 95 %, by degrees of freedom.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over the turns, and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """A mean with Student's interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    freedom = len(values) - 1
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 2.2 if freedom < 25 else 2.06
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half)


def estimate_ratio(ratios: Sequence[float]) -> Estimate:
    """A geometric mean."""
    found = estimate([math.log(ratio) for ratio in ratios])
    # Of one turn nothing is known of the interval, and infinity has no exponent.
    return Estimate(*(math.exp(min(one, 700.0)) for one in (found.value, found.low, found.high)))
