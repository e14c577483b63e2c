"""How often a version is looked at, and how unlikely a look must be to count: so that a healthy one raises
less than one false alarm in a week, and a box of a hundred of them as well.

The chance of a false alarm that one version has in a week is divided evenly among all tests of that week
(Bonferroni): spans, looks and signals. That needs no independence of the tests: a signal and its neighbour,
or a day's looks that share 23 hours, may be as alike as they like.
"""

from __future__ import annotations

from typing import Literal

Span = Literal["10m", "1h", "24h"]

PANE_S = 600
HOUR_S = 3600
DAY_S = 86_400
WEEKLY = 0.005  # false alarms of a healthy version
SIGNALS_MAX = 100  # of a version

_LOOKS: dict[Span, int] = {"10m": 7 * 24 * 6, "1h": 7 * 24, "24h": 7 * 24}  # a week
LEVELS: dict[Span, float] = {
    span: WEEKLY / len(_LOOKS) / looks / SIGNALS_MAX for span, looks in _LOOKS.items()
}
