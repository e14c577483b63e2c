"""Everything at once: whatever happens to replicas, batches and callers, each job ends exactly once."""

from __future__ import annotations

import asyncio
import random
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from lanes import BUCKET, POISON, FakeJob, FakeSession, make_lane
from waiting import until

from mdslite.errors import DeadlineExceeded, MdsliteError, ModelError, Overloaded, Unavailable
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate
from mdslite.serving.lane import Lane
from mdslite.serving.replica import Replica

JOBS = 1500


class Storm:
    """A lane over replicas that fail, rest, die and come back by a seeded chance."""

    def __init__(self, seed: int, *, slots: int) -> None:
        self.chance = random.Random(seed)
        self.gate = Gate(slots=slots)
        self.lost: list[Replica] = []
        self.sessions: list[FakeSession] = []
        self.doomed: set[int] = set()
        curve = LatencyCurve()
        for rows in (1, 2, 4, 8, 16):
            curve.observe(BUCKET, rows, 1e-3)
        self.lane: Lane = make_lane(
            self.make_session(),
            self.make_session(),
            gate=self.gate,
            curve=curve,
            batch_size=8,
            queue_rows=256,
            on_lost=self.replace,
        )

    def make_session(self) -> FakeSession:
        number = len(self.sessions)

        def fail(rows: np.ndarray[Any, Any]) -> None:
            if number in self.doomed:
                raise Unavailable("killed by signal 9")

        session = FakeSession(fail=fail)
        session.check = lambda handle: None  # type: ignore[attr-defined]
        self.sessions.append(session)
        return session

    def replace(self, replica: Replica, reason: str) -> None:
        self.lost.append(replica)
        replica.close()
        self.add()

    def add(self) -> None:
        loop = asyncio.get_running_loop()
        session = self.make_session()
        self.lane.add_replica(Replica(session, name=f"fresh/{len(self.sessions)}", gate=self.gate, loop=loop))

    def disturb(self) -> None:
        """Do something to a replica, now and then."""
        replicas, resting = list(self.lane.replicas), list(self.lane.resting)
        match self.chance.randrange(60):
            case 0 if replicas:
                self.lane.rest(self.chance.choice(replicas), "it is tired")
            case 1 | 2 if resting:
                self.lane.add_replica(self.chance.choice(resting))
            case 3 if replicas:
                self.lane.lose(self.chance.choice(replicas), "it was killed")
            case 4:
                self.doomed.add(self.chance.randrange(len(self.sessions)))
            case 5 if replicas:
                self.lane.check(self.chance.choice(replicas), lambda error: None)

    async def submit(self) -> FakeJob | None:
        for _ in range(self.chance.choice((0, 0, 0, 1, 2))):
            await asyncio.sleep(0)
        rows = self.chance.choice((1, 1, 1, 2, 11))
        first = POISON if self.chance.random() < 0.02 else 1.0
        hasty = self.chance.random() < 0.03
        job = FakeJob([[first]] + [[2.0]] * (rows - 1), deadline=perf_counter() + (1e-3 if hasty else 60))
        try:
            self.lane.submit(job, perf_counter())
        except (Overloaded, Unavailable):
            await asyncio.sleep(0)
            return None
        return job


@pytest.mark.parametrize("seed", range(6))
def test_each_job_ends_exactly_once_in_a_storm(seed: int) -> None:
    async def test() -> None:
        storm = Storm(seed, slots=1 + seed % 3)
        lane, jobs, cancelled = storm.lane, list[FakeJob](), set[FakeJob]()
        while len(jobs) < JOBS:
            storm.disturb()
            job = await storm.submit()
            if job is not None:
                jobs.append(job)
            if jobs and storm.chance.random() < 0.05:
                leaver = storm.chance.choice(jobs[-40:])
                if not leaver.finished:
                    lane.cancel(leaver)
                    cancelled.add(leaver)
        for replica in list(lane.resting):
            lane.add_replica(replica)
        assert await lane.drain(deadline_s=30)
        assert all(job.finished for job in jobs)
        assert {job for job in jobs if not job.times_resolved} == cancelled
        assert {job.times_resolved for job in jobs} <= {0, 1}
        for job in jobs:
            if job.times_resolved:
                check_answer(job)
        await until(lambda: not storm.gate.busy)
        assert (lane.running, lane.queue_rows) == (0, 0)
        lane.close()
        await until(lambda: all(session.closed for session in storm.sessions))

    asyncio.run(test())


def check_answer(job: FakeJob) -> None:
    if job.error is not None:
        assert isinstance(job.error, MdsliteError)
        assert isinstance(job.error, ModelError | Unavailable | DeadlineExceeded)
        return
    found = [row for _, outputs in sorted(job.pieces, key=lambda one: one[0]) for row in outputs[0].tolist()]
    assert found == [[2.0]] + [[4.0]] * (job.columns.rows - 1)
