"""What the request log costs where it writes some ten thousand rows a second, and what a question to it every
second costs more: by a model of which this machine answers about that many requests."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.contenders import Bench, Meter, Running, mdslite
from benchmarks.estimate import estimate_ratio
from benchmarks.load import Load, run_load
from benchmarks.models import WIDE
from benchmarks.queries import asked_every_second
from benchmarks.turns import WARM_S, Effort, Say, start
from mdslite.intervals import Estimate

CONNECTIONS = 128
TURNS = 2  # for each of the effort's: the difference is small


@dataclass(frozen=True, slots=True)
class WrittenCost:
    """`log` is the throughput with the log divided by that without, `asked` that while it is asked as well
    divided by that with it alone. Other figures are medians of the turns."""

    log: Estimate
    asked: Estimate
    without_per_s: float
    with_log_per_s: float
    asked_per_s: float
    without_cpu_us: float  # processor time a request, of all processes of the server
    with_log_cpu_us: float
    asked_cpu_us: float
    asked_ms: float  # an answer


@dataclass(frozen=True, slots=True)
class _Turn:
    load: Load
    cpu_us: float


def measure_written(bench: Bench, effort: Effort, say: Say) -> WrittenCost:
    say(f"request log off, on, and asked every second, {WIDE.label}, {CONNECTIONS} connections")
    with ExitStack() as stack:
        without, logged = (start(stack, bench, WIDE, mdslite(bench, WIDE, log=log)) for log in (False, True))
        for each in (without, logged):
            run_load(each.url, body=bench.body(WIDE), connections=CONNECTIONS, seconds=WARM_S)
        asked_ms: list[float] = []
        kinds = (("without", without, None), ("logged", logged, None), ("asked", logged, asked_ms))
        turns: dict[str, list[_Turn]] = {name: [] for name, _, _ in kinds}
        for number in range(TURNS * effort.rounds):
            for name, running, times in kinds if number % 2 == 0 else kinds[::-1]:
                turns[name].append(_take_turn(bench, running, effort, times))
    without_log, with_log, asked = turns["without"], turns["logged"], turns["asked"]
    return WrittenCost(
        log=_ratio(with_log, without_log),
        asked=_ratio(asked, with_log),
        without_per_s=_per_s(without_log),
        with_log_per_s=_per_s(with_log),
        asked_per_s=_per_s(asked),
        without_cpu_us=_cpu_us(without_log),
        with_log_cpu_us=_cpu_us(with_log),
        asked_cpu_us=_cpu_us(asked),
        asked_ms=statistics.median(asked_ms),
    )


def _per_s(turns: Sequence[_Turn]) -> float:
    return statistics.median(one.load.requests_per_s for one in turns)


def _cpu_us(turns: Sequence[_Turn]) -> float:
    return statistics.median(one.cpu_us for one in turns)


def _take_turn(bench: Bench, running: Running, effort: Effort, times: list[float] | None) -> _Turn:
    with asked_every_second(running, times), Meter(running) as meter:
        load = run_load(running.url, body=bench.body(WIDE), connections=CONNECTIONS, seconds=effort.seconds)
    return _Turn(load, meter.cpu_s / max(load.requests, 1) * 1e6)


def _ratio(turns: Sequence[_Turn], others: Sequence[_Turn]) -> Estimate:
    return estimate_ratio(
        [
            one.load.requests_per_s / other.load.requests_per_s
            for one, other in zip(turns, others, strict=True)
        ]
    )
