"""Measure what the request log costs: the loop's append, the thread's work a row, and what a busy loop loses.

    python scripts/measure_journal.py [--seconds 20] [--rates 1000,10000,30000]

    python scripts/measure_journal.py --read 10000000

Prints the tables that docs/request-log.md quotes; the second form makes a day of so many rows and times
queries on it. "Blocked" is the time in which the loop's thread neither ran nor waited for a processor, so
waited for the interpreter lock (Linux only). Slices in which other processes took the loop's processor are
left out.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sqlite3
import statistics
import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from mdslite.metrics import Metrics
from mdslite.store import rollups
from mdslite.store.blocks import STRETCH_ROWS, build_block
from mdslite.store.bodies import BodyBudget
from mdslite.store.filters import parse
from mdslite.store.hourfile import HourFile
from mdslite.store.hours import hour_of, hour_path
from mdslite.store.journal import Journal, Row
from mdslite.store.recorder import Recorder
from mdslite.store.requests import RequestLog

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
                b"y" * 60,
            )
        )  # fmt: skip
    return rows


def report(what: str, seconds: float, count: int) -> None:
    print(f"  {what:<52}{seconds / count * 1e6:8.3f} µs a row")


def measure_append(rows: list[Row]) -> None:
    print("the loop's side")
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), max_rows=1 << 30)
        one = rows[0]
        seconds = min(timeit.repeat(lambda: journal.append(one), number=100_000, repeat=5))
        empty = min(timeit.repeat(lambda: None, number=100_000, repeat=5))
    report("append", seconds - empty, 100_000)


def timed(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measure_thread(rows: list[Row]) -> None:
    """Processor time of each of the thread's steps, alone on the machine's interpreter."""
    print(f"the thread's side, blocks of {BLOCK} rows (processor time)")
    metrics = Metrics()
    budget = BodyBudget()
    spent = dict.fromkeys(("to columns", "metrics", "ids", "rows and rollups written"), 0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorder = Recorder(folder, max_age_s=1e9, max_bytes=1 << 40)
        recorder.open()
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            spent["to columns"] -= time.thread_time()
            block = build_block(part, budget=budget, now_s=time.monotonic())
            spent["to columns"] += time.thread_time()
            spent["metrics"] += timed(partial(metrics.observe, block))
            spent["ids"] -= time.thread_time()
            waiting = recorder.number(block)
            spent["ids"] += time.thread_time()
            spent["rows and rollups written"] += timed(partial(recorder.write, waiting))
        spent["sealing the hour"] = timed(recorder.close)
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
    for what, seconds in spent.items():
        report(what, seconds, len(rows))
    report("together", sum(spent.values()), len(rows))
    print(f"  {'size on disk':<52}{size_bytes / len(rows):8.1f} bytes a row")
    print(f"  {'render, 8 versions':<52}{timed(metrics.render) * 1e3:8.3f} ms")


def plain_values(rows: list[Row]) -> list[list[tuple[object, ...]]]:
    """What an hour file stores of each row, in stretches."""
    with tempfile.TemporaryDirectory() as name:
        file = HourFile(hour_path(Path(name), hour_of(rows[0][0])), start=hour_of(rows[0][0]))
        file.open()
        block = build_block(rows, budget=BodyBudget(per_second=0, errors_per_second=0), now_s=0.0)
        recorder = Recorder(Path(name), max_age_s=1e9, max_bytes=1 << 40)
        for _, part in (waiting := recorder.number(block)).parts:
            file.write(block, waiting.ids, part)
            file.seal()
            break
        with sqlite3.connect(file.path) as db:
            found = db.execute("SELECT * FROM entries").fetchall()
        db.close()
    return [found[start : start + STRETCH_ROWS] for start in range(0, len(found), STRETCH_ROWS)]


Way = Callable[[sqlite3.Connection], None]


def ways_to_insert(rows: list[Row]) -> tuple[int, dict[str, Way]]:
    """How many rows each way inserts, and the ways; those in brackets are the part that holds the lock."""
    stretches = plain_values(rows)
    width = len(stretches[0][0])
    marks = f"({','.join('?' * width)})"
    flat = [list(itertools.chain.from_iterable(stretch)) for stretch in stretches]
    texts = [orjson.dumps(stretch).decode() for stretch in stretches]
    from_json = ",".join(f"value->>{number}" for number in range(width))

    def executemany(db: sqlite3.Connection) -> None:
        for stretch in stretches:
            db.executemany(f"INSERT OR REPLACE INTO entries VALUES {marks}", stretch)

    def values(db: sqlite3.Connection) -> None:
        for stretch in flat:
            many = ",".join([marks] * (len(stretch) // width))
            db.execute(f"INSERT OR REPLACE INTO entries VALUES {many}", stretch)

    def json_each(db: sqlite3.Connection) -> None:
        for text in texts:
            db.execute(f"INSERT OR REPLACE INTO entries SELECT {from_json} FROM json_each(?)", (text,))

    def bind_only(db: sqlite3.Connection) -> None:
        for stretch in flat:  # one step, to the first row of the answer
            db.execute(f"VALUES {','.join([marks] * (len(stretch) // width))}", stretch)

    def dump_only(db: sqlite3.Connection) -> None:
        for stretch in stretches:
            orjson.dumps(stretch)

    ways: dict[str, Way] = {
        "executemany": executemany,
        "INSERT of many VALUES": values,
        "json_each": json_each,
        "[VALUES: binding]": bind_only,
        "[json_each: dumping]": dump_only,
    }
    return sum(map(len, stretches)), ways


@contextmanager
def scratch_database() -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as name:
        db = sqlite3.connect(Path(name) / "a.db", isolation_level=None, check_same_thread=False)
        names = ",".join(f"c{number}" for number in range(1, 12))
        db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            f"CREATE TABLE entries (id INTEGER PRIMARY KEY, {names});"
        )
        yield db
        db.close()


def in_transaction(db: sqlite3.Connection, way: Way) -> None:
    db.execute("BEGIN")
    way(db)
    db.execute("COMMIT")


def measure_ways_to_insert(rows: list[Row]) -> None:
    print("ways to insert (processor time; in brackets the part that holds the interpreter lock)")
    count, ways = ways_to_insert(rows)
    for what, way in ways.items():
        best = []
        for _ in range(3):
            with scratch_database() as db:
                best.append(timed(partial(in_transaction, db, way)))
        report(what, min(best), count)
    print("the same beside a loop that never waits (calm slices of 0.5 s)")
    count, ways = ways_to_insert(rows[:BLOCK])
    for what, way in list(ways.items())[:3]:
        found = []
        for _ in range(24):
            with scratch_database() as db, writing(db, way) as transactions:
                before = len(transactions)
                calm = run_loop(0.5, 0, rows, lambda row: None)
                written = (len(transactions) - before) * count
            if calm.queued < CALM:
                found.append((written / 0.5, calm.blocked * 0.5 / max(written, 1) * 1e6))
        if not found:
            print(f"  {what:<28}no calm slice: the machine is busy with something else")
            continue
        rate, lost = (statistics.median(values) for values in zip(*found, strict=True))
        finished = (
            f"{rate:>12,.0f} rows/s {lost:>10.3f} µs of the loop a row" if rate else "not one transaction"
        )
        print(f"  {what:<28}{finished}   ({len(found)} slices)")


@contextmanager
def writing(db: sqlite3.Connection, way: Way) -> Iterator[list[None]]:
    """A thread that writes as fast as it can; the list has one entry a transaction."""
    stop = threading.Event()
    done: list[None] = []

    def keep_writing() -> None:
        while not stop.is_set():
            in_transaction(db, way)
            done.append(None)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        yield done
    finally:
        stop.set()
        writer.join()


def work_unit() -> int:
    """About 4 µs of plain Python, as a stand-in for the loop's own work."""
    total = 0
    for number in range(150):
        total += number * number
    return total


@dataclass(frozen=True)
class Slice:
    units: float  # a second
    blocked: float  # share of the time: waiting for the interpreter lock
    queued: float  # share of the time: waiting for a processor that others had
    slowest_us: float  # of a thousand units, the slowest


def run_loop(seconds: float, rate: int, rows: list[Row], take: Callable[[Row], None]) -> Slice:
    """Work without a pause, and hand over rows at a rate."""
    done = sent = 0
    gaps: list[float] = []
    scheduled = thread_schedule()
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
    ran, queued = (b - a for a, b in zip(scheduled, thread_schedule(), strict=True))
    gaps.sort()
    blocked = max(0.0, 1 - (ran + queued) / passed) if ran else float("nan")
    return Slice(done / passed, blocked, queued / passed, gaps[-len(gaps) // 1000] * 1e6)


def thread_schedule() -> tuple[float, float]:
    """Seconds this thread ran, and seconds it was ready but had no processor (Linux)."""
    try:
        ran, queued, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    except OSError:
        return 0.0, 0.0
    return int(ran) / 1e9, int(queued) / 1e9


def measure_loop(rates: list[int], seconds: float, rows: list[Row]) -> None:
    print("a busy Python loop beside the journal (slices of 0.5 s with and without it, in turns; calm ones)")
    print("  rows/s   slices   loss    blocked with/without   slowest of 1,000 units with/without   dropped")
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
        print(f" {middle(on, 'blocked'):>12.2%} / {middle(off, 'blocked'):<7.2%}", end="")
        print(f" {middle(on, 'slowest_us'):>18.0f} / {middle(off, 'slowest_us'):<4.0f} µs {dropped:>16}")


def middle(slices: list[Slice], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in slices))


def ignore(row: Row) -> None:
    """The same call as the journal's, without a journal."""


def alternate() -> Iterator[bool]:
    """With, without, without, with, ...: a drift of the machine's speed does not favour one of them."""
    return itertools.cycle((True, False, False, True))


def measure_reading(count: int) -> None:
    """A day of rows, made hour by hour, and queries as a dashboard would ask them."""
    midnight = (time.time() // 86400 - 1) * 86400
    hourly = count // 24
    pattern = make_rows(20_000, start=0.0, span_s=1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorder = Recorder(folder, max_age_s=1e9, max_bytes=1 << 50)
        recorder.open()
        budget = BodyBudget(per_second=0.1, errors_per_second=0.1)
        for at in range(0, 24 * hourly, BLOCK):
            times = (midnight + (at + number) * 3600 / hourly for number in range(BLOCK))
            part = [(when, *pattern[(at + n) % len(pattern)][1:]) for n, when in enumerate(times)]
            recorder.write(recorder.number(build_block(part, budget=budget, now_s=at * 3600 / hourly)))
        recorder.close()
        size_bytes = sum(path.stat().st_size for path in folder.iterdir())
        print(f"reading {24 * hourly:,} rows over 24 hours, {size_bytes / (24 * hourly):.1f} bytes a row")
        time_queries(RequestLog(folder), midnight)


def time_queries(log: RequestLog, midnight: float) -> None:
    now = midnight + 86400
    for text in (
        "", "version=v1", "status>=400", "status>=400 version=v7", "confidence<0.6", "latency_ms>20",
        "latency_ms>60", "confidence<0.00001", "request_id=nobody", "text~refund", "version=nothing",
    ):  # fmt: skip
        wanted = parse(text, now=now)
        best = min(timeit.repeat(partial(log.query, wanted, limit=100), number=1, repeat=3))
        print(f"  page of 100, {text or 'everything':<39}{best * 1e3:8.1f} ms")
    for text, interval_s in (("", 900), ("status>=400", 60), ("version=v1", 10), ("confidence<0.6", 900)):
        wanted = parse(text, now=now)
        best = min(
            timeit.repeat(
                partial(log.histogram, wanted, since=midnight, until=now, interval_s=interval_s),
                number=1,
                repeat=3,
            )
        )
        print(f"  {f'24 h by {interval_s} s, {text or chr(42)}':<52}{best * 1e3:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of the busy loop, for each rate")
    parser.add_argument("--rates", default="1000,10000,30000")
    parser.add_argument("--read", type=int, metavar="ROWS", help="time queries on a day of so many rows")
    options = parser.parse_args()
    if options.read:
        measure_reading(options.read)
        return
    rows = make_rows(100_000)
    print(
        f"SQLite {sqlite3.sqlite_version}, {len(rollups.MINUTE_COLUMNS)} columns a minute, {len(rows)} rows"
    )
    measure_append(rows)
    measure_thread(rows)
    measure_ways_to_insert(rows[:50_000])
    measure_loop([int(rate) for rate in options.rates.split(",")], options.seconds, rows)


if __name__ == "__main__":
    main()
