"""Stand-ins for the parts around a lane: a session under the test's control, and jobs that remember."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from waiting import until

from mdslite.errors import DeadlineExceeded, ModelError
from mdslite.runtimes.protocol import (
    CPU,
    DATA_SIGNATURE,
    Answers,
    DataFeeds,
    LoadOptions,
    Signature,
    TensorSpec,
)
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.fleet import Served
from mdslite.serving.gate import Gate
from mdslite.serving.knobs import Knobs
from mdslite.serving.lane import Lane
from mdslite.serving.queue import Job
from mdslite.serving.replica import Replica
from mdslite.tensors import Codec, Columns

DOUBLER = Signature(
    (TensorSpec("x", "FP32", (None, None)),), (TensorSpec("y", "FP32", (None, None)),), "free"
)
BUCKET = Codec.bucket(((1,),))  # of rows with one value
POISON = -1.0
BAD = b'"bad"'


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def entered(session: FakeSession | FakeData) -> None:
    """Wait until a batch is being computed, or a session checked."""
    await asyncio.to_thread(session.entered.wait, 10)


def hold(is_set: bool) -> threading.Event:
    found = threading.Event()
    if is_set:
        found.set()
    return found


class Known(LatencyCurve):
    """Every run takes as long, or each row of it, whatever is seen of it."""

    def __init__(self, seconds: float, *, a_row: bool = False) -> None:
        super().__init__()
        self.seconds = seconds
        self._a_row = a_row

    def estimate(self, shape: Hashable, rows: int) -> float:
        return self.seconds * rows if self._a_row else self.seconds

    floor = estimate


class FakeHandle:
    def __init__(self) -> None:
        self.stopped = threading.Event()

    def terminate(self) -> None:
        self.stopped.set()


class FakeSession:
    """Doubles its input and remembers each batch. A row that starts with POISON fails its batch.

    `held`, or with `hold` cleared, runs wait until it is set or their handle is terminated.
    """

    signature = DOUBLER
    device = CPU
    provider = "Fake"
    threads = 1

    def __init__(
        self, *, held: bool = False, fail: Callable[[np.ndarray[Any, Any]], None] | None = None
    ) -> None:
        self.batches: list[np.ndarray[Any, Any]] = []
        self.hold = hold(not held)
        self.entered = threading.Event()
        self.closed = False
        self._fail = fail

    def handle(self) -> FakeHandle:
        return FakeHandle()

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]], handle: Any = None) -> list[Any]:
        rows = feeds["x"]
        self.batches.append(rows.copy())
        self.entered.set()
        while not self.hold.wait(0.005):
            if handle is not None and handle.stopped.is_set():
                raise DeadlineExceeded("terminated")
        if self._fail is not None:
            self._fail(rows)
        if (rows[:, 0] == POISON).any():
            raise ModelError("poison")
        return [rows * 2]

    def close(self) -> None:
        self.closed = True

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class FakeJob(Job):
    """A job of `rows`; `await job.answer()` gives its output rows or raises its error."""

    def __init__(self, rows: list[list[float]], *, deadline: float = 1e12) -> None:
        array = np.array(rows, dtype=np.float32)
        super().__init__(Columns(len(rows), (array.tobytes(),), (array.shape[1:],), "instances"))
        self.deadline = deadline
        self.times_resolved = 0
        self._done = asyncio.Event()

    def resolved(self) -> None:
        self.times_resolved += 1
        self._done.set()

    async def ended(self) -> None:
        await asyncio.wait_for(self._done.wait(), 10)
        if self.error is not None:
            raise self.error

    async def answer(self) -> list[list[float]]:
        await self.ended()
        ordered = sorted(self.pieces, key=lambda piece: piece[0])
        return [row for _, outputs in ordered for row in outputs[0].tolist()]


class FakeData:
    """A session of free data: answers each datum with itself, and b'"bad"' with an error of its own."""

    signature = DATA_SIGNATURE
    device = CPU
    provider = "Fake"
    threads = 1
    has_check = True

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.closed = False
        self.hold = hold(not held)  # cleared, runs and checks wait
        self.entered = threading.Event()
        self.handles: list[FakeHandle] = []
        self.failure: Exception | None = None  # what checks raise

    def handle(self) -> FakeHandle:
        self.handles.append(FakeHandle())
        return self.handles[-1]

    def check(self, handle: Any = None) -> None:
        self.entered.set()
        self.hold.wait(10)
        if self.failure is not None:
            raise self.failure

    def run(self, feeds: DataFeeds, handle: Any = None) -> list[Answers]:
        self.entered.set()
        self.hold.wait(10)
        data = list(feeds["data"])
        self.batches.append(data)
        rows = [ModelError(f"refused {at}") if datum is BAD else datum for at, datum in enumerate(data)]
        return [Answers(rows, confidences=[0.5 + at / 10 for at in range(len(rows))])]

    def close(self) -> None:
        self.closed = True


class FakeGenerator(FakeData):
    """Streams its datum's letters. `closed_by` tells what ended it early; deaf, it does not hear that."""

    def __init__(self, *, held: bool = False, deaf: bool = False, failure: Exception | None = None) -> None:
        super().__init__(held=held)
        self.failure = failure
        self.emitted = 0
        self.closed_by: BaseException | None = None
        self.ended = threading.Event()
        self._deaf = deaf

    def stream(self, feeds: DataFeeds, handle: Any, emit: Callable[[bytes], None]) -> list[Answers]:
        self.entered.set()
        (datum,) = feeds["data"]
        try:
            for letter in bytes(datum):
                emit(bytes([letter]))
                self.emitted += 1
                while not self.hold.wait(0.005):
                    if handle.stopped.is_set():
                        raise DeadlineExceeded("terminated")
            if self.failure is not None:
                return [Answers([self.failure])]
            return [Answers()]
        except BaseException as exc:
            self.closed_by = exc
            while self._deaf and not handle.stopped.wait(0.005):
                pass
            raise
        finally:
            self.ended.set()


class GivenRuntime:
    """A runtime of packages that opens the session it was given."""

    name = "PYTHON"

    def __init__(self, session: FakeData) -> None:
        self.session = session

    def open(self, path: Path, options: LoadOptions) -> Any:
        return self.session


class DataJob(FakeJob):
    """A job whose rows are data."""

    def __init__(self, *data: Any, deadline: float = 1e12) -> None:
        super().__init__([[0.0]], deadline=deadline)
        self.columns = Columns(len(data), (list(data),), ((),), "instances")
        self.heard: list[bytes] = []
        self.on_piece: Callable[[], None] | None = None

    def emitted(self, piece: bytes) -> None:
        self.heard.append(piece)
        if self.on_piece is not None:
            self.on_piece()

    async def answers(self) -> list[Any]:
        await self.ended()
        return [row for _, outputs in sorted(self.pieces, key=lambda piece: piece[0]) for row in outputs[0]]


def make_lane(
    *sessions: Any, gate: Gate | None = None, curve: LatencyCurve | None = None, **options: Any
) -> Lane:
    """A lane over fake sessions. Keywords of `Knobs` go there, the others to `Lane`."""
    loop = asyncio.get_running_loop()
    gate = gate or Gate(slots=8)
    names = Knobs.__dataclass_fields__
    knobs = Knobs(**{name: options.pop(name) for name in list(options) if name in names})
    return Lane(
        "p/m v1",
        codec=options.pop("codec", None) or Codec(DOUBLER),
        replicas=options.pop("replicas", None)
        or [
            Replica(session, name=f"local/{at}", gate=gate, loop=loop) for at, session in enumerate(sessions)
        ],
        knobs=knobs,
        curve=curve or LatencyCurve(),
        read_confidence=options.pop("read_confidence", lambda outputs: None),
        loop=loop,
        **options,
    )


def lane_of(served: Served) -> Lane:
    """That of a version which is computed here and is no pipeline."""
    assert isinstance(served.lane, Lane)
    return served.lane


def submit(lane: Lane, *jobs: FakeJob) -> None:
    for job in jobs:
        lane.submit(job, perf_counter())


def flat_curve(seconds: float = 100.0) -> LatencyCurve:
    """A model whose runs take as long whatever their rows."""
    curve = LatencyCurve()
    for rows in (1, 2, 4, 8, 16, 32):
        curve.observe(BUCKET, rows, seconds)
    return curve


def some_jobs(count: int, *, first: int = 1) -> list[FakeJob]:
    return [FakeJob([[float(number)]]) for number in range(first, first + count)]


async def busy_lane(session: FakeSession, **options: Any) -> tuple[Lane, list[FakeJob]]:
    """A lane of batches of two whose replica computes one and has another: four jobs are with it."""
    session.hold.clear()
    lane = make_lane(session, batch_size=2, **{"curve": flat_curve(), **options})
    jobs = some_jobs(4)
    submit(lane, *jobs)
    await until(lambda: lane.running == 2 and session.entered.is_set())
    return lane, jobs


async def answered(jobs: list[FakeJob]) -> None:
    for job in jobs:
        assert await job.answer() == [[2.0 * row for row in rows] for rows in rows_of(job)]
        assert job.times_resolved == 1


async def drained(lane: Lane, session: FakeSession, jobs: list[FakeJob]) -> None:
    """See a lane drain: not while its session holds the jobs, and once it lets go when they are done."""
    assert not await lane.drain(deadline_s=0.01)
    draining = asyncio.create_task(lane.drain(deadline_s=10))
    session.hold.set()
    assert await draining
    assert all(job.finished and job.error is None for job in jobs)


def rows_of(job: FakeJob) -> list[list[float]]:
    (column,) = job.columns.columns
    assert isinstance(column, bytes)
    array = np.frombuffer(column, dtype=np.float32)
    return [[value] for value in array.tolist()]


async def failure(job: FakeJob) -> str:
    try:
        await job.answer()
    except Exception as exc:
        return str(exc)
    return ""


def linear_curve(seconds: float) -> LatencyCurve:
    curve = LatencyCurve()
    for rows in (1, 2, 4, 8, 16, 32):
        curve.observe(BUCKET, rows, seconds * rows)
    return curve
