"""How many requests a second everybody answers, how late, and with how much memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contenders import Bench, contenders
from benchmarks.models import Workload
from benchmarks.turns import CONNECTIONS, Effort, Say, Turns, start, take_turns


@dataclass(frozen=True, slots=True)
class Cell:
    """One server under one load. `cpu_us` is its processor time a request; `ratio` is mdslite's throughput
    divided by this server's."""

    workload: str
    connections: int
    contender: str
    label: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int
    ratio: float
    memory_bytes: int


def measure_throughput(bench: Bench, workload: Workload, effort: Effort, say: Say) -> list[Cell]:
    cells = []
    with ExitStack() as stack:
        running = [start(stack, bench, workload, each) for each in contenders(bench, workload)]
        for connections in CONNECTIONS:
            say(f"{workload.label}, {connections} connections")
            ours, *others = take_turns(bench, workload, running, effort, connections=connections)
            cells += [make_cell(workload.name, connections, turns, ours) for turns in (ours, *others)]
    return cells


def make_cell(workload: str, connections: int, turns: Turns, ours: Turns) -> Cell:
    return Cell(
        workload=workload,
        connections=connections,
        contender=turns.contender.name,
        label=turns.contender.label,
        requests_per_s=turns.requests_per_s,
        p50_ms=turns.p50_ms,
        p99_ms=turns.p99_ms,
        cpu_us=turns.cpu_us,
        failed=turns.failed,
        ratio=ours.faster_than(turns),
        memory_bytes=turns.memory_bytes,
    )
