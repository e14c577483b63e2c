from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Any

import pytest
from lanes import DataJob, FakeGenerator, make_lane, run, submit
from waiting import until

from mdslite.data import DataCodec
from mdslite.errors import ClientClosed, DeadlineExceeded, ModelError, Unavailable
from mdslite.serving import flight
from mdslite.serving.lane import Lane
from mdslite.serving.streams import Stream


def stream_lane(*sessions: FakeGenerator, **options: Any) -> Lane:
    return make_lane(*sessions, codec=DataCodec(streams=True), **{"batch_size": 1, **options})


def test_pieces_come_in_order_and_before_the_end() -> None:
    async def test() -> None:
        lane = stream_lane(FakeGenerator())
        jobs = [DataJob(b"a horse"), DataJob(b"a kingdom")]
        ended: list[int] = []
        for job in jobs:
            job.on_piece = lambda job=job: ended.append(job.times_resolved)
        submit(lane, *jobs)
        for job in jobs:
            await job.ended()
        assert b"".join(jobs[0].heard) == b"a horse"
        assert b"".join(jobs[1].heard) == b"a kingdom"
        assert set(ended) == {0}
        assert all(job.times_resolved == 1 and job.replica == "local/0" for job in jobs)
        assert lane.stats.batches == 2
        lane.close()

    run(test())


def test_the_first_piece_comes_while_the_rest_is_computed() -> None:
    async def test() -> None:
        session = FakeGenerator(held=True)
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"ab"))
        await until(lambda: job.heard == [b"a"])
        assert not job.finished
        assert job.started_at > 0
        session.hold.set()
        await job.ended()
        assert job.heard == [b"a", b"b"]
        lane.close()

    run(test())


def test_an_error_after_pieces_ends_the_job() -> None:
    async def test() -> None:
        lane = stream_lane(FakeGenerator(failure=ModelError("out of words")))
        submit(lane, job := DataJob(b"ab"))
        with pytest.raises(ModelError, match="out of words"):
            await job.ended()
        assert job.heard == [b"a", b"b"]
        assert job.times_resolved == 1
        lane.close()

    run(test())


def test_a_slow_reader_stops_the_generator_and_not_the_loop() -> None:
    async def test() -> None:
        session = FakeGenerator()
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"x" * 100))

        def pause_at_two() -> None:
            assert job.stream is not None
            if len(job.heard) == 2:
                job.stream.pause()

        job.on_piece = pause_at_two
        await until(lambda: len(job.heard) >= 2)
        # What was under way when it paused still comes; then nothing more is computed.
        await until(lambda: len(job.heard) == session.emitted)
        assert session.emitted <= 12
        assert not job.finished
        assert job.stream is not None
        job.stream.resume()
        await job.ended()
        assert len(job.heard) == 100
        lane.close()

    run(test())


def test_a_busy_loop_is_never_more_than_a_few_pieces_behind() -> None:
    async def test() -> None:
        session = FakeGenerator()
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"x" * 100))
        behind: list[int] = []
        job.on_piece = lambda: behind.append(session.emitted - len(job.heard))
        await job.ended()
        assert len(job.heard) == 100
        assert max(behind) <= 8
        lane.close()

    run(test())


def test_each_piece_gives_the_next_one_as_long_again() -> None:
    async def test() -> None:
        job = DataJob(b"")
        job.deadline = perf_counter() + 0.5
        stream = Stream(job, limit_s=1000.0, loop=asyncio.get_running_loop())
        await asyncio.to_thread(stream.emit, b"a")
        await until(lambda: job.heard == [b"a"])
        assert job.deadline > perf_counter() + 900
        job.deadline = 0.0
        stream.pause()
        stream.resume()
        assert job.deadline > perf_counter() + 900

    run(test())


def test_a_generator_that_falls_silent_is_a_504_and_is_stopped() -> None:
    async def test() -> None:
        session = FakeGenerator(held=True)
        lane = stream_lane(session, prediction_s=0.3)
        submit(lane, job := DataJob(b"ab", deadline=perf_counter() + 0.3))
        with pytest.raises(DeadlineExceeded):
            await job.ended()
        assert job.heard == [b"a"]
        session.hold.set()
        assert await asyncio.to_thread(session.ended.wait, 10)
        assert isinstance(session.closed_by, ClientClosed)
        await until(lambda: not lane.running)
        lane.close()

    run(test())


def test_a_client_that_leaves_closes_the_generator_and_frees_the_replica() -> None:
    async def test() -> None:
        session = FakeGenerator()
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"x" * 1000), following := DataJob(b"yz"))
        job.on_piece = lambda: lane.cancel(job)
        await following.ended()
        assert following.heard == [b"y", b"z"]
        assert job.heard == [b"x"]
        assert job.times_resolved == 0
        assert isinstance(session.closed_by, ClientClosed)
        assert not session.handles[0].stopped.is_set()
        lane.close()

    run(test())


def test_a_generator_that_does_not_hear_of_it_is_stopped_after_a_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "STREAM_GRACE_S", 0.01)

    async def test() -> None:
        session = FakeGenerator(deaf=True)
        lane = stream_lane(session, costly_stop=True)
        submit(lane, job := DataJob(b"x" * 1000, deadline=math.inf))
        job.on_piece = lambda: lane.cancel(job)
        await until(lambda: not lane.running and session.entered.is_set())
        assert session.handles[0].stopped.is_set()
        lane.close()

    run(test())


def test_closing_the_lane_ends_what_streams() -> None:
    async def test() -> None:
        session = FakeGenerator(held=True)
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"ab"))
        await until(lambda: job.heard == [b"a"])
        lane.close()
        with pytest.raises(Unavailable):
            await job.ended()
        await until(lambda: session.closed)

    run(test())


def test_how_long_a_stream_lasts_does_not_count_against_the_next_ones_deadline() -> None:
    async def test() -> None:
        session = FakeGenerator(held=True)
        lane = stream_lane(session)
        submit(lane, job := DataJob(b"ab"))
        await until(lambda: job.heard == [b"a"])
        turned = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, turned.set)
        await turned.wait()
        session.hold.set()
        await job.ended()
        assert 0 < lane.curve.estimate((), 1) < 0.04
        lane.close()

    run(test())
