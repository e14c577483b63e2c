"""What several turns say of one figure: a mean, and how far it may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mdslite.intervals import Estimate, mean_interval


def estimate(values: Sequence[float]) -> Estimate:
    """A mean over the turns with its 95 % interval, of which one turn says nothing."""
    found = mean_interval(len(values), math.fsum(values), math.fsum(value * value for value in values))
    return found or Estimate(values[0], -math.inf, math.inf)


def estimate_ratio(ratios: Sequence[float]) -> Estimate:
    """A geometric mean."""
    found = estimate([math.log(ratio) for ratio in ratios])
    # Of one turn nothing is known of the interval, and infinity has no exponent.
    return Estimate(*(math.exp(min(one, 700.0)) for one in (found.value, found.low, found.high)))
