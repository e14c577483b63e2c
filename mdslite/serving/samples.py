"""Which requests keep their bodies on the way to the request log: decided before they are held on to.

The log has a budget of bodies and would drop nearly all of them a quarter of a second later; held so long,
every request's bytes would come from memory that no cache knows any more.
"""

from __future__ import annotations

GOOD_EVERY_S = 0.5
FAILED_EVERY_S = 0.02


class Samples:
    """Good and failed requests of one version, each at most once in its interval."""

    __slots__ = ("_failed_at", "_good_at")

    def __init__(self) -> None:
        self._good_at = 0.0
        self._failed_at = 0.0

    def due(self, now: float, *, failed: bool) -> bool:
        """Take this one? `now` is seconds of a clock that never goes back."""
        if failed:
            if now < self._failed_at:
                return False
            self._failed_at = now + FAILED_EVERY_S
            return True
        if now < self._good_at:
            return False
        self._good_at = now + GOOD_EVERY_S
        return True
