"""How processes beside the event loop take the time that predictions leave."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

# What they do comes in bursts. So they still get a quarter of a busy processor: no row is to be lost and no
# answer to fail for want of time.
NICE = 5
# Who wakes up on a core where somebody computes may wait for the rest of his slice, however niced he is:
# some milliseconds, in which a client that sends one request after the other could have had a dozen answers.
WORK_S = 0.3e-3
REST_S = 1e-3

Rest = Callable[[], None]


def give_way() -> None:
    """Lower this process's priority, for good."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    # Where the kernel shares its time among sessions first, a session's own niceness counts: this one's, as
    # the process is alone in it.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))


class Pace:
    """Cuts long work into short pieces: `rest` is called wherever it may pause, and does once enough is done.

    `begin` says that work begins, and whether it is hurried: then it goes through without a pause.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self.begin()

    def begin(self, *, hurried: bool = False) -> None:
        self._hurried = hurried
        self._since = self._clock()

    def rest(self) -> None:
        if not self._hurried and self._clock() - self._since >= WORK_S:
            self._sleep(REST_S)
            self._since = self._clock()


def no_rest() -> None:
    """For work that nobody is waiting beside."""
