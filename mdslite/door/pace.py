"""How soon a refused client is read again, so that refusing costs the event loop a bounded share of its time.

A client that was refused for want of room and comes back at once burns the time in which room would be made.
A thousand of them, all on kept connections, took two thirds of a model's throughput. So refused connections
are read again at a bounded rate, first come, first served: what they send meanwhile waits in the kernel. Who
waits as long as `Retry-After` says never notices; nor does anybody while refusals are few. Once nobody is
refused any more, more and more of them are read at once: the crowd is gone.

They are let go by the bunch. One at a time, each would interrupt who computes, and find the processor's
caches full of what was computed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

LEAST_S = 0.002  # a shorter wait is not worth a timer
BUNCH_S = 0.05  # between two bunches of those whose time has come
EARLY_MAX = 256  # connections that are read again at one moment before their time


class Held(Protocol):
    def let_go(self) -> None:
        """Read again."""


class Pace:
    """`per_second` refused connections are read again, each after `longest_s` at the latest, or with the next
    bunch."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        per_second: float,
        longest_s: float,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._loop = loop
        self._interval_s = 1.0 / per_second
        self._longest_s = longest_s
        self._clock = clock
        self._next_at = 0.0
        self._held: deque[tuple[float, Held]] = deque()  # by the moment when each is due
        self._timer: asyncio.TimerHandle | None = None
        self._refusing = False  # since some were let go last
        self._early = 0  # how many may go before their time

    def hold(self, one: Held, now: float) -> bool:
        """Take note of a refusal; whether its connection is to be left unread until `let_go` is called."""
        self._refusing = True
        due = self._next_at
        if due < now:
            due = now
        elif due > now + self._longest_s:
            due = now + self._longest_s
        self._next_at = due + self._interval_s
        if due - now < LEAST_S:
            return False
        self._held.append((due, one))
        if self._timer is None:
            self._timer = self._loop.call_later(max(BUNCH_S, due - now), self._release)
        return True

    def close(self) -> None:
        """Let go of all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held:
            self._held.popleft()[1].let_go()

    def _release(self) -> None:
        self._timer = None
        held, now = self._held, self._clock()
        self._early = 0 if self._refusing else min(max(1, 2 * self._early), EARLY_MAX)
        self._refusing = False
        early = self._early
        while held and (held[0][0] <= now or early):
            early -= held[0][0] > now
            held.popleft()[1].let_go()
        if held:
            wait_s = LEAST_S if self._early else max(BUNCH_S, held[0][0] - now)
            self._timer = self._loop.call_later(wait_s, self._release)
        else:
            self._next_at = now
