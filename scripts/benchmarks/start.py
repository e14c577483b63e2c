"""How long `mdslite up` takes to its first answer, and what it holds when nobody asks anything."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks.contenders import Bench, Running, mdslite
from benchmarks.models import TINY
from benchmarks.turns import Say

STARTS = 5
IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Start:
    first_answer_s: float
    idle_bytes: int


def measure_start(bench: Bench, say: Say) -> Start:
    """Each start on an empty store: the model is copied, hashed, tried in a child, loaded and warmed."""
    took_s, idle_bytes = [], []
    for number in range(STARTS):
        say(f"start {number + 1} of {STARTS}")
        folder = bench.folder / f"start-{number}"
        with Running(mdslite(bench, TINY), body=bench.body(TINY), folder=folder) as running:
            took_s.append(running.first_answer_s)
            time.sleep(IDLE_S)
            idle_bytes.append(running.memory_bytes())
    return Start(statistics.median(took_s), max(idle_bytes))
