from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from lanes import FakeJob, FakeSession, Known, make_lane, run, submit
from waiting import until

from mdslite.errors import DeadlineExceeded, Unavailable
from mdslite.serving import crew, flight
from mdslite.serving.batch import Batch
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate, Priority, Seat
from mdslite.serving.lane import Lane
from mdslite.serving.replica import Replica
from mdslite.serving.tempo import ALONE_S


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is too long to have a batch behind it, so that a slow machine cannot come between."""
    monkeypatch.setattr(crew, "AHEAD_S", 1000.0)


def flat_curve(seconds: float = 100.0) -> LatencyCurve:
    """A model whose runs take as long whatever their rows."""
    curve = LatencyCurve()
    for rows in (1, 2, 4, 8, 16, 32):
        curve.observe((1,), rows, seconds)
    return curve


def some_jobs(count: int, *, first: int = 1) -> list[FakeJob]:
    return [FakeJob([[float(number)]]) for number in range(first, first + count)]


async def busy_lane(session: FakeSession, **options: Any) -> tuple[Lane, list[FakeJob]]:
    """A lane of batches of two whose replica computes one and has another: four jobs are with it."""
    session.hold.clear()
    lane = make_lane(session, batch_size=2, **{"curve": flat_curve(), **options})
    jobs = some_jobs(4)
    submit(lane, *jobs)
    await until(lambda: lane.running == 2 and session.entered.is_set())
    return lane, jobs


async def answered(jobs: list[FakeJob]) -> None:
    for job in jobs:
        assert await job.answer() == [[2.0 * row for row in rows] for rows in rows_of(job)]
        assert job.times_resolved == 1


def rows_of(job: FakeJob) -> list[list[float]]:
    array = np.frombuffer(job.columns.columns[0] or b"", dtype=np.float32)
    return [[value] for value in array.tolist()]


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
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
        gate = Gate(slots=1)
        lane = make_lane(session, gate=gate, batch_size=2, curve=flat_curve())
        first, second = some_jobs(2), some_jobs(2, first=3)
        submit(lane, *first)
        await until(session.entered.is_set)
        turns: list[str] = []
        other = Seat(width=1, start=lambda: turns.append("other") is None)
        gate.enter(other)
        submit(lane, *second)
        await asyncio.sleep(0)
        assert (lane.running, lane.queue_rows) == (1, 2)
        session.hold.set()
        await answered(first)
        assert turns == ["other"]
        gate.leave(other, 0.0)
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
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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


def test_what_waits_with_a_replica_that_is_lost_goes_back_to_the_front_of_the_queue() -> None:
    async def test() -> None:
        failing = True

        def fail(rows: np.ndarray[Any, Any]) -> None:
            if failing:
                raise Unavailable("killed by signal 11")

        lost: list[Replica] = []
        session = FakeSession(fail=fail)
        lane, jobs = await busy_lane(session, on_lost=lambda replica, reason: lost.append(replica))
        behind = some_jobs(1, first=5)
        submit(lane, *behind)
        session.hold.set()
        for job in jobs[:2]:
            with pytest.raises(Unavailable, match="signal 11"):
                await job.answer()
        assert len(lost) == 1
        await until(lambda: not lane.running)
        assert session.sizes == [2]
        assert not any(job.finished for job in [*jobs[2:], *behind])
        fresh = FakeSession()
        lane.add_replica(Replica(fresh, name="fresh", gate=lost[0].gate, loop=asyncio.get_running_loop()))
        await answered([*jobs[2:], *behind])
        assert [batch.tolist() for batch in fresh.batches] == [[[3.0], [4.0]], [[5.0]]]
        lane.close()

    run(test())


def test_what_waits_behind_a_run_that_does_not_stop_is_computed_by_another_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "STUCK_AFTER_S", 0.01)

    class Deaf(FakeSession):
        def run(self, feeds: Any, handle: Any = None) -> list[Any]:
            return super().run(feeds, None)

    async def test() -> None:
        session, gate = Deaf(), Gate(slots=1)
        lane, jobs = await busy_lane(session, gate=gate)
        lost = lane.replicas[0]
        for job in jobs[:2]:
            lane.cancel(job)
        await until(lambda: not lane.replicas)
        assert gate.busy == 0
        fresh = FakeSession()
        lane.add_replica(Replica(fresh, name="fresh", gate=gate, loop=asyncio.get_running_loop()))
        await answered(jobs[2:])
        assert gate.busy == 0
        session.hold.set()
        lost.close()
        await until(lambda: session.closed)
        assert session.sizes == [2]
        lane.close()

    run(test())


def test_a_replica_that_becomes_idle_takes_over_what_waits_with_another() -> None:
    async def test() -> None:
        session, gate = FakeSession(), Gate(slots=8)
        lane, jobs = await busy_lane(session, gate=gate)
        fresh = FakeSession()
        lane.add_replica(Replica(fresh, name="fresh", gate=gate, loop=asyncio.get_running_loop()))
        await answered(jobs[2:])
        assert fresh.sizes == [2]
        session.hold.set()
        await answered(jobs[:2])
        assert session.sizes == [2]
        await until(lambda: not gate.busy)
        lane.close()

    run(test())


def test_a_replica_that_is_told_to_rest_gives_back_what_it_has_not_begun() -> None:
    async def test() -> None:
        session = FakeSession()
        lane, jobs = await busy_lane(session)
        replica = lane.replicas[0]
        lane.rest(replica, "it is tired")
        assert lane.running == 1
        session.hold.set()
        await answered(jobs[:2])
        assert session.sizes == [2]
        lane.add_replica(replica)
        await answered(jobs[2:])
        assert session.sizes == [2, 2]
        lane.close()

    run(test())


def test_draining_waits_for_the_batch_behind_too() -> None:
    async def test() -> None:
        session = FakeSession()
        lane, jobs = await busy_lane(session)
        assert not await lane.drain(deadline_s=0.01)
        draining = asyncio.create_task(lane.drain(deadline_s=10))
        session.hold.set()
        assert await draining
        assert all(job.finished and job.error is None for job in jobs)
        lane.close()

    run(test())


def test_closing_answers_the_batch_behind_and_never_runs_it() -> None:
    async def test() -> None:
        session = FakeSession()
        gate = Gate(slots=1)
        lane, jobs = await busy_lane(session, gate=gate)
        lane.close()
        for job in jobs:
            with pytest.raises(Unavailable):
                await job.answer()
        await until(lambda: session.closed)
        assert session.sizes == [2]
        await until(lambda: not gate.busy)

    run(test())


def test_a_batch_that_fails_behind_another_is_isolated_as_ever() -> None:
    async def test() -> None:
        def fail(rows: np.ndarray[Any, Any]) -> None:
            if (rows == 3.0).any():
                raise ValueError("three")

        session = FakeSession(fail=fail)
        lane, jobs = await busy_lane(session)
        session.hold.set()
        await answered(jobs[:2])
        for job in jobs[2:]:
            assert await failure(job) == "internal error in the model's runtime"
        lane.close()

    run(test())


async def failure(job: FakeJob) -> str:
    try:
        await job.answer()
    except Exception as exc:
        return str(exc)
    return ""


def linear_curve(seconds: float) -> LatencyCurve:
    curve = LatencyCurve()
    for rows in (1, 2, 4, 8, 16, 32):
        curve.observe((1,), rows, seconds * rows)
    return curve


def test_an_idle_replica_begins_with_half_a_batch_while_the_loop_still_reads() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
        lane = make_lane(session, batch_size=32, curve=linear_curve(1e-3))
        jobs = some_jobs(32)
        submit(lane, *jobs[:16])
        assert lane.running == 0
        submit(lane, jobs[16])  # not in the call that brought the half: it may resolve nothing
        assert lane.running == 1
        submit(lane, *jobs[17:])
        session.hold.set()
        await answered(jobs)
        assert session.sizes == [16, 16]
        lane.close()

    run(test())


@pytest.mark.parametrize(("seconds", "sizes"), [(ALONE_S / 24, [16, 16]), (ALONE_S / 40, [32])])
def test_half_of_a_crowd_that_is_too_much_for_the_loop_is_begun_though_the_loop_could_run_the_half(
    seconds: float, sizes: list[int]
) -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session, curve=Known(seconds, a_row=True), inline=True, batch_size=32)
        for _ in range(2):  # the first time tells how many they are
            session.batches.clear()
            jobs = some_jobs(32)
            submit(lane, *jobs)
            await answered(jobs)
        assert session.sizes == sizes
        lane.close()

    run(test())


def test_a_model_that_gains_by_batches_is_not_begun_with_half_of_one() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session, batch_size=32, curve=flat_curve(0.01))
        jobs = some_jobs(32)
        submit(lane, *jobs)
        await answered(jobs)
        assert session.sizes == [32]
        lane.close()

    run(test())


def test_beginning_early_may_end_others_and_never_the_job_that_is_submitted() -> None:
    async def test() -> None:
        curve = linear_curve(1e-3)
        lane = make_lane(FakeSession(), batch_size=16, curve=curve)
        late = [FakeJob([[1.0]], deadline=perf_counter()) for _ in range(8)]
        submit(lane, *late)
        assert not any(job.finished for job in late)
        job = FakeJob([[2.0]])
        submit(lane, job)
        assert all(isinstance(one.error, DeadlineExceeded) for one in late)
        await answered([job])
        lane.close()

    run(test())


def test_nothing_follows_a_run_that_ends_while_what_would_follow_is_formed() -> None:
    async def test() -> None:
        gate, session, curve = Gate(slots=1), FakeSession(), Known(50.0, a_row=True)
        lane = make_lane(session, gate=gate, batch_size=2, curve=curve)
        session.hold.clear()
        running = FakeJob([[1.0], [1.0]])
        submit(lane, running)
        await until(session.entered.is_set)
        (replica,) = lane.replicas
        start = replica.start

        def start_others(batch: Batch, *options: Any) -> None:
            if batch.slices[0][0] is not split:  # its thread does not get to begin this one
                start(batch, *options)

        replica.start = start_others  # type: ignore[method-assign]
        split = FakeJob([[2.0]] * 3, deadline=perf_counter() + 250.0)
        submit(lane, split)
        await until(lambda: lane.running == 2)
        session.hold.set()
        await running.answer()
        curve.seconds = 100.0  # what is left of the split job comes too late now, and with it goes the rest
        other = FakeJob([[3.0]])
        submit(lane, other)
        with pytest.raises(DeadlineExceeded):
            await split.ended()
        assert await other.answer() == [[6.0]]
        assert not gate.busy
        lane.close()

    run(test())
