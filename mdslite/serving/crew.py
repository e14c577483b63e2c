"""A lane's replicas at work: who gets the next batch, through its device's gate or straight behind another
one, and what becomes of it when they leave. Owns the replicas and the batches that are with them.

A replica's thread needs the interpreter to begin a batch, and the event loop hardly lets go of it while it
has answers to write or requests to read: a millisecond, as long as many a batch takes. Two things keep the
device busy all the same. While plenty waits, a replica is handed the next full batch before it is done with
the last, and goes on without the loop (`run_ahead`). And where the loop hands one to an idle replica and has
much to do next, it lets the thread begin first (`let_begin`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from mdslite.errors import DeadlineExceeded, MdsliteError
from mdslite.serving.batch import Batch
from mdslite.serving.flight import STUCK_AFTER_S, Flight
from mdslite.serving.gate import Gate, Priority, Seat
from mdslite.serving.replica import CHECK_LIMIT_S, Replica
from mdslite.serving.rotation import Rotation

AHEAD_S = 0.02  # longer runs gain nothing from a batch that waits behind them
BEGIN_WAIT_S = 200e-6  # a hand-over takes about half of it
CROWDED = 2  # cores: on so few, a batch that takes them all and the loop only take turns


class Crew:
    """Used from the event loop's thread only; `done` is what the replicas' threads have finished.

    `form(at)` makes the next batch, which could begin at the time `at`, or finds nothing to compute.
    `give_back` takes a batch that will not run. `collect` is called on the loop when `done` has something.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        width: int,
        priority: Priority,
        costly_stop: bool,
        form: Callable[[float], Batch | None],
        give_back: Callable[[Batch], None],
        collect: Callable[[], None],
        lost: Callable[[Replica, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.priority = priority
        self.done: deque[Batch] = deque()
        self.rotation = Rotation(replicas)
        self.flight = Flight(loop, costly_stop=costly_stop, stuck=self._give_up)
        gates = {one.gate for one in replicas}
        self._seats = {gate: Seat(width=width, start=partial(self._start_on, gate)) for gate in gates}
        self.is_wide = all(width >= gate.slots for gate in gates)  # a batch takes all of its device's slots
        self.is_in_the_way = self.is_wide and all(gate.with_loop and gate.slots <= CROWDED for gate in gates)
        self.is_twofold = any(one.beside is not None for one in replicas)  # but one of them in a crowd
        self._form = form
        self._give_back = give_back
        self._collect = collect
        self._lost = lost
        self._starting: Batch | None = None  # the last one that was handed to an idle replica

    @property
    def is_device_busy(self) -> bool:
        """Something computes for this lane, or for another one on the same device or about to be."""
        return any(gate.busy or gate.others_wait(seat) for gate, seat in self._seats.items())

    # Start

    def admit(self, *, behind: bool = False) -> bool:
        """Ask at the gates of idle replicas for a turn, for work that is `behind` as one who replays; whether
        a batch was started at once."""
        before = len(self.flight)
        priority = max(self.priority, Priority.REPLAY) if behind else self.priority
        for gate in {one.gate: None for one in self.rotation.idle}:
            gate.enter(self._seats[gate], priority)
        return len(self.flight) > before

    def _start_on(self, gate: Gate) -> bool:
        """A gate's word: start a batch on an idle replica of its device."""
        replica = next((one for one in self.rotation.idle if one.gate is gate), None)
        batch = self._form(perf_counter()) if replica is not None else None
        if replica is None or batch is None:
            return False
        self._starting = batch
        self._start(batch, replica)
        return True

    def _start(self, batch: Batch, replica: Replica) -> None:
        self.rotation.bind(replica)
        batch.replica = replica
        batch.handle = replica.session.handle()
        self.flight.add(batch)
        replica.start(batch, self.done, self._collect)

    def let_begin(self) -> None:
        """Let the thread that was handed a batch begin to compute before the loop goes on."""
        batch, self._starting = self._starting, None
        if batch is not None:
            batch.begun.acquire(timeout=BEGIN_WAIT_S)

    def run_ahead(self) -> bool:
        """Hand a batch to a replica that is not done with another one yet, on the turn that it has.

        Only for primary work, only behind a short run, and only while nobody else waits at the gate: it makes
        others wait for one short batch at most.
        """
        if self.priority is not Priority.PRIMARY:
            return False
        now = perf_counter()
        for running in self.flight:
            replica = running.replica
            ends_at = (running.started_at or now) + running.expected_s
            if (
                replica is not None
                and self.rotation.takes_another(replica)
                and running.stream is None
                and 0.0 < running.expected_s <= AHEAD_S
                and now < ends_at + running.expected_s  # else who knows when it ends
                and not replica.gate.others_wait(self._seats[replica.gate])
            ):
                batch = self._form(max(now, ends_at))
                if batch is None:
                    return False
                if not self.flight.has(replica):  # what was refused while forming was all that it had to do
                    self._give_back(batch)
                    return False
                batch.behind = True
                self._start(batch, replica)
                return True
        return False

    # Land

    def land(self, batch: Batch) -> bool:
        """A batch is back; False when it is none of this crew's any more.

        Others get the device when this lane has said whether it wants it again: see `let_in`.
        """
        replica = batch.replica
        if replica is None or not self.flight.land(batch):
            return False
        if self._starting is batch:
            self._starting = None
        self._leave(replica, batch.seconds)
        return True

    def let_in(self, replica: Replica) -> None:
        """Give what is left of a replica's device to those who wait for it."""
        replica.gate.let_in()

    def take_back(self) -> None:
        """Take what waits behind running batches away while another replica is idle."""
        if self.rotation.idle:
            for batch in self.flight.waiting():
                if batch.behind:
                    self._withdraw(batch)

    def stop_idle(self) -> None:
        """See to the end of what nobody waits for any more, be it computed or still behind another batch."""
        for batch in self.flight.waiting():
            if batch.behind and all(job.finished for job, _, _ in batch.slices):
                self._withdraw(batch)
        self.flight.stop_idle()

    def _withdraw(self, batch: Batch) -> None:
        replica = batch.replica
        assert replica is not None
        if batch.revoke() and self.flight.land(batch):
            self._leave(replica, 0.0)
            self._give_back(batch)
            self.let_in(replica)

    def _leave(self, replica: Replica, seconds: float) -> None:
        """One batch less is with a replica; with the last one ends its turn at the device."""
        self.rotation.release(replica)
        seat = self._seats[replica.gate]
        if self.flight.has(replica):
            seat.virtual_s += seconds
        else:
            replica.gate.leave(seat, seconds)

    def _give_up(self, batch: Batch) -> None:
        replica = batch.replica
        assert replica is not None
        self._leave(replica, STUCK_AFTER_S)
        self.lose(replica, "a run did not stop when it was told to")
        self.let_in(replica)

    # Replicas

    def check(
        self, replica: Replica, done: Callable[[MdsliteError | None], None], *, limit_s: float = CHECK_LIMIT_S
    ) -> None:
        """Have a replica's session checked (see `Replica.check`); it gets no batch while that lasts.

        One whose check does not end is lost.
        """

        def answered(error: MdsliteError | None) -> None:
            self.rotation.release(replica)
            if isinstance(error, DeadlineExceeded):
                self.lose(replica, error.message)
            done(error)

        self.rotation.bind(replica)
        replica.check(answered, limit_s=limit_s)

    def rest(self, replica: Replica, reason: str) -> None:
        """Take a replica out of rotation until it is added again; what it computes is still answered."""
        self.rotation.rest(replica, reason)
        self._take_from(replica)

    def lose(self, replica: Replica, reason: str) -> None:
        """Take a replica out for good, and tell the owner; nothing if it is not here any more."""
        if self.rotation.lose(replica, reason):
            self._take_from(replica)
            self._lost(replica, reason)

    def _take_from(self, replica: Replica) -> None:
        for batch in self.flight.waiting():
            if batch.replica is replica:
                self._withdraw(batch)

    def close(self) -> None:
        """Stop what runs and end the replicas' threads."""
        for gate, seat in self._seats.items():
            gate.withdraw(seat)
        self.flight.stop_all()
        for replica in self.rotation.clear():
            replica.close()
