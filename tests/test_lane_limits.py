"""A lane that is full, late, left by its callers or closed."""

from __future__ import annotations

import asyncio
import gc
import threading
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from lanes import BUCKET, FakeJob, FakeSession, drained, entered, make_lane, run, submit
from waiting import hold_on, until

from mdslite.errors import DeadlineExceeded, Overloaded, TooLarge, Unavailable
from mdslite.serving.curve import LatencyCurve


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=1, queue_rows=3)
        running = FakeJob([[1.0]])
        submit(lane, running)
        await entered(session)
        waiting = [FakeJob([[1.0]]) for _ in range(3)]
        submit(lane, *waiting)
        with pytest.raises(Overloaded) as caught:
            submit(lane, FakeJob([[1.0]]))
        assert caught.value.status == 429
        assert caught.value.retry_after_s == 1
        with pytest.raises(TooLarge):
            submit(lane, FakeJob([[1.0]] * 4))
        session.hold.set()
        for job in (running, *waiting):
            await job.answer()
        lane.close()

    run(test())


def test_a_finished_batch_makes_room_before_anybody_is_refused() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=2, queue_rows=2)
        submit(lane, FakeJob([[1.0]]), FakeJob([[2.0]]))
        await entered(session)
        submit(lane, FakeJob([[3.0]]), FakeJob([[4.0]]))
        session.hold.set()
        hold_on(lambda: lane._done)  # as under overload, the loop is busy and has not heard of the batch
        late = FakeJob([[5.0]])
        submit(lane, late)
        assert await late.answer() == [[10.0]]
        assert lane.stats.refused == 0
        lane.close()

    run(test())


def test_a_cancelled_job_frees_its_rows_and_harms_no_neighbour() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=4, queue_rows=4)
        first = FakeJob([[9.0]])
        submit(lane, first)
        await entered(session)
        jobs = [FakeJob([[float(n)]]) for n in range(1, 5)]
        submit(lane, *jobs)
        lane.cancel(jobs[1])
        assert lane.queue_rows == 3
        late = FakeJob([[5.0]])
        submit(lane, late)
        session.hold.set()
        for number, job in ((1, jobs[0]), (3, jobs[2]), (4, jobs[3]), (5, late)):
            assert await job.answer() == [[2.0 * number]]
        assert jobs[1].times_resolved == 0
        assert session.batches[1].tolist() == [[1.0], [3.0], [4.0], [5.0]]
        lane.close()

    run(test())


def test_ten_thousand_cancelled_jobs_leave_nothing_behind() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, queue_rows=4)
        submit(lane, FakeJob([[1.0]]))
        await entered(session)
        keeper = FakeJob([[2.0]])
        submit(lane, keeper)
        for _ in range(10_000):
            job = FakeJob([[3.0]])
            submit(lane, job)
            lane.cancel(job)
        del job
        gc.collect()
        assert lane.queue_rows == 1
        assert sum(type(one) is FakeJob for one in gc.get_objects()) < 100
        session.hold.set()
        assert await keeper.answer() == [[4.0]]
        lane.close()

    run(test())


def test_the_run_stops_when_everybody_in_it_has_left() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        job = FakeJob([[1.0]])
        submit(lane, job)
        await entered(session)
        lane.cancel(job)
        await until(lambda: not lane.running)
        session.hold.set()
        following = FakeJob([[2.0]])
        submit(lane, following)
        assert await following.answer() == [[4.0]]
        lane.close()

    run(test())


def test_a_batch_that_everybody_left_before_it_began_is_not_computed_and_teaches_nothing() -> None:
    async def test() -> None:
        session, wrong = FakeSession(), list[dict[str, Any]]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        lane = make_lane(session)
        (replica,) = lane.replicas
        start, handed = replica.start, list[tuple[Any, ...]]()
        replica.start = lambda *batch: handed.append(batch)  # type: ignore[method-assign]
        submit(lane, job := FakeJob([[1.0]]))
        await until(lambda: handed)
        lane.cancel(job)
        start(*handed[0])
        assert await lane.drain(deadline_s=10)
        assert session.batches == wrong == []
        assert lane.curve.estimate((1,), 1) == 0.0
        assert job.times_resolved == 0
        lane.close()

    run(test())


def test_a_job_that_expires_in_the_queue_is_504_and_never_computed() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        running = FakeJob([[1.0]])
        submit(lane, running)
        await entered(session)
        job = FakeJob([[2.0]], deadline=perf_counter() + 0.02)
        submit(lane, job)
        with pytest.raises(DeadlineExceeded) as caught:
            await job.answer()
        assert caught.value.status == 504
        session.hold.set()
        await running.answer()
        assert [2.0] not in [row for batch in session.batches for row in batch.tolist()]
        lane.close()

    run(test())


def test_a_run_past_its_deadline_is_answered_504_and_stopped() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        job = FakeJob([[1.0]], deadline=perf_counter() + 0.02)
        submit(lane, job)
        with pytest.raises(DeadlineExceeded):
            await job.answer()
        await until(lambda: not lane.running)
        lane.close()

    run(test())


def test_work_known_to_come_too_late_is_refused_before_it_is_computed() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        curve.observe(BUCKET, 1, 5.0)
        session = FakeSession()
        lane = make_lane(session, curve=curve)
        job = FakeJob([[1.0]], deadline=perf_counter() + 1.0)
        submit(lane, job)
        with pytest.raises(DeadlineExceeded, match="could not be computed in time"):
            await job.answer()
        assert session.batches == []
        # A curve that only ever says no would never be corrected: each refusal makes it doubt itself.
        for _ in range(40):
            job = FakeJob([[1.0]], deadline=perf_counter() + 1.0)
            submit(lane, job)
            try:
                await job.answer()
                break
            except DeadlineExceeded:
                continue
        assert session.batches != []
        lane.close()

    run(test())


def test_draining_does_not_overlook_the_rows_that_a_batch_is_being_formed_of() -> None:
    async def test() -> None:
        begins = {1.0: threading.Event(), 3.0: threading.Event()}  # by the first row of a batch

        def linger(rows: np.ndarray[Any, Any]) -> None:
            begins[float(rows[0, 0])].wait(10)

        session = FakeSession(fail=linger)
        curve = LatencyCurve()
        for rows in (1, 2):
            curve.observe(BUCKET, rows, 100.0)
        lane = make_lane(session, batch_size=4, curve=curve)
        first = FakeJob([[1.0]])
        submit(lane, first)
        await entered(session)
        late, good = FakeJob([[2.0]], deadline=perf_counter() + 50.0), FakeJob([[3.0]])
        submit(lane, late, good)
        draining = asyncio.create_task(lane.drain(deadline_s=30))
        await asyncio.sleep(0)
        begins[1.0].set()
        with pytest.raises(DeadlineExceeded):
            await late.ended()  # refused while the next batch was formed, of nothing but the good one
        for _ in range(5):
            await asyncio.sleep(0)
        assert not draining.done()
        begins[3.0].set()
        assert await draining
        assert good.finished
        lane.close()

    run(test())


def test_draining_waits_for_what_is_queued_and_running() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=1)
        jobs = [FakeJob([[1.0]]) for _ in range(3)]
        submit(lane, *jobs)
        await entered(session)
        await drained(lane, session, jobs)
        lane.close()

    run(test())


def test_draining_does_not_wait_for_what_no_replica_is_left_for() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=1)
        running, queued = FakeJob([[1.0]]), FakeJob([[1.0]])
        submit(lane, running, queued)
        await entered(session)
        draining = asyncio.create_task(lane.drain(deadline_s=600))
        lane.lose(lane.replicas[0], "it is gone")
        session.hold.set()
        assert not await draining
        lane.close()
        assert isinstance(queued.error, Unavailable)

    run(test())


def test_closing_answers_what_is_left_and_closes_the_session() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, batch_size=1)
        jobs = [FakeJob([[1.0]]) for _ in range(2)]
        submit(lane, *jobs)
        await entered(session)
        lane.close()
        for job in jobs:
            with pytest.raises(Unavailable):
                await job.answer()
        session.hold.set()
        await until(lambda: session.closed)

    run(test())
