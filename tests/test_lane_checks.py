from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import pytest
from lanes import DataJob, FakeData, entered, make_lane, run, submit
from waiting import until

from mdslite.data import DataCodec
from mdslite.errors import DeadlineExceeded, MdsliteError, Unavailable
from mdslite.serving.lane import Lane


def data_lane(*sessions: FakeData, **options: Any) -> Lane:
    return make_lane(*sessions, codec=DataCodec(), **options)


def test_a_check_tells_on_the_event_loop_how_a_session_is() -> None:
    async def test() -> None:
        session = FakeData()
        lane = data_lane(session)
        told: list[MdsliteError | None] = []
        lane.check(lane.replicas[0], told.append)
        await until(lambda: len(told) == 1)
        session.failure = Unavailable("no dictionary")
        lane.check(lane.replicas[0], told.append)
        await until(lambda: len(told) == 2)
        session.failure = ZeroDivisionError("of ours")
        lane.check(lane.replicas[0], told.append)
        await until(lambda: len(told) == 3)
        messages = [error.message if error else None for error in told]
        assert messages == [None, "no dictionary", "internal error in the model's runtime"]
        lane.close()

    run(test())


def test_a_check_waits_for_the_running_batch_and_the_next_batch_for_the_check() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, batch_size=1)
        jobs = [DataJob(b"1"), DataJob(b"2")]
        told: list[MdsliteError | None] = []
        submit(lane, jobs[0])
        await entered(session)
        lane.check(lane.replicas[0], told.append)
        submit(lane, jobs[1])
        assert told == []
        session.hold.set()
        assert await jobs[0].answers() == [b"1"]
        assert await jobs[1].answers() == [b"2"]
        assert told == [None]
        lane.close()

    run(test())


def test_while_one_replica_is_checked_the_others_take_the_work() -> None:
    async def test() -> None:
        sessions = [FakeData(), FakeData()]
        lane = data_lane(*sessions)
        sessions[0].hold.clear()
        told: list[MdsliteError | None] = []
        lane.check(lane.replicas[0], told.append)
        await entered(sessions[0])
        for number in range(3):
            job = DataJob(b"%d" % number)
            submit(lane, job)
            await job.answers()
            assert job.replica == "local/1"
        sessions[0].hold.set()
        await until(lambda: told == [None])
        lane.close()

    run(test())


def test_a_check_that_does_not_end_is_told_once_and_its_replica_is_lost() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lost: list[str] = []
        told: list[MdsliteError | None] = []
        lane = data_lane(session, on_lost=lambda replica, reason: lost.append(reason))
        replica = lane.replicas[0]
        lane.check(replica, told.append, limit_s=0.01)
        await until(lambda: len(told) == 1)
        assert isinstance(told[0], DeadlineExceeded)
        assert lost == ["its check did not end within 0.01 s"]
        assert session.handles[0].stopped.is_set()
        assert not lane.replicas
        replica.close()
        session.hold.set()
        await until(lambda: session.closed)
        await asyncio.sleep(0)
        assert len(told) == 1
        lane.close()

    run(test())


def test_the_time_of_a_check_counts_from_its_beginning() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session)
        submit(lane, job := DataJob(b"1"))
        await entered(session)
        told: list[MdsliteError | None] = []
        lane.check(lane.replicas[0], told.append, limit_s=0.005)
        turned = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, turned.set)
        await turned.wait()
        assert told == []
        session.hold.set()
        assert await job.answers() == [b"1"]
        await until(lambda: told == [None])
        lane.close()

    run(test())


def test_a_resting_replica_gets_no_work_and_the_others_go_on() -> None:
    async def test() -> None:
        lane = data_lane(FakeData(), FakeData())
        first, second = lane.replicas
        lane.rest(first, "its disk is full")
        assert list(lane.replicas) == [second]
        assert dict(lane.resting) == {first: "its disk is full"}
        for _ in range(3):
            job = DataJob(b"1")
            submit(lane, job)
            await job.answers()
            assert job.replica == "local/1"
        lane.add_replica(first)
        assert lane.resting == {}
        seen = set()
        for _ in range(2):
            submit(lane, job := DataJob(b"1"))
            await job.answers()
            seen.add(job.replica)
        assert seen == {"local/0", "local/1"}
        lane.close()

    run(test())


def test_with_no_replica_in_rotation_requests_are_refused_and_the_queue_waits() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, batch_size=1)
        running, queued = DataJob(b"1"), DataJob(b"2")
        submit(lane, running)
        await entered(session)
        submit(lane, queued)
        replica = lane.replicas[0]
        lane.rest(replica, "its disk is full")
        with pytest.raises(Unavailable, match="its disk is full") as caught:
            submit(lane, DataJob(b"3"))
        assert caught.value.retry_after_s == 1
        session.hold.set()
        assert await running.answers() == [b"1"]  # it was begun: it is answered
        assert lane.queue_rows == 1
        lane.add_replica(replica)
        assert await queued.answers() == [b"2"]
        assert session.batches == [[b"1"], [b"2"]]
        lane.close()

    run(test())


def test_what_waits_for_a_resting_replica_keeps_its_deadline() -> None:
    async def test() -> None:
        lane = data_lane(FakeData())
        job = DataJob(b"1", deadline=perf_counter() + 0.01)
        submit(lane, job)
        lane.rest(lane.replicas[0], "it is tired")
        with pytest.raises(DeadlineExceeded):
            await job.answers()
        lane.close()

    run(test())


def test_a_replica_that_comes_back_while_its_batch_runs_is_not_given_a_second_turn_early() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, batch_size=1)
        jobs = [DataJob(b"%d" % number) for number in range(3)]
        submit(lane, *jobs)
        await entered(session)
        replica = lane.replicas[0]
        lane.rest(replica, "it is tired")
        lane.add_replica(replica)
        lane.add_replica(replica)
        session.hold.set()
        for number, job in enumerate(jobs):
            assert await job.answers() == [b"%d" % number]
        assert [job.times_resolved for job in jobs] == [1, 1, 1]
        lane.close()

    run(test())


def test_a_replica_that_dies_while_it_rests_is_lost_once() -> None:
    async def test() -> None:
        lost: list[str] = []
        lane = data_lane(FakeData(), on_lost=lambda replica, reason: lost.append(reason))
        replica = lane.replicas[0]
        lane.rest(replica, "it is tired")
        lane.lose(replica, "killed by signal 9")
        lane.lose(replica, "killed by signal 9")
        assert lost == ["killed by signal 9"]
        assert lane.resting == {}
        lane.close()

    run(test())


def test_closing_a_lane_closes_the_sessions_that_rest() -> None:
    async def test() -> None:
        session = FakeData()
        lane = data_lane(session)
        lane.rest(lane.replicas[0], "it is tired")
        lane.close()
        assert session.closed

    run(test())


def test_a_caller_that_leaves_does_not_end_a_session_that_is_costly_to_stop() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, costly_stop=True)
        submit(lane, gone := DataJob(b"1"))
        await entered(session)
        lane.cancel(gone)
        session.hold.set()
        submit(lane, job := DataJob(b"2"))
        assert await job.answers() == [b"2"]
        assert not any(handle.stopped.is_set() for handle in session.handles)
        lane.close()

    run(test())


def test_a_run_that_everybody_left_is_stopped_when_its_time_is_up() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, costly_stop=True)
        submit(lane, gone := DataJob(b"1", deadline=perf_counter() + 0.02))
        await entered(session)
        lane.cancel(gone)
        await until(lambda: session.handles[0].stopped.is_set())
        session.hold.set()
        lane.close()

    run(test())


def test_closing_stops_at_once_what_is_costly_to_stop() -> None:
    async def test() -> None:
        session = FakeData(held=True)
        lane = data_lane(session, costly_stop=True)
        submit(lane, job := DataJob(b"1"))
        await entered(session)
        lane.close()
        assert session.handles[0].stopped.is_set()
        with pytest.raises(Unavailable):
            await job.answers()
        session.hold.set()
        await until(lambda: session.closed)

    run(test())
