"""How quickly a day of the request log answers, and what being asked costs the predictions beside it."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from benchmarks.contenders import Bench, Running, mdslite
from benchmarks.load import run_load
from benchmarks.models import TINY
from benchmarks.turns import WARM_S, Effort, Say

SCRIPT = Path(__file__).parent.parent / "measure_queries.py"
MADE_IN_S = 3600.0
CONNECTIONS = 32
ASK_EVERY_S = 1.0
ASKED = (
    "/histogram?filter=",
    "?filter=" + quote("status>=400 latency_ms>5"),
    "/top?field=code&filter=",
    "?filter=" + quote("text~chargeback"),
    "/histogram?filter=" + quote("since=15m"),
)


@dataclass(frozen=True, slots=True)
class QueryTime:
    """One question, in milliseconds: of a process that has just started, and asked again. `wanted_ms` is for
    10 million rows, None where nothing is wanted."""

    what: str
    median_ms: float
    first_ms: float
    wanted_ms: float | None


@dataclass(frozen=True, slots=True)
class QueryCost:
    """`ratio` is the throughput while somebody asks every second, divided by that while nobody does."""

    rows: int
    bytes_a_row: float  # without bodies
    times: tuple[QueryTime, ...]
    ratio: float
    asked_ms: float  # the median of the questions, under that load


def measure_queries(bench: Bench, effort: Effort, say: Say, *, rows: int) -> QueryCost:
    say(f"a request log of {rows:,} rows")
    running = Running(mdslite(bench, TINY), body=bench.body(TINY), folder=bench.folder / "queries")
    log = running.folder / "store" / "log"
    log.parent.mkdir(parents=True)
    python = str(bench.mdslite.with_name("python"))
    command = [python, str(SCRIPT), "--json", "--log", str(log), "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MADE_IN_S)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout)
    say("predictions while it is asked every second")
    ratios: list[float] = []
    times: list[float] = []
    with running:
        run_load(running.url, body=bench.body(TINY), connections=CONNECTIONS, seconds=WARM_S)
        for turn in range(2 * effort.rounds):
            rates = {}
            for asked in (True, False) if turn % 2 else (False, True):
                with asked_every_second(running, times if asked else None):
                    load = run_load(
                        running.url, body=bench.body(TINY), connections=CONNECTIONS, seconds=effort.seconds
                    )
                rates[asked] = load.requests_per_s
            ratios.append(rates[True] / rates[False])
    return QueryCost(
        rows,
        found["bytes_a_row"],
        tuple(QueryTime(**one) for one in found["questions"]),
        statistics.median(ratios),
        statistics.median(times),
    )


@contextmanager
def asked_every_second(running: Running, times: list[float] | None) -> Iterator[None]:
    """Ask in turns, and note how long each answer takes; nothing without a place to note it."""
    if times is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_ask, args=(running, times, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ask(running: Running, times: list[float], over: threading.Event) -> None:
    for path in itertools.cycle(ASKED):
        start = time.perf_counter()
        running.ask(f"/api/v1/logs{path}")
        took_s = time.perf_counter() - start
        times.append(took_s * 1e3)
        if over.wait(max(0.0, ASK_EVERY_S - took_s)):
            return
