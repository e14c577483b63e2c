"""What the request log costs, and whether it loses a row."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Bench, Running, mdslite
from benchmarks.load import run_load
from benchmarks.models import TINY
from benchmarks.turns import CONNECTIONS, Effort, Say, start, take_turns

COUNTED_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class LogCost:
    """`ratio` is the throughput with the request log divided by the throughput without."""

    connections: int
    with_log_per_s: float
    without_per_s: float
    ratio: float
    with_log_cpu_us: float  # processor time a request
    without_cpu_us: float


@dataclass(frozen=True, slots=True)
class LogCount:
    """`sent` is what wrk got answers for; the log may hold a few more, which wrk cut off at its end."""

    sent: int
    logged: int
    slowest_per_s: float


def measure_log_cost(bench: Bench, effort: Effort, say: Say) -> list[LogCost]:
    costs = []
    with ExitStack() as stack:
        running = [start(stack, bench, TINY, mdslite(bench, TINY, log=log)) for log in (True, False)]
        for connections in CONNECTIONS[1:]:
            say(f"request log on and off, {connections} connections")
            logged, unlogged = take_turns(bench, TINY, running, effort, connections=connections)
            costs.append(
                LogCost(
                    connections=connections,
                    with_log_per_s=logged.requests_per_s,
                    without_per_s=unlogged.requests_per_s,
                    ratio=logged.faster_than(unlogged),
                    with_log_cpu_us=logged.cpu_us,
                    without_cpu_us=unlogged.cpu_us,
                )
            )
    return costs


def count_log(bench: Bench, effort: Effort, say: Say) -> LogCount:
    """Send as fast as it goes, stop the appliance, and count what its log files hold."""
    say("counting the request log's rows")
    contender = mdslite(bench, TINY)
    running = Running(contender, body=bench.body(TINY), folder=bench.folder / "counted")
    with running:
        loads = [
            run_load(
                running.url, body=bench.body(TINY), connections=COUNTED_CONNECTIONS, seconds=effort.seconds
            )
            for _ in range(effort.rounds)
        ]
    logged = sum(_count_rows(file) for file in sorted((running.folder / "store" / "log").glob("*.db")))
    sent = sum(load.requests for load in loads) + 1  # the first answer that Running waited for
    return LogCount(sent, logged, min(load.requests_per_s for load in loads))


def _count_rows(file: Path) -> int:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM requests").fetchone()[0])
    finally:
        connection.close()
