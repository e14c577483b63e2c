"""The batch that waits behind the running one, where its replica is lost, rests, or is closed, or the batch
fails."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from lanes import FakeSession, answered, busy_lane, drained, failure, run, some_jobs, submit
from waiting import until

from mdslite.errors import Unavailable
from mdslite.serving import flight
from mdslite.serving.gate import Gate
from mdslite.serving.replica import Replica

pytestmark = pytest.mark.usefixtures("patient")


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
        await drained(lane, session, jobs)
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
