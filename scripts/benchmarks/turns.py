"""Measures servers in turns (A B B A ...) and compares them by the median of the turns' ratios.

Another program's burst then hits all sides of a comparison.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Bench, Contender, Meter, Running
from benchmarks.load import Load, run_load
from benchmarks.models import Workload

CONNECTIONS = (1, 32, 128)
WARM_S = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long one turn lasts and how many there are."""

    seconds: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Turns:
    """What one server did in each of its turns."""

    contender: Contender
    loads: Sequence[Load]
    cpu_s: Sequence[float]  # processor time in each turn, of all processes of the server
    memory_bytes: int  # at its peak

    @property
    def requests_per_s(self) -> float:
        return statistics.median(load.requests_per_s for load in self.loads)

    @property
    def p50_ms(self) -> float:
        return statistics.median(load.p50_ms for load in self.loads)

    @property
    def p99_ms(self) -> float:
        return statistics.median(load.p99_ms for load in self.loads)

    @property
    def cpu_us(self) -> float:
        """Processor time a request: what other programs do at the same time changes it least."""
        pairs = zip(self.cpu_s, self.loads, strict=True)
        return statistics.median(cpu_s / max(load.requests, 1) * 1e6 for cpu_s, load in pairs)

    @property
    def failed(self) -> int:
        return sum(load.failed for load in self.loads)

    def faster_than(self, other: Turns) -> float:
        """The median, over the turns, of this server's throughput divided by the other's."""
        pairs = zip(self.loads, other.loads, strict=True)
        return statistics.median(own.requests_per_s / theirs.requests_per_s for own, theirs in pairs)


def start(stack: ExitStack, bench: Bench, workload: Workload, contender: Contender) -> Running:
    folder = bench.folder / f"{workload.name}-{contender.name}"
    return stack.enter_context(Running(contender, body=bench.body(workload), folder=folder))


def take_turns(
    bench: Bench, workload: Workload, running: Sequence[Running], effort: Effort, *, connections: int
) -> list[Turns]:
    """Give every server `effort.rounds` turns under the same load, after a warm-up each."""
    return send_in_turns(bench.body(workload), running, effort, connections=connections)


def send_in_turns(body: Path, running: Sequence[Running], effort: Effort, *, connections: int) -> list[Turns]:
    """The same with any body."""
    loads: list[list[Load]] = [[] for _ in running]
    cpu_s: list[list[float]] = [[] for _ in running]
    peaks = [0 for _ in running]
    for each in running:
        run_load(each.url, body=body, connections=connections, seconds=WARM_S)
    for number in range(effort.rounds):
        order = list(enumerate(running))
        for index, each in order if number % 2 == 0 else reversed(order):  # none is always the first
            with Meter(each) as meter:
                load = run_load(each.url, body=body, connections=connections, seconds=effort.seconds)
            loads[index].append(load)
            cpu_s[index].append(meter.cpu_s)
            peaks[index] = max(peaks[index], meter.peak_bytes)
    return [
        Turns(each.contender, loads[index], cpu_s[index], peaks[index]) for index, each in enumerate(running)
    ]
