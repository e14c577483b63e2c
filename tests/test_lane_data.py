from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lanes import BAD, DataJob, FakeData, make_lane, run, submit

from mdslite.data import DataCodec, read_confidences
from mdslite.errors import ModelError
from mdslite.runtimes.protocol import Answers, DataFeeds
from mdslite.serving.lane import Lane


def data_lane(*sessions: Any, **options: Any) -> Lane:
    return make_lane(*sessions, codec=DataCodec(), read_confidence=read_confidences, **options)


def test_a_row_that_answers_with_an_error_fails_its_request_and_no_other() -> None:
    async def test() -> None:
        session = FakeData()
        lane = data_lane(session)
        jobs = [DataJob(b"1"), DataJob(b"2", BAD, b"3"), DataJob(b"4")]
        submit(lane, *jobs)
        assert await jobs[0].answers() == [b"1"]
        assert await jobs[2].answers() == [b"4"]
        with pytest.raises(ModelError, match="refused 2"):
            await jobs[1].answers()
        assert jobs[1].batch_rows == 5
        assert jobs[1].replica == "local/0"
        assert len(session.batches) == 1  # nothing was rerun
        assert all(job.times_resolved == 1 for job in jobs)
        lane.close()

    run(test())


def test_the_first_of_several_row_errors_is_the_one_that_is_told() -> None:
    async def test() -> None:
        lane = data_lane(FakeData())
        job = DataJob(b"1", BAD, BAD)
        submit(lane, job)
        with pytest.raises(ModelError, match="refused 1"):
            await job.answers()
        lane.close()

    run(test())


def test_a_request_cut_over_batches_ends_at_its_first_failed_row() -> None:
    async def test() -> None:
        session = FakeData()
        lane = data_lane(session, batch_size=2)
        bad, good = DataJob(b"1", BAD, b"3", b"4", b"5"), DataJob(b"6")
        submit(lane, bad, good)
        with pytest.raises(ModelError):
            await bad.answers()
        assert await good.answers() == [b"6"]
        assert bad.times_resolved == 1
        # What had not begun when the error came was not computed.
        assert b"5" not in [datum for batch in session.batches for datum in batch]
        lane.close()

    run(test())


def test_data_keep_their_order_and_their_kind() -> None:
    async def test() -> None:
        session = FakeData()
        lane = data_lane(session, batch_size=3)
        array = np.arange(3)
        first, second = DataJob(b"1", array), DataJob(b"2", b"3", b"4")
        submit(lane, first, second)
        answers = await first.answers()
        assert answers[0] == b"1"
        assert answers[1] is array
        assert await second.answers() == [b"2", b"3", b"4"]
        assert [len(batch) for batch in session.batches] == [3, 2]
        lane.close()

    run(test())


def test_confidences_come_with_the_answers() -> None:
    async def test() -> None:
        lane = data_lane(FakeData())
        sure, unsure = DataJob(b"1"), DataJob(b"2", b"3")
        submit(lane, unsure, sure)
        await unsure.answers()
        await sure.answers()
        assert (unsure.confidence, sure.confidence) == (0.5, 0.7)
        lane.close()

    run(test())


def test_too_few_data_are_an_error_and_never_misaligned() -> None:
    class Short(FakeData):
        def run(self, feeds: DataFeeds, handle: Any = None) -> list[Answers]:
            return [Answers(super().run(feeds, handle)[0][:1])]

    async def test() -> None:
        lane = data_lane(Short())
        job = DataJob(b"1", b"2")
        submit(lane, job)
        with pytest.raises(ModelError, match="1 rows for 2 rows"):
            await job.answers()
        lane.close()

    run(test())
