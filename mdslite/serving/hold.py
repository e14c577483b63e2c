"""Whether an idle lane waits for more rows before it runs those that it has. Owns the timer of that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from time import perf_counter

from mdslite.serving.curve import ArrivalRate, LatencyCurve, worth_waiting_s


class Hold:
    """One decision at a time: each arrival asks for a new one. `wake` has the lane look again next turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self._arrivals = ArrivalRate()
        self._arrived = 0  # rows not told to `_arrivals` yet
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def arrived(self, rows: int) -> None:
        self._arrived += rows
        self._until = 0.0

    def back(self, curve: LatencyCurve, shape: Hashable, rows: int, *, limit: float) -> bool:
        """Whether to wait with `rows` rows queued, up to the time `limit`; if so, the lane will be woken."""
        now = perf_counter()
        if now >= limit:
            return False
        if not self._until:
            self._arrivals.add(self._arrived, now)
            self._arrived = 0
            gap = worth_waiting_s(curve, shape, rows, self._arrivals.per_second(now))
            if not gap:
                return False
            self._until = min(now + gap, limit)
        left_s = self._until - now
        if left_s <= 0:
            return False
        if left_s < 0.001:
            self._wake()  # the loop's timers count whole milliseconds: look at the sockets again instead
        elif self._timer is None:
            self._timer = self._loop.call_later(left_s, self._over)
        return True

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        self._wake()
