"""Half a batch that begins while the loop still reads the other half."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

import pytest
from lanes import (
    FakeJob,
    FakeSession,
    Known,
    answered,
    flat_curve,
    linear_curve,
    make_lane,
    run,
    some_jobs,
    submit,
)
from waiting import until

from mdslite.errors import DeadlineExceeded
from mdslite.serving.batch import Batch
from mdslite.serving.gate import Gate
from mdslite.serving.tempo import ALONE_S

pytestmark = pytest.mark.usefixtures("patient")


def test_an_idle_replica_begins_with_half_a_batch_while_the_loop_still_reads() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
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

        def start_others(batch: Batch, done: deque[Batch], collect: Callable[[], None]) -> None:
            if batch.slices[0][0] is not split:  # its thread does not get to begin this one
                start(batch, done, collect)

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
