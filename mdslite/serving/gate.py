"""The device gate: which lane may run its next batch on a device, and when. Owns no queue of requests.

A device has a number of slots (cores of a CPU, one on a GPU); a lane takes as many as its session has
threads. Who waits is admitted by priority first (primary, then replay and shadow) and, within one priority,
by the least virtual time: seconds of the device already used, so that a busy model cannot starve a quiet one
(start-time fair queueing, Goyal, Vin and Cheng 1996). A wide lane at the head is waited for, never overtaken.
"""

from __future__ import annotations

import enum
from typing import Protocol


class Priority(enum.IntEnum):
    PRIMARY = 0
    REPLAY = 1
    SHADOW = 2


class Entrant(Protocol):
    """Who asks for the device."""

    width: int  # slots that a batch of this lane takes
    virtual_s: float  # device seconds used, kept by the gate

    def admitted(self) -> bool:
        """Called with the slots taken: start a batch and return True, or return False to give them back."""
        ...


class Gate:
    """Admission to one device. Used from the event loop's thread only."""

    def __init__(self, *, slots: int = 1) -> None:
        self.slots = max(1, slots)
        self._free = self.slots
        self._waiting: dict[Entrant, Priority] = {}
        self._floor_s = 0.0
        self._admitting = False

    def enter(self, entrant: Entrant, priority: Priority = Priority.PRIMARY) -> None:
        """Ask for the device: `entrant.admitted()` is called now or as soon as it is its turn."""
        if entrant not in self._waiting or priority < self._waiting[entrant]:
            # An idle lane saves no credit: it starts where the device's time stands.
            entrant.virtual_s = max(entrant.virtual_s, self._floor_s)
            self._waiting[entrant] = priority
        self._admit()

    def leave(self, entrant: Entrant, seconds: float) -> None:
        """Give the slots of one batch back, after `seconds` of the device."""
        entrant.virtual_s += seconds
        self._free += self._taken(entrant)
        self._admit()

    def withdraw(self, entrant: Entrant) -> None:
        """Stop waiting."""
        self._waiting.pop(entrant, None)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self.slots - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _taken(self, entrant: Entrant) -> int:
        return min(entrant.width, self.slots)

    def _admit(self) -> None:
        if self._admitting:  # a batch that starts inside admitted() may come back here
            return
        self._admitting = True
        try:
            while self._waiting:
                entrant = min(self._waiting, key=lambda one: (self._waiting[one], one.virtual_s))
                if self._taken(entrant) > self._free:
                    return
                del self._waiting[entrant]
                self._free -= self._taken(entrant)
                self._floor_s = max(self._floor_s, entrant.virtual_s)
                if not entrant.admitted():
                    self._free += self._taken(entrant)
        finally:
            self._admitting = False
