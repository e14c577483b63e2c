"""How much copies for shadows may take: by an injected clock, and by made-up times of an event loop."""

from __future__ import annotations

from time import monotonic

from mdslite.predict.allowance import BUSY, LEAST, LOOK_S, WAITED, Allowance, read_times


class Machine:
    """A loop that is busy, and waits for a core, as much of the time as it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ran_s = 0.0
        self.waited_s = 0.0

    def pass_(self, seconds: float, *, busy: float = 0.0, waited: float = 0.0) -> None:
        self.now += seconds
        self.ran_s += seconds * busy
        self.waited_s += seconds * waited

    def make(self) -> Allowance:
        return Allowance(times=lambda: (self.ran_s, self.waited_s), clock=lambda: self.now)

    def spent(self, allowance: Allowance, *, copy_s: float, looks: int, **load: float) -> float:
        """What copies of `copy_s` seconds each take of a core where there are always more of them."""
        copies = 0
        for _ in range(looks):
            for _ in range(100):
                self.pass_(LOOK_S / 100, **load)
                while not allowance.wait_s():
                    allowance.spend(copy_s)
                    copies += 1
                    assert copies < 1e6
        return copies * copy_s / (looks * LOOK_S)


def test_a_loop_with_time_to_spare_gives_more_and_more() -> None:
    machine = Machine()
    allowance = machine.make()
    machine.spent(allowance, copy_s=1e-3, looks=20, busy=BUSY / 2)
    assert machine.spent(allowance, copy_s=1e-3, looks=1, busy=BUSY / 2) > 1.0
    assert allowance.ample


def test_a_busy_loop_gives_the_least_there_is() -> None:
    machine = Machine()
    allowance = machine.make()
    machine.spent(allowance, copy_s=1e-4, looks=20, busy=0.95)
    assert 0.0 < machine.spent(allowance, copy_s=1e-4, looks=200, busy=0.95) <= LEAST * 1.1
    assert not allowance.ample


def test_a_loop_that_waits_for_a_core_gives_the_least_there_is() -> None:
    machine = Machine()
    allowance = machine.make()
    machine.spent(allowance, copy_s=1e-4, looks=20, busy=0.1, waited=WAITED * 2)
    assert machine.spent(allowance, copy_s=1e-4, looks=200, busy=0.1, waited=WAITED * 2) <= LEAST * 1.1


def test_a_dear_copy_is_paid_for_before_the_next() -> None:
    machine = Machine()
    allowance = machine.make()
    machine.spent(allowance, copy_s=1e-4, looks=20, busy=0.95)
    machine.pass_(1.0, busy=0.95)
    assert allowance.wait_s() == 0.0
    allowance.spend(0.01)
    assert allowance.wait_s() == LOOK_S  # then it looks again, as the load may have gone
    assert machine.spent(allowance, copy_s=1.0, looks=40, busy=0.95) == 0.0


def test_what_was_not_spent_is_not_kept_for_long() -> None:
    machine = Machine()
    allowance = machine.make()
    machine.pass_(3600.0)
    copies = 0
    while not allowance.wait_s():
        allowance.spend(1e-4)
        copies += 1
    assert copies < 50


def test_the_times_of_this_thread_grow() -> None:
    ran_s, waited_s = read_times()
    until = monotonic() + 10.0
    while read_times()[0] <= ran_s and monotonic() < until:
        sum(range(10_000))  # the kernel counts by its ticks
    assert read_times()[0] > ran_s
    assert read_times()[1] >= waited_s >= 0.0
