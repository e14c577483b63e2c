"""The limit: onnxruntime in a loop, with no server around it, at the batch size that suits it best."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.models import Workload

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Limit:
    threads: int
    single_rows_per_s: float  # one row a run
    best_rows_per_s: float
    best_batch_rows: int


def measure_limit(workload: Workload, model: Path, *, seconds: float) -> Limit:
    """The best of one thread and of all cores; each batch size gets `seconds`, the fastest of three parts."""
    found = [_measure(workload, model, threads, seconds) for threads in sorted({1, os.cpu_count() or 1})]
    return max(found, key=lambda limit: limit.best_rows_per_s)


def _measure(workload: Workload, model: Path, threads: int, seconds: float) -> Limit:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    speeds = {rows: _rows_per_s(session, workload.widths[0], rows, seconds) for rows in BATCH_ROWS}
    best = max(speeds, key=lambda rows: speeds[rows])
    return Limit(threads, speeds[1], speeds[best], best)


def _rows_per_s(session: onnxruntime.InferenceSession, width: int, rows: int, seconds: float) -> float:
    feeds = {"x": np.random.default_rng(3).random((rows, width), np.float32)}
    session.run(None, feeds)
    best = 0.0
    for _ in range(3):
        runs, started = 0, time.perf_counter()
        while (took_s := time.perf_counter() - started) < seconds / 3:
            session.run(None, feeds)
            runs += 1
        best = max(best, runs * rows / took_s)
    return best
