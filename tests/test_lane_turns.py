"""Whose turn it is where several lanes have more to compute than their device can take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from clocks import Clock
from lanes import FakeSession, answered, make_lane, run, some_jobs, submit
from waiting import until

from mdslite.serving import batch
from mdslite.serving.gate import Gate, Priority
from mdslite.serving.lane import Lane


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That by which runs are measured: it passes only while one computes."""
    clock = Clock()
    monkeypatch.setattr(batch, "perf_counter", clock)
    return clock


class Device:
    """A device for one batch at a time, and the lanes that were let in, one after the other."""

    def __init__(self, clock: Clock) -> None:
        self.order: list[str] = []
        self._clock = clock
        self._gate = Gate(slots=1)
        self._sessions: list[FakeSession] = []

    def lane(self, name: str, *, seconds: float = 1.0, priority: Priority = Priority.PRIMARY) -> Lane:
        """A lane of single rows that take so long, once the device goes on."""

        def take(rows: np.ndarray[Any, Any]) -> None:
            self.order.append(name)
            self._clock.now += seconds

        self._sessions.append(FakeSession(fail=take, held=True))
        return make_lane(self._sessions[-1], gate=self._gate, batch_size=1, priority=priority)

    async def compute(self, work: dict[Lane, int]) -> None:
        """Compute as many jobs of each lane, those of the first of them first."""
        jobs = [some_jobs(count) for count in work.values()]
        for lane, its in zip(work, jobs, strict=True):
            submit(lane, *its)
        await until(lambda: self._gate.busy and self._gate.waiting == len(work) - 1)
        for session in self._sessions:
            session.hold.set()
        for its in jobs:
            await answered(its)
        for lane in work:
            lane.close()


def test_a_lane_has_as_many_turns_as_take_as_long_as_one_of_another(clock: Clock) -> None:
    async def test() -> None:
        device = Device(clock)
        slow, quick = device.lane("slow", seconds=5.5), device.lane("quick")
        await device.compute({slow: 2, quick: 12})
        assert device.order == ["slow", *["quick"] * 6, "slow", *["quick"] * 6]

    run(test())


@pytest.mark.parametrize("priority", [Priority.SHADOW, Priority.REPLAY])
def test_what_is_not_primary_has_no_turn_while_a_primary_lane_has_anything(
    clock: Clock, priority: Priority
) -> None:
    async def test() -> None:
        device = Device(clock)
        primary, other = device.lane("primary", seconds=9.0), device.lane("other", priority=priority)
        await device.compute({primary: 5, other: 5})
        assert device.order == ["primary"] * 5 + ["other"] * 5

    run(test())
