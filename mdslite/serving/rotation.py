"""The replicas of one lane: which take part, which are idle, and why the others do not. Owns no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mdslite.serving.replica import Replica


class Rotation:
    """Replicas at work, resting (expected back) or gone. Used from the event loop's thread only."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self.working = list(replicas)
        self.idle = deque(self.working)  # least recently used first, so that they take turns
        self.resting: dict[Replica, str] = {}  # and why
        self.reason = ""  # why the last one left
        self._bound: dict[Replica, int] = {}  # batches and checks that were handed over and are not back

    def bind(self, replica: Replica) -> None:
        """A batch or a check was handed to a replica: it is not idle."""
        bound = self._bound.get(replica, 0)
        if not bound and replica in self.idle:
            self.idle.remove(replica)
        self._bound[replica] = bound + 1

    def takes_another(self, replica: Replica) -> bool:
        """Whether a replica has one thing to do, and may be handed a second."""
        return self._bound.get(replica) == 1 and replica in self.working

    def release(self, replica: Replica) -> None:
        """What was handed to a replica is back."""
        left = self._bound[replica] - 1
        if left:
            self._bound[replica] = left
            return
        del self._bound[replica]
        if replica in self.working:
            self.idle.append(replica)

    def add(self, replica: Replica) -> None:
        """Take in a new replica, or one that rested."""
        self.resting.pop(replica, None)
        if replica not in self.working:
            self.working.append(replica)
            if replica not in self._bound:
                self.idle.append(replica)

    def rest(self, replica: Replica, reason: str) -> None:
        """Give a replica no more work until it is added again."""
        if self._leave(replica, reason):
            self.resting[replica] = reason

    def lose(self, replica: Replica, reason: str) -> bool:
        """Forget a replica that cannot be used again; False when it was not known any more."""
        return self.resting.pop(replica, None) is not None or self._leave(replica, reason)

    def clear(self) -> list[Replica]:
        """Forget them all; returns those that there were."""
        known = [*self.working, *self.resting]
        self.working.clear()
        self.idle.clear()
        self.resting.clear()
        return known

    def _leave(self, replica: Replica, reason: str) -> bool:
        if replica not in self.working:
            return False
        self.reason = reason
        self.working.remove(replica)
        if replica in self.idle:
            self.idle.remove(replica)
        return True
