"""Clients that were refused and come back at once: they wait their turn, nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import models
from doors import Deployed, Site, open_site, run
from h1_client import predict
from log_rows import Clock, block
from waiting import until

from mdslite.door.door import Limits
from mdslite.door.pace import BUNCH_S, LEAST_S, Pace
from mdslite.predict.books import Books
from mdslite.serving.samples import Samples
from mdslite.store.rows import Run

MANY = [[1]] * 1024  # they fill the queue, and find no room beside anybody else's
SLOW = Limits(refused_per_s=0.001, refused_s=60.0, sweep_s=0.01)  # whoever is held stays so for the test


class Timers:
    """A loop whose timers a test calls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.timers: list[tuple[float, Any]] = []

    def call_later(self, delay: float, callback: Any) -> Timers:
        self.timers.append((self._clock.monotonic() + delay, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def advance(self) -> None:
        """Go on to the next timer, and call it."""
        at, callback = self.timers.pop(0)
        self._clock.pass_by(at - self._clock.monotonic())
        callback()


@dataclass(eq=False)
class Refused:
    clock: Clock
    let_go_at: float | None = None

    def let_go(self) -> None:
        assert self.let_go_at is None
        self.let_go_at = self.clock.monotonic()


class Crowd:
    """So many refusals at one moment. `held` are those that are kept waiting since `start`."""

    def __init__(self, count: int, *, per_second: float, longest_s: float = 0.5) -> None:
        self.clock = Clock()
        self.timers = Timers(self.clock)
        self.pace = Pace(
            self.timers,  # type: ignore[arg-type]
            per_second=per_second,
            longest_s=longest_s,
            clock=self.clock.monotonic,
        )
        self.start = self.clock.monotonic()
        self.held = self.refuse(count)

    def refuse(self, count: int) -> list[Refused]:
        everybody = [Refused(self.clock) for _ in range(count)]
        return [one for one in everybody if self.pace.hold(one, self.clock.monotonic())]

    def wait(self, *, refusing: bool) -> list[float]:
        """How long each was held. `refusing`: one more is refused after each that is let go, for as long as
        any of the first is held."""
        while self.timers.timers and any(one.let_go_at is None for one in self.held):
            self.timers.advance()
            if refusing:
                self.refuse(1)
        return [one.let_go_at - self.start for one in self.held if one.let_go_at is not None]


def test_a_few_refusals_hold_nobody() -> None:
    crowd = Crowd(10, per_second=5000)
    assert (crowd.held, crowd.timers.timers) == ([], [])


def test_refused_clients_are_read_again_in_turn_and_at_the_rate() -> None:
    crowd = Crowd(400, per_second=1000)
    waits = crowd.wait(refusing=True)
    assert len(waits) == len(crowd.held) >= 397
    assert waits == sorted(waits)
    for at, wait_s in enumerate(waits, start=400 - len(waits)):
        assert at / 1000 - 1e-9 <= wait_s <= at / 1000 + BUNCH_S + 1e-9
    bunches = sorted(set(waits))
    assert all(later - sooner >= BUNCH_S - 1e-9 for sooner, later in pairwise(bunches))


def test_nobody_waits_for_longer_than_the_bound() -> None:
    crowd = Crowd(5000, per_second=1000, longest_s=0.25)
    waits = crowd.wait(refusing=True)
    assert len(waits) == len(crowd.held)
    assert max(waits) <= 0.25 + BUNCH_S + 1e-9


def test_once_nobody_is_refused_any_more_all_are_soon_read_again() -> None:
    crowd = Crowd(1000, per_second=1000, longest_s=2.0)
    waits = crowd.wait(refusing=False)
    assert len(waits) == len(crowd.held) >= 997
    # Two bunches, then 1, 2, 4, ... 256, 256, 256 of them, 2 ms apart.
    assert max(waits) <= 2 * BUNCH_S + 15 * LEAST_S
    assert not crowd.refuse(1)  # and who is refused next starts afresh


def test_closing_lets_go_of_all() -> None:
    crowd = Crowd(10, per_second=10, longest_s=1)
    crowd.pace.close()
    assert all(one.let_go_at is not None for one in crowd.held)
    assert crowd.timers.timers == []


# Behind the door


@asynccontextmanager
async def overloaded(folder: Path, *, limits: Limits, **options: Any) -> AsyncIterator[Site]:
    """A site whose one model computes for ever, with rows in its queue."""
    deployed = Deployed(models.loop(folder / "m.onnx"))
    async with (
        open_site(folder, deployed, limits=limits, **options) as site,
        site.connect() as running,
        site.connect() as queued,
    ):
        running.send(predict([[-1]]))
        await until(lambda: site.lane().running)
        queued.send(predict(MANY))
        await until(lambda: site.lane().queue_rows)
        yield site


def test_a_client_that_comes_back_at_once_waits_and_its_neighbours_do_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            overloaded(tmp_path, limits=SLOW) as site,
            site.connect() as first,
            site.connect() as hasty,
        ):
            first.send(predict(MANY))
            assert (await first.reply()).status == 429  # the one refusal that the rate allows
            hasty.send(predict(MANY))
            assert (await hasty.reply()).status == 429
            hasty.send(predict(MANY))
            refused = site.lane().stats.refused
            for _ in range(5):
                async with site.connect() as other:
                    other.send(predict(MANY))
                    assert (await other.reply()).status == 429
            assert site.lane().stats.refused == refused + 5  # what the hasty one sent is not even read
            site.door.pace.close()
            assert (await hasty.reply()).status == 429

    run(test())


def test_pipelined_requests_of_a_refused_client_wait_too_and_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(refused_per_s=200.0)
        async with overloaded(tmp_path, limits=limits) as site, site.connect() as wire:
            names = [f"r{number}" for number in range(20)]
            wire.send(b"".join(predict(MANY, headers=[("x-request-id", name)]) for name in names))
            replies = [await wire.reply() for _ in names]
            assert [reply.status for reply in replies] == [429] * 20
            assert [reply.headers["mdslite-request-id"] for reply in replies] == names

    run(test())


def test_a_held_client_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        async with overloaded(tmp_path, limits=SLOW) as site:
            before = len(site.door.connections)
            async with site.connect() as first, site.connect() as wire:
                for one in (first, wire):
                    one.send(predict(MANY))
                    assert (await one.reply()).status == 429
            site.door.pace.close()
            await until(lambda: len(site.door.connections) == before)

    run(test())


def test_a_door_that_drains_still_answers_whom_it_holds(tmp_path: Path) -> None:
    async def test() -> None:
        async with overloaded(tmp_path, limits=Limits(refused_per_s=2.0)) as site, site.connect() as wire:
            for _ in range(2):
                wire.send(predict(MANY))
                assert (await wire.reply()).status == 429
            wire.send(predict(MANY))
            draining = asyncio.create_task(site.door.drain(grace_s=2.0, quiet_s=0.5))
            last = await wire.reply()
            assert (last.status, last.closes) == (429, True)
            draining.cancel()

    run(test())


def test_refusals_are_logged_together_as_if_one_by_one(tmp_path: Path) -> None:
    runs: list[Run] = []
    rows: list[Any] = []

    async def test() -> None:
        books = Books(rows.append, runs.append)
        async with overloaded(tmp_path, limits=Limits(), books=books) as site:
            site.fleet.find("p", "m", "v1").samples = Samples(failed=0)  # type: ignore[union-attr]
            async with site.connect() as wire:
                for number in range(3):
                    wire.send(predict(MANY, headers=[("x-request-id", f"r{number}")]))
                    assert (await wire.reply()).status == 429
            await until(lambda: len(runs) == 3)

    run(test())
    found = block(*runs)
    assert found.request_ids == ("r0", "r1", "r2")
    (labels,) = found.labels
    assert (labels.project, labels.model, labels.version) == ("p", "m", "v1")
    assert (labels.status, labels.code, labels.endpoint) == (429, "queue_full", "")
    assert found.urls == ("/projects/p/models/m:predict",)
    assert (found.queue_ms == 0).all()
    assert (found.compute_ms == 0).all()
    assert (found.batch_rows == 0).all()
