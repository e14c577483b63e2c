"""The rows that wait in a lane: oldest first, whatever their shapes."""

from __future__ import annotations

import random

import pytest

from mdslite.serving.queue import Job, RowQueue
from mdslite.tensors import Columns


class Waiting(Job):
    """A job of so many rows of one shape. Counts how often anybody asks since when it waits."""

    looks = 0

    def __init__(self, at: float, *, shape: int, rows: int = 1) -> None:
        self.at = at
        super().__init__(Columns(rows, (b"",), ((shape,),), "instances"))

    @property
    def queued_at(self) -> float:
        Waiting.looks += 1
        return self.at

    @queued_at.setter
    def queued_at(self, at: float) -> None:
        """It waits since when it was made."""


@pytest.fixture(autouse=True)
def _no_looks() -> None:
    Waiting.looks = 0


def test_it_gives_the_oldest_shape_first_whatever_comes_and_goes_meanwhile() -> None:
    chance = random.Random(1)
    queue, waiting, clock = RowQueue(), list[Waiting](), 0.0
    most = 0
    for _ in range(5000):
        action = chance.random()
        if action < 0.55:
            clock += chance.random()
            waiting.append(Waiting(clock, shape=chance.randrange(20), rows=chance.randint(1, 4)))
            queue.push(waiting[-1])
        elif action < 0.7 and waiting:
            left = waiting.pop(chance.randrange(len(waiting)))
            left.finished = True
            queue.discard(left)
        elif waiting:
            oldest = min(waiting, key=lambda job: job.at)
            found = queue.oldest()
            assert found is not None
            assert found[1] is oldest
            taken = queue.take(chance.randint(1, 6))
            assert taken is not None
            assert taken[0] == oldest.columns.key
            assert taken[1][0][0] is oldest
            waiting = [job for job in waiting if job.taken < job.columns.rows]
        most = max(most, len(queue._order))
        assert queue.rows == sum(job.columns.rows - job.taken for job in waiting)
    assert most < 200  # what nobody looked at is thrown away


def test_a_thousand_shapes_cost_no_more_than_one() -> None:
    queue = RowQueue()
    for at in range(1000):
        queue.push(Waiting(float(at), shape=at))
    found: list[float] = []
    while (taken := queue.take(32)) is not None:
        job = taken[1][0][0]
        assert isinstance(job, Waiting)
        found.append(job.at)
    assert found == sorted(found)
    assert len(found) == 1000
    assert Waiting.looks < 10_000
