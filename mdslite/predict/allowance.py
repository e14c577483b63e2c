"""How much of the machine the copies for shadows may take: what primaries leave, and a little in any case.

Looked at often: how busy the event loop's thread was, and how long it had to wait for a core. Where it is
busy, or waits, the share is halved again and again; where it has time, the share grows. The least share keeps
a comparison going, and is small enough that fewer than one request in a hundred meets a copy's work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time

LOOK_S = 0.05
LEAST = 0.002  # of a core
MOST = 64.0
BUSY = 0.75  # of the time: the loop has little left
WAITED = 0.05  # of the time: others take the cores that it needs
HANDLING_S = 60e-6  # of the event loop and of a thread, for one copy, beside computing it
_AMPLE = 0.05
_SAVED_S = 0.02  # an allowance that was not used is kept for so long

_SCHEDULE = Path("/proc/thread-self/schedstat")

# Seconds that the calling thread has run, and waited for a core, since it began.
Times = Callable[[], tuple[float, float]]


def read_times() -> tuple[float, float]:
    """As Linux counts them; without Linux, or where it does not count, the waiting is not known."""
    try:
        ran, waited, _ = _SCHEDULE.read_text().split()
    except (OSError, ValueError):
        return thread_time(), 0.0
    return int(ran) / 1e9, int(waited) / 1e9


class Allowance:
    """Seconds of a core that may be spent. Used from the event loop's thread only, whose times it reads."""

    def __init__(self, *, times: Times = read_times, clock: Callable[[], float] = perf_counter) -> None:
        self.share = 0.1  # of a core; above 1, of several
        self._times = times
        self._clock = clock
        self._seen_at = clock()
        self._seen = times()
        self._credit_s = 0.0
        self._credited_at = self._seen_at

    def wait_s(self) -> float:
        """How long the next copy has to wait; 0.0 if it may begin."""
        now = self._clock()
        if now - self._seen_at >= LOOK_S:
            self._look(now)
        gained_s = (now - self._credited_at) * self.share
        self._credit_s = min(self._credit_s + gained_s, self.share * _SAVED_S)
        self._credited_at = now
        return 0.0 if self._credit_s >= 0.0 else min(-self._credit_s / self.share, LOOK_S)

    @property
    def ample(self) -> bool:
        """Whether there is so much time left that a copy can wait for a moment in which nobody else asks."""
        return self.share >= _AMPLE

    def spend(self, seconds: float) -> None:
        self._credit_s -= seconds

    def _look(self, now: float) -> None:
        ran_s, waited_s = self._times()
        passed_s = now - self._seen_at
        busy, waited = (ran_s - self._seen[0]) / passed_s, (waited_s - self._seen[1]) / passed_s
        self._seen_at, self._seen = now, (ran_s, waited_s)
        if passed_s > 10 * LOOK_S:
            return  # nothing was copied meanwhile: this is no figure of now
        if busy > BUSY or waited > WAITED:
            self.share = max(LEAST, self.share / 2)
        else:
            self.share = min(MOST, self.share * 1.25)
