"""A lane: what is batched with what, where it is computed, and by which replica."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from clocks import Clock
from lanes import BUCKET, FakeJob, FakeSession, Known, flat_curve, make_lane, run, some_jobs, submit

from mdslite.serving import batch, tempo
from mdslite.serving import lane as lane_module
from mdslite.serving.curve import LatencyCurve
from mdslite.tensors import Codec


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
            curve.observe(Codec.bucket(((2,),)), rows, 1e-6)
        session = FakeSession()
        lane = make_lane(session, curve=curve, inline=True)
        jobs = [FakeJob([[1, 2]]) for _ in range(3)]
        submit(lane, *jobs)
        assert [await job.answer() for job in jobs] == [[[2, 4]]] * 3
        assert lane.stats.inline_batches == 1
        lane.close()

    run(test())


def test_a_model_that_kept_the_event_loop_is_handed_over_for_a_thousand_times_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, core = Clock(perf_counter()), Clock(0.0)
    for module in (batch, tempo):
        monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(lane_module, "thread_time", core)

    def compute(rows: np.ndarray[Any, Any]) -> None:
        clock.now += 0.05 if rows.max() > 1 else 0.001
        core.now += 0.05 if rows.max() > 2 else 0.001  # the others wait for a core

    async def test() -> None:
        lane = make_lane(FakeSession(fail=compute), curve=flat_curve(1e-4), inline=True)

        async def runs_inline(value: float) -> bool:
            before = lane.stats.inline_batches
            job = FakeJob([[value]])
            submit(lane, job)
            await job.answer()
            return lane.stats.inline_batches > before

        assert [await runs_inline(value) for value in (1.0, 2.0, 1.0, 3.0, 1.0)] == [True] * 4 + [False]
        clock.now += 49.9
        assert not await runs_inline(1.0)
        clock.now += 0.1
        assert await runs_inline(1.0)
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
            curve.observe(BUCKET, rows, 0.5)  # all fixed cost
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


def test_a_lane_waits_no_longer_than_its_timeout_however_many_rows_keep_coming() -> None:
    async def test() -> None:
        # Nothing but the time ends the waiting.
        session, most = FakeSession(), 10**9
        lane = make_lane(session, curve=Known(100.0), batch_size=most, queue_rows=most, batch_timeout_s=0.01)
        jobs = some_jobs(1)
        submit(lane, *jobs)
        for _ in range(100_000):  # turns of the loop, which take longer than that in all
            if jobs[0].finished:
                break
            submit(lane, FakeJob([[1.0]]))
            await asyncio.sleep(0)
        assert jobs[0].finished
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
