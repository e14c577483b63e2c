"""Which batches a lane computes on the event loop, and which it hands to a replica's thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from lanes import FakeJob, FakeSession, Known, entered, make_lane, submit
from waiting import until

from mdslite.serving.gate import Gate, Priority
from mdslite.serving.lane import Lane
from mdslite.serving.replica import Replica
from mdslite.serving.tempo import ALONE_S, BESIDE_S, QUICK_S, WIDE_S

LEAST, QUICK, LONGER, LONG = (
    BESIDE_S / 2,
    (BESIDE_S + QUICK_S) / 2,
    (QUICK_S + ALONE_S) / 2,
    (ALONE_S + WIDE_S) / 2,
)
CORES = 2


def run_of(seconds: float, *, width: int = 1, gate: Gate | None = None, **options: Any) -> Lane:
    """A lane whose runs take so long, as it believes."""
    return make_lane(
        FakeSession(),
        curve=Known(seconds),
        gate=gate or Gate(slots=CORES),
        inline=True,
        width=width,
        **options,
    )


async def answered(lane: Lane, rows: int) -> int:
    """Send one job of so many rows each, all at once; how many batches were computed on the loop."""
    before = lane.stats.inline_batches
    jobs = [FakeJob([[float(number)]]) for number in range(rows)]
    submit(lane, *jobs)
    for job in jobs:
        await job.answer()
    return lane.stats.inline_batches - before


@pytest.mark.parametrize(
    ("seconds", "width", "inline"),
    [
        (QUICK, 1, 1), (LONGER, 1, 1), (LONG, 1, 0), (WIDE_S * 2, 1, 0),
        (QUICK, CORES, 1), (LONGER, CORES, 1), (LONG, CORES, 1), (WIDE_S * 2, CORES, 0),
    ],
)  # fmt: skip
def test_all_there_is_may_take_longer_the_less_it_leaves_the_loop(
    seconds: float, width: int, inline: int
) -> None:
    async def test() -> None:
        lane = run_of(seconds, width=width)
        assert await answered(lane, 8) == inline
        lane.close()

    asyncio.run(test())


@pytest.mark.parametrize(("seconds", "inline"), [(QUICK, 3), (LONGER, 0), (LONG, 0)])
def test_what_has_others_waiting_behind_it_is_handed_over_unless_it_is_quick(
    seconds: float, inline: int
) -> None:
    async def test() -> None:
        lane = run_of(seconds, width=CORES, batch_size=4)
        assert await answered(lane, 12) == inline
        lane.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("slots", "width", "with_loop", "inline"),
    [(2, 2, True, 3), (1, 1, True, 3), (2, 1, True, 0), (3, 3, True, 0), (1, 1, False, 0)],
)
def test_full_batches_that_would_take_the_loops_core_run_on_it(
    slots: int, width: int, with_loop: bool, inline: int
) -> None:
    async def test() -> None:
        gate = Gate(slots=slots, with_loop=with_loop)
        lane = run_of(LONG, width=width, gate=gate, batch_size=4)
        assert await answered(lane, 12) == inline
        lane.close()

    asyncio.run(test())


@pytest.mark.parametrize(("rows", "sizes"), [(4, [4]), (7, [4, 3]), (12, [])])
def test_all_cores_are_for_few_and_one_is_for_batches_beside_a_loop_that_is_busy(
    rows: int, sizes: list[int]
) -> None:
    """A replica with two sessions: where two full batches are present, the loop has enough to do."""

    async def test() -> None:
        beside, wide = FakeSession(), FakeSession()
        loop, gate = asyncio.get_running_loop(), Gate(slots=CORES, with_loop=True)
        replica = Replica(wide, name="local/0", gate=gate, loop=loop, beside=beside)
        lane = make_lane(curve=Known(LONG), inline=True, width=CORES, batch_size=4, replicas=[replica])
        await answered(lane, rows)
        assert wide.sizes == sizes
        assert sum(beside.sizes) == rows - sum(sizes)
        lane.close()
        await until(lambda: beside.closed and wide.closed)

    asyncio.run(test())


def test_a_batch_that_is_not_full_leaves_the_loop_to_the_callers_who_are_not_there_yet() -> None:
    async def test() -> None:
        lane = run_of(LONG, width=CORES, gate=Gate(slots=CORES, with_loop=True), batch_size=8)
        assert await answered(lane, 16) == 2
        assert await answered(lane, 7) == 0
        lane.close()

    asyncio.run(test())


def test_a_few_of_many_callers_do_not_hold_up_the_loop_that_reads_the_others() -> None:
    async def test() -> None:
        lane = run_of(LONG, width=CORES)
        assert await answered(lane, 16) == 1
        assert await answered(lane, 4) == 0  # the other twelve will ask again
        for _ in range(100):
            await answered(lane, 4)
        assert await answered(lane, 4) == 1  # they do not, it seems
        lane.close()

    asyncio.run(test())


@pytest.mark.parametrize(("seconds", "inline"), [(QUICK, 3), (LONGER, 3), (LONG, 0)])
def test_a_busy_device_is_not_waited_for_with_what_is_quicker_than_a_hand_over(
    seconds: float, inline: int
) -> None:
    async def test() -> None:
        gate = Gate(slots=CORES)
        other_session = FakeSession(held=True)
        other = make_lane(other_session, gate=gate)
        held = FakeJob([[1.0]])
        submit(other, held)
        await entered(other_session)
        lane = run_of(seconds, width=CORES - 1, gate=gate, batch_size=4)
        assert await answered(lane, 12) == inline
        other_session.hold.set()
        await held.answer()
        lane.close()
        other.close()

    asyncio.run(test())


@pytest.mark.parametrize(("seconds", "inline"), [(LEAST, 1), (QUICK, 0), (LONGER, 0)])
def test_what_comes_while_a_batch_is_out_goes_with_the_next_one_unless_it_costs_next_to_nothing(
    seconds: float, inline: int
) -> None:
    async def test() -> None:
        released = threading.Event()

        def hold_the_first(rows: np.ndarray[Any, Any]) -> None:
            if rows[0, 0] == 1.0:
                released.wait(10)

        session = FakeSession(fail=hold_the_first)
        curve = Known(LONG)
        lane = make_lane(session, gate=Gate(slots=CORES), curve=curve, inline=True)
        jobs = [FakeJob([[number]]) for number in (1.0, 2.0, 3.0)]
        submit(lane, jobs[0])
        await entered(session)
        curve.seconds = seconds
        submit(lane, *jobs[1:])
        for _ in range(5):
            await asyncio.sleep(0)
        assert lane.stats.inline_batches == inline
        released.set()
        for job in jobs:
            await job.answer()
        assert session.sizes == [1, 2]
        lane.close()

    asyncio.run(test())


@pytest.mark.parametrize("options", [{"inline": False}, {"inline": True, "priority": Priority.SHADOW}])
def test_neither_unbounded_models_nor_shadows_run_on_the_loop(options: dict[str, Any]) -> None:
    async def test() -> None:
        lane = make_lane(FakeSession(), curve=Known(QUICK), **options)
        assert await answered(lane, 1) == 0
        lane.close()

    asyncio.run(test())
