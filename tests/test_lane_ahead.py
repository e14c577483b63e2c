"""The batch that waits behind the running one: when there is one, whom it hinders, who may leave it."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import pytest
from lanes import FakeJob, FakeSession, answered, busy_lane, flat_curve, make_lane, run, some_jobs, submit
from waiting import until

from mdslite.errors import DeadlineExceeded
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate, Priority, Seat

pytestmark = pytest.mark.usefixtures("patient")


def test_a_busy_replica_is_handed_the_next_full_batch_and_no_more() -> None:
    async def test() -> None:
        session = FakeSession()
        gate = Gate(slots=8)
        lane, jobs = await busy_lane(session, gate=gate)
        more = some_jobs(3, first=5)
        submit(lane, *more)
        await asyncio.sleep(0)
        assert lane.running == 2
        assert lane.queue_rows == 5  # two of them behind the running batch
        assert gate.busy == 1
        session.hold.set()
        await answered(jobs + more)
        assert session.sizes == [2, 2, 2, 1]
        await until(lambda: not gate.busy)
        lane.close()

    run(test())


def test_part_of_a_batch_waits_in_the_queue_where_more_may_join_it() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=2, curve=flat_curve())
        jobs = some_jobs(3)
        submit(lane, *jobs)
        await until(session.entered.is_set)
        await asyncio.sleep(0)
        assert (lane.running, lane.queue_rows) == (1, 1)
        session.hold.set()
        await answered(jobs)
        lane.close()

    run(test())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"curve": flat_curve(2000.0)}, id="long runs gain nothing"),
        pytest.param({"curve": LatencyCurve()}, id="nothing is known of the run"),
        pytest.param({"priority": Priority.SHADOW}, id="shadow"),
        pytest.param({"priority": Priority.REPLAY}, id="replay"),
    ],
)
def test_no_batch_waits_behind_another_where(options: dict[str, Any]) -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=2, **{"curve": flat_curve(), **options})
        jobs = some_jobs(4)
        submit(lane, *jobs)
        await until(session.entered.is_set)
        await asyncio.sleep(0)
        assert (lane.running, lane.queue_rows) == (1, 2)
        session.hold.set()
        await answered(jobs)
        lane.close()

    run(test())


def test_no_batch_waits_behind_another_while_another_lane_waits_for_the_device() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        gate = Gate(slots=1)
        lane = make_lane(session, gate=gate, batch_size=2, curve=flat_curve())
        first, second = some_jobs(2), some_jobs(2, first=3)
        submit(lane, *first)
        await until(session.entered.is_set)
        turns: list[str] = []

        def start() -> bool:
            turns.append("other")
            return True

        other = Seat(width=1, start=start)
        gate.enter(other)
        submit(lane, *second)
        await asyncio.sleep(0)
        assert (lane.running, lane.queue_rows) == (1, 2)
        session.hold.set()
        await answered(first)
        assert turns == ["other"]
        gate.leave(other, 0.0)
        gate.let_in()
        await answered(second)
        lane.close()

    run(test())


def test_another_lane_waits_for_one_batch_that_was_handed_over_and_not_for_a_third() -> None:
    async def test() -> None:
        session = FakeSession()
        gate = Gate(slots=1)
        lane, jobs = await busy_lane(session, gate=gate)
        more = some_jobs(2, first=5)
        submit(lane, *more)
        computed: list[int] = []

        def start() -> bool:
            computed.extend(session.sizes)
            return True

        other = Seat(width=1, start=start)
        gate.enter(other)
        session.hold.set()
        await answered(jobs)
        assert computed == [2, 2]
        gate.leave(other, 0.0)
        gate.let_in()
        await answered(more)
        lane.close()

    run(test())


def test_a_job_that_leaves_a_waiting_batch_is_not_computed_and_stops_nothing() -> None:
    async def test() -> None:
        session = FakeSession()
        lane, jobs = await busy_lane(session)
        lane.cancel(jobs[2])
        session.hold.set()
        await answered([jobs[0], jobs[1], jobs[3]])
        assert [batch.tolist() for batch in session.batches] == [[[1.0], [2.0]], [[4.0]]]
        assert jobs[2].times_resolved == 0
        assert jobs[3].batch_rows == 1
        lane.close()

    run(test())


def test_a_waiting_batch_that_everybody_left_does_not_run_and_does_not_stop_the_one_before_it() -> None:
    async def test() -> None:
        session = FakeSession()
        lane, jobs = await busy_lane(session)
        lane.cancel(jobs[2])
        lane.cancel(jobs[3])
        session.hold.set()
        await answered(jobs[:2])
        await until(lambda: not lane.running)
        assert session.sizes == [2]
        submit(lane, job := FakeJob([[9.0]]))
        await answered([job])
        lane.close()

    run(test())


def test_a_job_that_expires_in_a_waiting_batch_is_504_and_never_computed() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=2, curve=flat_curve(0.05))
        jobs = some_jobs(3)
        jobs.append(FakeJob([[4.0]], deadline=perf_counter() + 0.2))
        submit(lane, *jobs)
        with pytest.raises(DeadlineExceeded):
            await jobs[3].answer()
        session.hold.set()
        await answered(jobs[:3])
        assert [4.0] not in [row for batch in session.batches for row in batch.tolist()]
        lane.close()

    run(test())


def test_rows_that_a_waiting_batch_could_not_answer_in_time_are_refused_at_once() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=2, curve=flat_curve(20.0))
        jobs = some_jobs(2)
        submit(lane, *jobs)
        await until(session.entered.is_set)
        # One run would do it; one behind another one will not.
        late = [FakeJob([[3.0]], deadline=perf_counter() + 30) for _ in range(2)]
        submit(lane, *late)
        for job in late:
            with pytest.raises(DeadlineExceeded, match="could not be computed in time"):
                await job.answer()
        session.hold.set()
        await answered(jobs)
        lane.close()

    run(test())
