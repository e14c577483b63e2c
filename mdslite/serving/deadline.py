"""One timer for many deadlines: it is set for the earliest and tells its owner when that has passed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from time import perf_counter


class Deadline:
    """The earliest of some deadlines. `passed` is called on the loop, and may set the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self.at = math.inf
        self._loop = loop
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at: float) -> None:
        """Wait for `at`, a time of `perf_counter`; infinity waits for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.at = at
        if at < math.inf:
            # A millisecond late rather than early: the loop's timers round.
            self._timer = self._loop.call_later(max(0.0, at - perf_counter()) + 0.001, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.at = math.inf
        self._passed()
