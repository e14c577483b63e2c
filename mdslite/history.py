"""What the devices and the queues were at: a value a second for an hour, and a mean a minute for a day, in
memory that is taken once. Owns these rings and the task that fills them; keeps nothing across a restart.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import time

import numpy as np
from numpy.typing import NDArray

from mdslite.runtimes.nvidia import Reading

SECONDS = 3600
MINUTES = 1440
SAMPLE_S = 1.0
_SLACK_S = 60.0  # who asks for an hour by another clock gets what there is of it by the second
_FRESH_S = 2.5  # a sample that is older is not what the devices are at now

# The columns of a device, after those of the appliance (time, queue).
_FIELDS = ("utilization_percent", "memory_used_bytes", "temperature_c", "power_w")
_OWN = 2

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Past:
    """Rows of a ring, the oldest first: times in Unix seconds, and one list a figure; NaN where it is not
    known. `devices` are as they were read last."""

    interval_s: float
    times: list[float]
    queue_rows: list[float]
    devices: list[tuple[Reading, dict[str, list[float]]]]


class History:
    """`read` reads the devices, always the same ones in the same order; `queue_rows` counts what waits. Used
    from the event loop's thread only."""

    def __init__(
        self,
        read: Callable[[], Sequence[Reading]],
        queue_rows: Callable[[], int],
        *,
        clock: Callable[[], float] = time,
    ) -> None:
        self._read = read
        self._queue_rows = queue_rows
        self._clock = clock
        self._readings: Sequence[Reading] = ()
        self._read_at = -math.inf
        self._seconds = Ring(SECONDS)
        self._minutes = Ring(MINUTES)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._sample_often(), name="history")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def readings(self) -> Sequence[Reading]:
        """What the devices are at, as it was sampled a moment ago."""
        if self._clock() - self._read_at > _FRESH_S:
            return self._read()
        return self._readings

    def sample(self) -> None:
        """Take down what everything is at."""
        now = self._clock()
        self._readings, self._read_at = self._read(), now
        row = [now, float(self._queue_rows())]
        for reading in self._readings:
            row += [_number(getattr(reading, field)) for field in _FIELDS]
        last = self._seconds.last
        if last is not None and last // 60 != now // 60:
            self._minutes.put(_mean(self._seconds.since(last // 60 * 60)))
        self._seconds.put(np.array(row))

    def between(self, since: float | None = None, until: float | None = None) -> Past:
        """By the second where the last hour holds all of it, else by the minute."""
        now = self._clock()
        by_second = since is None or since >= now - SECONDS * SAMPLE_S - _SLACK_S
        ring = self._seconds if by_second else self._minutes
        rows = ring.since(-math.inf if since is None else since)
        if until is not None:
            rows = rows[rows[:, 0] <= until]
        devices = [
            (
                reading,
                {
                    field: rows[:, _OWN + at * len(_FIELDS) + offset].tolist() if len(rows) else []
                    for offset, field in enumerate(_FIELDS)
                },
            )
            for at, reading in enumerate(self._readings)
        ]
        interval_s = SAMPLE_S if by_second else 60.0
        return Past(interval_s, rows[:, 0].tolist(), rows[:, 1].tolist(), devices)

    async def _sample_often(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self.sample()
            due = max(due + SAMPLE_S, loop.time())
            await asyncio.sleep(due - loop.time())


class Ring:
    """The newest `size` rows of numbers, of which the first is a time that rises."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: Table | None = None
        self._count = 0  # of all rows that were ever put

    @property
    def last(self) -> float | None:
        """The newest row's time."""
        if self._rows is None or not self._count:
            return None
        return float(self._rows[(self._count - 1) % self._size, 0])

    def put(self, row: NDArray[np.float64]) -> None:
        if self._rows is None or self._rows.shape[1] != len(row):
            self._rows, self._count = np.full((self._size, len(row)), np.nan), 0
        self._rows[self._count % self._size] = row
        self._count += 1

    def since(self, moment: float) -> Table:
        """A copy of the rows from a time on, the oldest first."""
        if self._rows is None:
            return np.empty((0, _OWN))
        start = max(0, self._count - self._size)
        rows = self._rows[np.arange(start, self._count) % self._size]
        return rows[rows[:, 0] >= moment]


def _mean(rows: Table) -> NDArray[np.float64]:
    """The mean of each column's known values, at the first row's time."""
    known = ~np.isnan(rows)
    counts = known.sum(axis=0)
    sums = np.where(known, rows, 0.0).sum(axis=0)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    means[0] = rows[0, 0]
    return means


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
