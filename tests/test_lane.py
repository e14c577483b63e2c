from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from lanes import POISON, FakeJob, FakeSession, make_lane, submit
from waiting import until

from mdslite.errors import (
    DeadlineExceeded,
    MdsliteError,
    ModelError,
    OutOfMemory,
    Overloaded,
    TooLarge,
    Unavailable,
)
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def entered(session: FakeSession) -> None:
    """Wait until a batch is being computed."""
    await asyncio.to_thread(session.entered.wait, 10)


def test_an_idle_lane_answers_a_lone_job_at_once() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session)
        job = FakeJob([[1, 2]])
        submit(lane, job)
        assert await job.answer() == [[2, 4]]
        assert job.batch_rows == 1
        assert job.replica == "local/0"
        lane.close()

    run(test())


def test_jobs_that_wait_together_share_a_batch_and_keep_their_rows() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session)
        jobs = [FakeJob([[number, 0], [number, 1]]) for number in range(1, 6)]
        submit(lane, *jobs)
        for number, job in enumerate(jobs, 1):
            assert await job.answer() == [[number * 2, 0], [number * 2, 2]]
        assert session.sizes == [10]
        lane.close()

    run(test())


def test_a_batch_counts_rows_and_splits_a_job_that_does_not_fit() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session, batch_size=4)
        first, second = FakeJob([[1]] * 3), FakeJob([[n] for n in range(1, 7)])
        submit(lane, first, second)
        assert await first.answer() == [[2]] * 3
        assert await second.answer() == [[2 * n] for n in range(1, 7)]
        assert session.sizes == [4, 4, 1]
        lane.close()

    run(test())


def test_different_shapes_never_share_a_batch() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session)
        jobs = [FakeJob([[1, 1]]), FakeJob([[1, 1, 1]]), FakeJob([[2, 2]])]
        submit(lane, *jobs)
        for job in jobs:
            await job.answer()
        assert sorted(batch.shape for batch in session.batches) == [(1, 3), (2, 2)]
        lane.close()

    run(test())


def test_a_quick_bounded_model_runs_on_the_event_loop() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        for rows in (1, 2, 4):
            curve.observe((2,), rows, 1e-6)
        session = FakeSession()
        lane = make_lane(session, curve=curve, inline=True)
        jobs = [FakeJob([[1, 2]]) for _ in range(3)]
        submit(lane, *jobs)
        assert [await job.answer() for job in jobs] == [[[2, 4]]] * 3
        assert lane.stats.inline_batches == 1
        lane.close()

    run(test())


def test_one_poison_job_among_32_fails_alone() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session)
        jobs = [FakeJob([[POISON if number == 13 else number + 1.0]]) for number in range(32)]
        submit(lane, *jobs)
        for number, job in enumerate(jobs):
            if number == 13:
                with pytest.raises(ModelError, match="poison"):
                    await job.answer()
            else:
                assert await job.answer() == [[2 * (number + 1.0)]]
        assert session.sizes[0] == 32
        assert len(session.sizes) == 11  # halving: 1 + 2 * log2(32) runs, where one by one takes 33
        lane.close()

    run(test())


def test_a_poison_batch_of_an_inline_model_is_isolated_too() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        for rows in (1, 2, 4):
            curve.observe((1,), rows, 1e-6)
        lane = make_lane(FakeSession(), curve=curve, inline=True)
        good, bad = FakeJob([[1.0]]), FakeJob([[POISON]])
        submit(lane, good, bad)
        assert await good.answer() == [[2.0]]
        with pytest.raises(ModelError):
            await bad.answer()
        lane.close()

    run(test())


def test_out_of_memory_retries_smaller_down_to_a_row() -> None:
    async def test() -> None:
        def fail(rows: np.ndarray[Any, Any]) -> None:
            if len(rows) > 2:
                raise OutOfMemory("no room")

        session = FakeSession(fail=fail)
        lane = make_lane(session)
        job = FakeJob([[float(n)] for n in range(1, 9)])
        submit(lane, job)
        assert await job.answer() == [[2.0 * n] for n in range(1, 9)]
        assert session.sizes == [8, 4, 2, 2, 4, 2, 2]
        lane.close()

    run(test())


def test_a_row_for_which_there_is_no_memory_at_all_is_503() -> None:
    async def test() -> None:
        def fail(rows: np.ndarray[Any, Any]) -> None:
            raise OutOfMemory("no room")

        lane = make_lane(FakeSession(fail=fail))
        job = FakeJob([[1.0], [2.0]])
        submit(lane, job)
        with pytest.raises(OutOfMemory) as caught:
            await job.answer()
        assert caught.value.status == 503
        assert job.times_resolved == 1
        lane.close()

    run(test())


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
        lane = make_lane(session, batch_size=2, queue_rows=2)
        submit(lane, FakeJob([[1.0]]), FakeJob([[2.0]]))
        await entered(session)
        submit(lane, FakeJob([[3.0]]), FakeJob([[4.0]]))
        session.hold.set()
        until_s = perf_counter() + 10
        while not lane._done and perf_counter() < until_s:
            pass  # the loop is busy with others, as under overload: it has not heard of the finished batch
        late = FakeJob([[5.0]])
        submit(lane, late)
        assert await late.answer() == [[10.0]]
        assert lane.stats.refused == 0
        lane.close()

    run(test())


def test_a_cancelled_job_frees_its_rows_and_harms_no_neighbour() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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


def test_a_job_that_expires_in_the_queue_is_504_and_never_computed() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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
        curve.observe((1,), 1, 5.0)
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


def test_replicas_take_turns() -> None:
    async def test() -> None:
        sessions = [FakeSession() for _ in range(3)]
        lane = make_lane(*sessions)
        seen = []
        for _ in range(6):
            job = FakeJob([[1.0]])
            submit(lane, job)
            await job.answer()
            seen.append(job.replica)
        assert seen == ["local/0", "local/1", "local/2"] * 2
        lane.close()

    run(test())


def test_a_lane_waits_for_the_next_row_when_a_run_of_its_own_would_cost_more() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        for rows in (1, 2, 4, 8, 16, 32):
            curve.observe((1,), rows, 0.5)  # all fixed cost
        session = FakeSession()
        lane = make_lane(session, curve=curve, batch_timeout_s=5.0, batch_size=8)
        jobs = [FakeJob([[1.0]]) for _ in range(8)]
        for job in jobs:
            submit(lane, job)
            for _ in range(3):
                await asyncio.sleep(0)
        for job in jobs:
            await job.answer()
        assert session.sizes == [8]
        lane.close()

    run(test())


def test_a_lane_never_waits_longer_than_its_timeout() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        for rows in (1, 2, 4, 8, 16, 32):
            curve.observe((1,), rows, 100.0)
        session = FakeSession()
        lane = make_lane(session, curve=curve, batch_timeout_s=0.01)
        jobs = [FakeJob([[1.0]]) for _ in range(5)]
        submit(lane, *jobs)
        for job in jobs:
            await job.answer()
        lane.close()

    run(test())


def test_a_lost_device_fails_its_batch_takes_the_replica_out_and_says_so() -> None:
    async def test() -> None:
        def fail(rows: np.ndarray[Any, Any]) -> None:
            raise Unavailable("the device is lost")

        lost: list[str] = []
        lane = make_lane(FakeSession(fail=fail), on_lost=lambda replica, reason: lost.append(reason))
        job = FakeJob([[1.0]])
        submit(lane, job)
        with pytest.raises(Unavailable):
            await job.answer()
        assert lost == ["the device is lost"]
        with pytest.raises(Unavailable):
            submit(lane, FakeJob([[1.0]]))
        lane.close()

    run(test())


def test_an_unknown_exception_becomes_an_opaque_500(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        def fail(rows: np.ndarray[Any, Any]) -> None:
            raise ZeroDivisionError("secret /path/of/ours")

        lane = make_lane(FakeSession(fail=fail))
        job = FakeJob([[1.0]])
        submit(lane, job)
        with pytest.raises(MdsliteError) as caught:
            await job.answer()
        assert caught.value.status == 500
        assert "secret" not in caught.value.message
        lane.close()

    run(test())


def test_too_few_answers_are_an_error_and_never_misaligned() -> None:
    class Short(FakeSession):
        def run(self, feeds: Any, handle: Any = None) -> list[Any]:
            return [super().run(feeds, handle)[0][:1]]

    async def test() -> None:
        lane = make_lane(Short())
        job = FakeJob([[1.0], [2.0]])
        submit(lane, job)
        with pytest.raises(ModelError, match="1 rows for 2 rows"):
            await job.answer()
        lane.close()

    run(test())


def test_confidence_is_that_of_the_least_sure_row() -> None:
    async def test() -> None:
        lane = make_lane(FakeSession(), read_confidence=lambda outputs: outputs[0].max(axis=1).tolist())
        job = FakeJob([[0.4, 0.1], [0.25, 0.2]])
        submit(lane, job)
        await job.answer()
        assert job.confidence == 0.5
        lane.close()

    run(test())


def test_draining_waits_for_what_is_queued_and_running() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
        lane = make_lane(session, batch_size=1)
        jobs = [FakeJob([[1.0]]) for _ in range(3)]
        submit(lane, *jobs)
        await entered(session)
        assert not await lane.drain(deadline_s=0.01)
        draining = asyncio.create_task(lane.drain(deadline_s=10))
        session.hold.set()
        assert await draining
        assert all(job.finished and job.error is None for job in jobs)
        lane.close()

    run(test())


def test_draining_does_not_wait_for_what_no_replica_is_left_for() -> None:
    async def test() -> None:
        session = FakeSession()
        session.hold.clear()
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
        session = FakeSession()
        session.hold.clear()
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


def test_the_device_is_shared_by_least_use_among_lanes() -> None:
    async def test() -> None:
        gate = Gate(slots=1)
        sessions = [FakeSession(), FakeSession()]
        lanes = [make_lane(session, gate=gate, batch_size=1) for session in sessions]
        for session in sessions:
            session.hold.clear()
        jobs = [[FakeJob([[1.0]]) for _ in range(3)] for _ in lanes]
        for lane, its in zip(lanes, jobs, strict=True):
            submit(lane, *its)
        await until(lambda: any(session.entered.is_set() for session in sessions))
        assert sum(lane.running for lane in lanes) == 1
        for session in sessions:
            session.hold.set()
        for its in jobs:
            for job in its:
                await job.answer()
        for lane in lanes:
            lane.close()

    run(test())
