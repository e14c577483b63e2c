"""Measure what the request log costs: the loop's append, the writer's work a row, and what a busy loop loses.

    python scripts/measure_journal.py [--seconds 20] [--rates 1000,10000,30000]

Prints the tables that docs/request-log.md quotes. Slices in which other processes took the loop's processor
are left out (Linux only).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import sqlite3
import statistics
import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mdslite.metrics import Metrics
from mdslite.store import rollups
from mdslite.store.blocks import build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.journal import Journal, Row
from mdslite.store.recorder import Recorder
from mdslite.store.rows import Labels, Run, pack_row, pack_run, unpack
from mdslite.store.tallies import tally
from mdslite.store.writer import GC_THRESHOLD

BLOCK = 2500  # rows: a flush at 10,000 a second
VERSIONS = 8
CALM = 0.03  # a slice counts when others took no more of the loop's time than this


def make_rows(count: int, *, start: float | None = None, span_s: float = 10.0) -> list[Row]:
    """Skewed traffic of eight versions, 1 % errors, 200-byte bodies."""
    chance = random.Random(1)
    start = time.time() if start is None else start
    rows: list[Row] = []
    for number in range(count):
        failed = chance.random() < 0.01
        version = min(int(chance.expovariate(0.6)), VERSIONS - 1)
        rows.append(
            (
                start + number * span_s / count, f"{chance.getrandbits(64):016x}", "mail", "spam",
                f"v{version}", version == 7, "/projects/mail/models/spam:predict", 500 if failed else 200,
                "model_error" if failed else None, chance.expovariate(0.5), chance.random(), chance.random(),
                None, 1, chance.randrange(1, 33), chance.random(), f"local/{version % 2}", b"x" * 200,
                b"y" * 60, None, None, None,
            )
        )  # fmt: skip
    return rows


def report(what: str, seconds: float, count: int) -> None:
    print(f"  {what:<52}{seconds / count * 1e6:8.3f} µs a row")


def make_runs(rows: list[Row], size: int) -> list[Run]:
    """The same requests as good answers of batches of one size."""
    runs = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        run = Run(
            Labels("mail", "spam", "v1", False, "local/0", 200, None),
            "/projects/mail/models/spam:predict",
            started=some[0][0],
            compute_ms=1.0,
            batch_rows=size,
            clock_to_unix=0.0,
        )
        run.calls += [(row[1], row[0], row[0], row[0] + 0.002, row[15], 1, None) for row in some]
        runs.append(run)
    return runs


def measure_append(rows: list[Row]) -> None:
    print("the loop's side")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), ring_bytes=1 << 30, flush_s=1e6)
        journal.start()
        plain = [(*row[:17], None, None, None, None, None) for row in rows[:10_000]]

        def append_rows() -> None:
            for row in plain:
                journal.append(row)

        report("append", min(timeit.repeat(append_rows, number=1, repeat=5)), len(plain))
        for size in (4, 32):
            runs = make_runs(rows[:16_000], size)

            def append_runs(runs: list[Run] = runs) -> None:
                for run in runs:
                    journal.append_run(run)

            report(f"append_run, {size} calls", min(timeit.repeat(append_runs, number=1, repeat=5)), 16_000)
        journal.close(timeout_s=0.0)


def timed(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measure_writer(what: str, records: list[bytes], count: int) -> None:
    """Processor time of each of the writer's steps; the collector of garbage set as there."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    print(f"the writer's side, {what}, blocks of {BLOCK} rows (processor time)")
    budget = BodyBudget()
    budget.grant(0, 0.0)
    metrics = Metrics()
    steps = ("from the ring", "to columns", "tallies", "ids", "rows and rollups written", "metrics added up")
    spent = dict.fromkeys(steps, 0.0)
    size = max(1, len(records) * BLOCK // count)
    with tempfile.TemporaryDirectory() as name:
        recorder = Recorder(Path(name), max_age_s=1e9, max_bytes=1 << 40)
        recorder.open()
        for start in range(0, len(records), size):
            clocks = [time.thread_time()]
            part = [unpack(record) for record in records[start : start + size]]
            clocks.append(time.thread_time())
            block = build_block(part, budget=budget)
            clocks.append(time.thread_time())
            counted = tally(block)
            clocks.append(time.thread_time())
            waiting = recorder.number(block)
            clocks.append(time.thread_time())
            recorder.write(waiting)
            clocks.append(time.thread_time())
            metrics.observe(counted)
            clocks.append(time.thread_time())
            for step, (before, after) in zip(steps, itertools.pairwise(clocks), strict=True):
                spent[step] += after - before
        spent["sealing the hour"] = timed(recorder.close)
        size_bytes = sum(path.stat().st_size for path in Path(name).iterdir())
    for step, seconds in spent.items():
        report(step, seconds, count)
    report("together", sum(spent.values()), count)
    print(f"  {'size on disk':<52}{size_bytes / count:8.1f} bytes a row")
    print(f"  {'render':<52}{timed(metrics.render) * 1e3:8.3f} ms")


def work_unit() -> int:
    """About 4 µs of plain Python, as a stand-in for the loop's own work."""
    total = 0
    for number in range(150):
        total += number * number
    return total


@dataclass(frozen=True)
class Slice:
    units: float  # a second
    queued: float  # share of the time: waiting for a processor that others had
    slowest_us: float  # of a thousand units, the slowest


def run_loop(seconds: float, rate: int, rows: list[Row], take: Callable[[Row], None]) -> Slice:
    """Work without a pause, and hand over rows at a rate."""
    done = sent = 0
    gaps: list[float] = []
    queued_before = thread_queued_s()
    start = last = time.perf_counter()
    while True:
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
        if (passed := now - start) >= seconds:
            break
        work_unit()
        done += 1
        while sent < passed * rate:
            take(rows[sent % len(rows)])
            sent += 1
    queued = thread_queued_s() - queued_before
    gaps.sort()
    return Slice(done / passed, queued / passed, gaps[-len(gaps) // 1000] * 1e6)


def thread_queued_s() -> float:
    """Seconds this thread was ready but had no processor (Linux)."""
    try:
        _, queued, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(queued) / 1e9


def measure_loop(rates: list[int], seconds: float, rows: list[Row]) -> None:
    print("a busy Python loop beside the journal (slices of 0.5 s with and without it, in turns; calm ones)")
    print("  rows/s   slices   loss   slowest of 1,000 units with/without   dropped")
    for rate in rates:
        with tempfile.TemporaryDirectory() as name:
            journal = Journal(Path(name), observers=[Metrics().observe])
            journal.start()
            found: dict[bool, list[Slice]] = {True: [], False: []}
            for logged in itertools.islice(alternate(), int(seconds / 0.5)):
                take = journal.append if logged else ignore
                calm = run_loop(0.5, rate, rows, take)
                journal.flush()
                if calm.queued < CALM:
                    found[logged].append(calm)
            dropped = journal.statistics().dropped
            journal.close()
        if not all(found.values()):
            print(f"  {rate:>6}   no calm slice: the machine is busy with something else")
            continue
        on, off = found[True], found[False]
        loss = 1 - middle(on, "units") / middle(off, "units")
        print(f"  {rate:>6} {len(on):>5}+{len(off):<3} {loss:>6.1%}", end="")
        print(f" {middle(on, 'slowest_us'):>18.0f} / {middle(off, 'slowest_us'):<4.0f} µs {dropped:>16}")


def middle(slices: list[Slice], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in slices))


def ignore(row: Row) -> None:
    """The same call as the journal's, without a journal."""


def alternate() -> Iterator[bool]:
    """With, without, without, with, ...: a drift of the machine's speed does not favour one of them."""
    return itertools.cycle((True, False, False, True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of the busy loop, for each rate")
    parser.add_argument("--rates", default="1000,10000,30000")
    options = parser.parse_args()
    rows = make_rows(100_000)
    print(
        f"SQLite {sqlite3.sqlite_version}, {len(rollups.MINUTE_COLUMNS)} columns a minute, {len(rows)} rows"
    )
    measure_append(rows)
    packed = [pack_row(row, bodies=at % 100 == 0) for at, row in enumerate(rows)]
    measure_writer("rows, 1 % with bodies", packed, len(rows))
    measure_writer("batches of 16", [pack_run(run) for run in make_runs(rows, 16)], len(rows))
    measure_loop([int(rate) for rate in options.rates.split(",")], options.seconds, rows)


if __name__ == "__main__":
    main()
