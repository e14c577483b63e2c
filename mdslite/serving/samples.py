"""Which requests keep their bodies on the way to the request log: decided before they are held on to.

The log has a budget of bodies and would drop nearly all of them a quarter of a second later; held so long,
every request's bytes would come from memory that no cache knows any more.
"""

from __future__ import annotations

GOOD_PER_SECOND = 2
FAILED_PER_SECOND = 50


class Samples:
    """The first few good and failed requests of one version in each second."""

    def __init__(self, *, good: int = GOOD_PER_SECOND, failed: int = FAILED_PER_SECOND) -> None:
        self._good = good
        self._failed = failed
        self._good_left = good
        self._failed_left = failed
        self._until = 0.0

    def due(self, now: float, *, failed: bool) -> bool:
        """Take this one? `now` is seconds of a clock that never goes back."""
        if now >= self._until:
            self._until = now + 1.0
            self._good_left, self._failed_left = self._good, self._failed
        if failed:
            self._failed_left -= 1
            return self._failed_left >= 0
        self._good_left -= 1
        return self._good_left >= 0
