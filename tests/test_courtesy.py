"""Processes beside the event loop work in short pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from log_rows import row

from mdslite.store.courtesy import REST_S, WORK_S, Pace
from mdslite.store.letters import Order
from mdslite.store.ring import LEAST_BYTES, Ring
from mdslite.store.rows import pack_row
from mdslite.store.writer import Writer

LONG_S = WORK_S * 1.1
ROWS = 3000  # of one block; they fill more than a quarter of the smallest ring


class Slow:
    """A clock by which every look at it takes `look_s`; it knows how long it was slept by."""

    def __init__(self, look_s: float) -> None:
        self.now = 0.0
        self.slept_s = 0.0
        self.longest_s = 0.0  # without a rest
        self._look_s = look_s
        self._woke_at = 0.0

    def __call__(self) -> float:
        self.now += self._look_s
        return self.now

    def sleep(self, seconds: float) -> None:
        self.longest_s = max(self.longest_s, self.now - self._woke_at)
        self.slept_s += seconds
        self.now += seconds
        self._woke_at = self.now


def test_work_is_cut_where_it_may_be_and_only_once_it_took_a_while() -> None:
    clock = Slow(WORK_S / 3)
    pace = Pace(clock=clock, sleep=clock.sleep)
    for _ in range(30):
        pace.rest()
    assert clock.slept_s == pytest.approx(30 / 4 * REST_S, rel=0.2)
    assert clock.longest_s < 2 * WORK_S


def test_hurried_work_is_not_cut() -> None:
    clock = Slow(LONG_S)
    pace = Pace(clock=clock, sleep=clock.sleep)
    pace.begin(hurried=True)
    pace.rest()
    assert not clock.slept_s
    pace.begin()
    pace.rest()
    assert clock.slept_s == REST_S


@pytest.mark.parametrize(
    ("ring_bytes", "now", "rests"),
    [
        pytest.param(64 * LEAST_BYTES, False, True, id="a burst"),
        pytest.param(64 * LEAST_BYTES, True, False, id="what somebody waits for"),
        pytest.param(LEAST_BYTES, False, False, id="a ring that fills"),
    ],
)
def test_the_log_is_written_with_rests_while_there_is_time(
    tmp_path: Path, ring_bytes: int, now: bool, rests: bool
) -> None:
    ring = Ring.create(ring_bytes)
    clock = Slow(LONG_S)
    order = Order(str(tmp_path), 1, 0, 0, 86400.0, 1 << 30, 0, "")
    writer = Writer(order, ring, pace=Pace(clock=clock, sleep=clock.sleep))
    writer.open()
    record = pack_row(row())
    assert all(ring.put(record) for _ in range(ROWS))
    writer.work(ring.appended(), now=now)
    report = writer.report()
    assert (report.written, report.settled) == (ROWS, ring.appended())
    assert bool(clock.slept_s) is rests
    if rests:
        assert clock.slept_s >= ROWS * REST_S  # for each record of the ring at least
    writer.close()
    ring.close()
