"""A lane whose batches fail: what is rerun, who hears of it, what becomes of the replica."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lanes import BUCKET, POISON, FakeJob, FakeSession, make_lane, run, submit

from mdslite.errors import MdsliteError, ModelError, OutOfMemory, Unavailable
from mdslite.serving.curve import LatencyCurve


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
            curve.observe(BUCKET, rows, 1e-6)
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
        assert "secret" in caplog.text  # for those who may look into it
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
