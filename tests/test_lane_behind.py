"""Work that is behind all other work of a lane: it runs when nothing else waits, and is in nobody's way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from lanes import POISON, FakeJob, FakeSession, entered, make_lane, run, submit
from waiting import until

from mdslite.errors import ModelError, Overloaded
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate, Priority
from mdslite.serving.queue import BEHIND_ROWS


class BehindJob(FakeJob):
    def __init__(self, rows: list[list[float]], *, deadline: float = 1e12) -> None:
        super().__init__(rows, deadline=deadline)
        self.behind = True


def test_what_is_behind_runs_when_nothing_else_waits() -> None:
    async def test() -> None:
        lane = make_lane(FakeSession())
        job = BehindJob([[1]])
        submit(lane, job)
        assert await job.answer() == [[2]]
        lane.close()

    run(test())


def test_a_request_that_comes_later_goes_first_and_in_a_batch_without_what_is_behind() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        submit(lane, FakeJob([[0]]))
        await entered(session)
        behind, live = [BehindJob([[n]]) for n in (1, 2)], [FakeJob([[n]]) for n in (3, 4)]
        submit(lane, *behind, *live)
        session.hold.set()
        for job in (*behind, *live):
            await job.ended()
        assert [batch[:, 0].tolist() for batch in session.batches] == [[0], [3, 4], [1, 2]]
        lane.close()

    run(test())


def test_a_batch_of_what_is_behind_is_small_so_that_others_wait_for_little() -> None:
    async def test() -> None:
        session = FakeSession()
        lane = make_lane(session, batch_size=32)
        job = BehindJob([[1]] * (BEHIND_ROWS * 2 + 1))
        submit(lane, job)
        await job.ended()
        assert session.sizes == [BEHIND_ROWS, BEHIND_ROWS, 1]
        lane.close()

    run(test())


def test_at_the_device_it_comes_after_other_lanes_primary_work() -> None:
    async def test() -> None:
        gate, holder = Gate(slots=1), FakeSession()
        holder.hold.clear()
        order: list[str] = []

        def note(name: str) -> FakeSession:
            return FakeSession(fail=lambda _: order.append(name))

        first = make_lane(holder, gate=gate)
        replayed, primary = make_lane(note("behind"), gate=gate), make_lane(note("primary"), gate=gate)
        submit(first, FakeJob([[1]]))
        await entered(holder)
        later, sooner = BehindJob([[1]]), FakeJob([[1]])
        submit(replayed, later)
        await until(lambda: gate.waiting == 1)
        submit(primary, sooner)
        await until(lambda: gate.waiting == 2)
        holder.hold.set()
        await later.ended()
        await sooner.ended()
        assert order == ["primary", "behind"]
        for lane in (first, replayed, primary):
            lane.close()

    run(test())


def test_a_live_request_makes_its_lane_primary_at_the_gate() -> None:
    async def test() -> None:
        gate, holder, session = Gate(slots=1), FakeSession(), FakeSession()
        holder.hold.clear()
        first, lane = make_lane(holder, gate=gate), make_lane(session, gate=gate)
        submit(first, FakeJob([[1]]))
        await entered(holder)
        seen: list[Priority] = []
        enter = gate.enter

        def watch(seat: Any, priority: Priority = Priority.PRIMARY) -> None:
            seen.append(priority)
            enter(seat, priority)

        gate.enter = watch  # type: ignore[method-assign]
        jobs = [BehindJob([[1]]), FakeJob([[2]])]
        submit(lane, jobs[0])
        await until(lambda: bool(seen))
        submit(lane, jobs[1])
        await until(lambda: len(seen) > 1)
        assert seen[:2] == [Priority.REPLAY, Priority.PRIMARY]
        holder.hold.set()
        for job in jobs:
            await job.ended()
        assert [batch[:, 0].tolist() for batch in session.batches] == [[2], [1]]
        first.close()
        lane.close()

    run(test())


def test_it_never_runs_on_the_event_loop() -> None:
    async def test() -> None:
        curve = LatencyCurve()
        lane = make_lane(FakeSession(), curve=curve, inline=True)
        for _ in range(20):
            job = FakeJob([[1]])
            submit(lane, job)
            await job.ended()
        inline = lane.stats.inline_batches
        assert inline > 0
        behind = BehindJob([[1]])
        submit(lane, behind)
        await behind.ended()
        assert lane.stats.inline_batches == inline
        lane.close()

    run(test())


def test_inline_work_does_not_leave_what_is_behind_waiting_for_ever() -> None:
    async def test() -> None:
        lane = make_lane(FakeSession(), inline=True)
        for _ in range(20):
            job = FakeJob([[1]])
            submit(lane, job)
            await job.ended()
        behind, live = BehindJob([[1]]), FakeJob([[1]])
        submit(lane, behind, live)
        await live.ended()
        await behind.ended()
        lane.close()

    run(test())


def test_what_is_behind_takes_no_room_from_requests_and_finds_none_where_they_find_none() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session, queue_rows=2)
        submit(lane, FakeJob([[0]]))
        await entered(session)
        behind = [BehindJob([[1]]) for _ in range(5)]
        submit(lane, *behind)
        assert lane.queue_rows == 0
        live = [FakeJob([[2]]), FakeJob([[3]])]
        submit(lane, *live)
        with pytest.raises(Overloaded):
            submit(lane, BehindJob([[4]]))
        session.hold.set()
        for job in (*live, *behind):
            await job.ended()
        lane.close()

    run(test())


def test_poison_behind_fails_alone_and_after_the_others() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        submit(lane, FakeJob([[0]]))
        await entered(session)
        bad, good, live = BehindJob([[POISON]]), BehindJob([[1]]), FakeJob([[2]])
        submit(lane, bad, good, live)
        session.hold.set()
        assert await live.answer() == [[4]]
        assert await good.answer() == [[2]]
        with pytest.raises(ModelError):
            await bad.ended()
        assert lane.stats.reruns == 2
        lane.close()

    run(test())


def test_it_can_be_cancelled_and_a_lane_that_drains_waits_for_it() -> None:
    async def test() -> None:
        session = FakeSession(held=True)
        lane = make_lane(session)
        submit(lane, FakeJob([[0]]))
        await entered(session)
        kept, left = BehindJob([[1]]), BehindJob([[2]])
        submit(lane, kept, left)
        lane.cancel(left)
        draining = asyncio.create_task(lane.drain(deadline_s=10))
        await asyncio.sleep(0)
        session.hold.set()
        assert await draining
        assert kept.finished and [batch[:, 0].tolist() for batch in session.batches] == [[0], [1]]
        lane.close()

    run(test())
