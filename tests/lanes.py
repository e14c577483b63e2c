"""Stand-ins for the parts around a lane: a session under the test's control, and jobs that remember."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mdslite.errors import DeadlineExceeded, ModelError
from mdslite.runtimes.protocol import CPU, Signature, TensorSpec
from mdslite.serving.batch import Replica
from mdslite.serving.curve import LatencyCurve
from mdslite.serving.gate import Gate
from mdslite.serving.knobs import Knobs
from mdslite.serving.lane import Lane
from mdslite.serving.queue import Job
from mdslite.tensors import Codec, Columns

DOUBLER = Signature(
    (TensorSpec("x", "FP32", (None, None)),), (TensorSpec("y", "FP32", (None, None)),), "free"
)
POISON = -1.0


class FakeHandle:
    def __init__(self) -> None:
        self.stopped = threading.Event()

    def terminate(self) -> None:
        self.stopped.set()


class FakeSession:
    """Doubles its input and remembers each batch. A row that starts with POISON fails its batch.

    With `hold` cleared, runs wait until it is set or their handle is terminated.
    """

    signature = DOUBLER
    device = CPU
    provider = "Fake"
    threads = 1

    def __init__(self, *, fail: Callable[[np.ndarray[Any, Any]], None] | None = None) -> None:
        self.batches: list[np.ndarray[Any, Any]] = []
        self.hold = threading.Event()
        self.hold.set()
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
        self.columns = Columns(len(rows), (array.tobytes(),), (array.shape[1:],), "instances")
        self.deadline = deadline
        self.times_resolved = 0
        self._done = asyncio.Event()

    def resolved(self) -> None:
        self.times_resolved += 1
        self._done.set()

    async def answer(self) -> list[list[float]]:
        await asyncio.wait_for(self._done.wait(), 10)
        if self.error is not None:
            raise self.error
        ordered = sorted(self.pieces, key=lambda piece: piece[0])
        return [row for _, outputs in ordered for row in outputs[0].tolist()]


def make_lane(
    *sessions: FakeSession, gate: Gate | None = None, curve: LatencyCurve | None = None, **options: Any
) -> Lane:
    """A lane over fake sessions. Keywords of `Knobs` go there, the others to `Lane`."""
    loop = asyncio.get_running_loop()
    gate = gate or Gate(slots=8)
    names = Knobs.__dataclass_fields__
    knobs = Knobs(**{name: options.pop(name) for name in list(options) if name in names})
    return Lane(
        "p/m v1",
        codec=Codec(DOUBLER),
        replicas=[
            Replica(session, name=f"local/{at}", gate=gate, loop=loop) for at, session in enumerate(sessions)
        ],
        knobs=knobs,
        curve=curve or LatencyCurve(),
        read_confidence=options.pop("read_confidence", lambda outputs: None),
        loop=loop,
        **options,
    )
