"""The device gate: which lane may run its next batch on a device, and when. Owns no queue of requests.

A device has a number of slots (cores of a CPU, one on a GPU); a lane takes as many as its session has
threads. Who waits is admitted by priority first (primary, then replay and shadow) and, within one priority,
by the least virtual time: seconds of the device already used, so that a busy model cannot starve a quiet one
(start-time fair queueing, Goyal, Vin and Cheng 1996). A wide lane at the head is waited for, never overtaken.
"""

from __future__ import annotations

import enum
from collections.abc import Callable


class Priority(enum.IntEnum):
    PRIMARY = 0
    REPLAY = 1
    SHADOW = 2


class Seat:
    """A lane's place at a gate. `start` is called with the slots taken: it starts a batch and returns True,
    or returns False to give them back."""

    __slots__ = ("start", "virtual_s", "width")

    def __init__(self, *, width: int, start: Callable[[], bool]) -> None:
        self.width = width  # slots that a batch of this lane takes
        self.start = start
        self.virtual_s = 0.0  # device seconds used, kept by the gate


class Gate:
    """Admission to one device. Used from the event loop's thread only.

    `with_loop`: its slots are the cores that the event loop runs on too.
    """

    def __init__(self, *, slots: int = 1, with_loop: bool = False) -> None:
        self.slots = max(1, slots)
        self.with_loop = with_loop
        self._free = self.slots
        self._waiting: dict[Seat, Priority] = {}
        self._floor_s = 0.0
        self._admitting = False

    def enter(self, seat: Seat, priority: Priority = Priority.PRIMARY) -> None:
        """Ask for the device: `seat.start()` is called now or as soon as it is its turn."""
        if seat not in self._waiting or priority < self._waiting[seat]:
            # An idle lane saves no credit: it starts where the device's time stands.
            seat.virtual_s = max(seat.virtual_s, self._floor_s)
            self._waiting[seat] = priority
        self.let_in()

    def leave(self, seat: Seat, seconds: float) -> None:
        """Give the slots of one batch back, after `seconds` of the device.

        Who waits is not let in yet: a lane that goes on enters again first, to be weighed with the others,
        and then calls `let_in`.
        """
        seat.virtual_s += seconds
        self._free += self._taken(seat)

    def withdraw(self, seat: Seat) -> None:
        """Stop waiting."""
        self._waiting.pop(seat, None)

    def others_wait(self, seat: Seat) -> bool:
        """Whether anybody but this lane waits."""
        return len(self._waiting) > (seat in self._waiting)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self.slots - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _taken(self, seat: Seat) -> int:
        return min(seat.width, self.slots)

    def let_in(self) -> None:
        """Admit those whose turn it is, for as long as there are slots for them."""
        if self._admitting:  # a batch that starts in here may come back to it
            return
        self._admitting = True
        try:
            while self._waiting:
                seat = min(self._waiting, key=lambda one: (self._waiting[one], one.virtual_s))
                if self._taken(seat) > self._free:
                    return
                del self._waiting[seat]
                self._free -= self._taken(seat)
                self._floor_s = max(self._floor_s, seat.virtual_s)
                if not seat.start():
                    self._free += self._taken(seat)
        finally:
            self._admitting = False
