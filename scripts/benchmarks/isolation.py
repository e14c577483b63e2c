"""What it costs to run a Python class in a process of its own: time a datum at batch 32, and a restart.

Runs in mdslite's own environment: `PYTHONPATH=scripts python -m benchmarks.isolation [--json]`. A turn
calls the class's method in a plain loop, then the same class inline, then isolated, on the same 32 data, and
copies these data twice, as they are on their way to a process and back; the middle of all turns counts.
Inline and isolated sessions take JSON texts and give JSON texts, or arrays for arrays. Then the same through
lanes, as requests come: 32 jobs of one datum each, from the first one's submission to the last one's answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from benchmarks.package_cost import LaneCost, Restart
from mdslite.data import DataCodec
from mdslite.errors import MdsliteError
from mdslite.runtimes.devices import Devices
from mdslite.runtimes.isolated import IsolatedSession
from mdslite.runtimes.protocol import DataFeeds, DataSession, LoadOptions
from mdslite.runtimes.python import PythonRuntime
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.lane import Lane
from mdslite.serving.loader import LoadRequest
from mdslite.serving.queue import Job
from mdslite.spec import Spec
from mdslite.tensors import Columns

ROWS = 32
RESTART_LIMIT_S = 30.0
RETRY_S = 0.005
PROBE_LIMIT_S = 60.0
WARM_BURSTS = 20
# Answers each row with a small dict; arrays with themselves, so that each tensor crosses both ways.
PACKAGE = """
import mds
import numpy as np

@mds.model("bench", "v1")
class Bench:
    @mds.predict
    @mds.batch(batch_size=32)
    def predict(self, data):
        return [self.answer(one) for one in data]

    def answer(self, one):
        return one if isinstance(one, np.ndarray) else {"answer": one[0], "length": len(one)}
"""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Microseconds a datum. `added_us` is what isolation adds to the plain loop; copying the data once each
    way takes `copies_us` of it in any case."""

    data: str
    loop_us: float
    inline_us: float
    isolated_us: float
    copies_us: float

    @property
    def added_us(self) -> float:
        return self.isolated_us - self.loop_us


def measure_crossings(package: Path, *, seconds: float) -> list[Crossing]:
    """Each kind of data for `seconds`."""
    rng = np.random.default_rng(7)
    floats = [rng.random(64, np.float32) for _ in range(ROWS)]
    images = [rng.random((3, 224, 224), np.float32) for _ in range(ROWS)]
    texts = [json.dumps(one.tolist()).encode() for one in floats]
    runtime = PythonRuntime()
    inline = runtime.open(package, LoadOptions(isolation="inline"))
    isolated = runtime.open(package, LoadOptions())
    try:
        return [
            _measure("64 floats, JSON", texts, [one.tolist() for one in floats], inline, isolated, seconds),
            _measure("64 floats, array", floats, floats, inline, isolated, seconds),
            _measure("3x224x224 float32, array", images, images, inline, isolated, seconds),
        ]
    finally:
        inline.close()
        isolated.close()


async def measure_lanes(package: Path, *, seconds: float) -> list[LaneCost]:
    """Each kind of data for `seconds`."""
    rng = np.random.default_rng(7)
    floats = [rng.random(64, np.float32) for _ in range(ROWS)]
    lists = [one.tolist() for one in floats]
    texts = [json.dumps(one).encode() for one in lists]
    async with _serving(package, "inline") as inline, _serving(package, "process") as isolated:
        return [
            await _measure_lanes("64 floats, JSON", texts, lists, inline, isolated, seconds),
            await _measure_lanes("64 floats, array", floats, floats, inline, isolated, seconds),
        ]


async def measure_restart(package: Path, *, restarts: int) -> Restart:
    """The middle of so many crashes, each the first of its version: later ones wait longer by design."""
    serving, loads = [], []
    for _ in range(restarts):
        async with _serving(package, "process") as served:
            await _answer(served, [b"[1]"])
            begun = perf_counter()
            os.kill(_process_id(served), signal.SIGKILL)
            while True:
                if perf_counter() - begun > RESTART_LIMIT_S:
                    raise RuntimeError("a package that crashed did not come back")
                try:
                    await _answer(served, [b"[1]"])
                except MdsliteError:
                    await asyncio.sleep(RETRY_S)
                else:
                    break
            serving.append(perf_counter() - begun)
            loads.append(served.load_s)
    return Restart(statistics.median(serving), statistics.median(loads))


def render(crossings: Sequence[Crossing], lanes: Sequence[LaneCost], restart: Restart) -> str:
    heads = "".join(f"{head:>10}" for head in ("loop", "inline", "isolated", "added", "copies"))
    lines = [f"{'at batch 32, us a datum':26}{heads}"]
    for one in crossings:
        figures = (one.loop_us, one.inline_us, one.isolated_us, one.added_us, one.copies_us)
        lines.append(f"{one.data:26}{''.join(f'{figure:10.1f}' for figure in figures)}")
    lines.append("through a lane")
    for lane in lanes:
        columns = (lane.loop_us, lane.inline_us, lane.isolated_us, lane.isolated_us - lane.loop_us)
        lines.append(f"{lane.data:26}{''.join(f'{column:10.1f}' for column in columns)}")
    lines.append(
        f"a new process answers {restart.serving_s:.2f} s after a crash; loading takes {restart.load_s:.2f} s"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each kind of data is measured")
    parser.add_argument("--restarts", type=int, default=5, help="how many crashes are measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mdslite-bench-") as folder:
        package = Path(folder) / "bench.py"
        package.write_text(PACKAGE)
        crossings = measure_crossings(package, seconds=options.seconds)
        lanes = asyncio.run(measure_lanes(package, seconds=options.seconds))
        restart = asyncio.run(measure_restart(package, restarts=options.restarts))
    if options.json:
        found = [asdict(one) | {"added_us": one.added_us} for one in crossings]
        plain = {"crossings": found, "lanes": [asdict(one) for one in lanes], "restart": asdict(restart)}
        print(json.dumps(plain, indent=2))
    else:
        print(render(crossings, lanes, restart))
    return 0


def _measure(
    name: str,
    data: Sequence[Any],
    values: Sequence[Any],
    inline: DataSession,
    isolated: DataSession,
    seconds: float,
) -> Crossing:
    feeds = _feeds(data)
    predict = _Plain().predict
    sources = [np.frombuffer(one, np.uint8) if isinstance(one, bytes) else one.view(np.uint8) for one in data]
    targets = [np.zeros_like(one) for one in sources]

    def copy() -> None:
        for source, target in zip(sources, targets, strict=True):
            np.copyto(target, source)
        for source, target in zip(sources, targets, strict=True):
            np.copyto(target, source)

    ways: list[Callable[[], object]] = [
        lambda: [predict(value) for value in values],
        lambda: inline.run(feeds),
        lambda: isolated.run(feeds),
        copy,
    ]
    took: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    until = perf_counter() + seconds
    while perf_counter() < until:
        for way, times in zip(ways, took, strict=True):
            begun = perf_counter()
            way()
            times.append(perf_counter() - begun)
    loop, inside, outside, copies = (statistics.median(times) * 1e6 / ROWS for times in took)
    return Crossing(name, loop, inside, outside, copies)


async def _measure_lanes(
    name: str,
    data: Sequence[Any],
    values: Sequence[Any],
    inline: Served,
    isolated: Served,
    seconds: float,
) -> LaneCost:
    predict = _Plain().predict
    for _ in range(WARM_BURSTS):
        await _answer(inline, data)
        await _answer(isolated, data)
    loops: list[float] = []
    inside: list[tuple[float, float]] = []
    outside: list[tuple[float, float]] = []
    until = perf_counter() + seconds
    while perf_counter() < until:
        begun = perf_counter()
        for value in values:
            predict(value)
        loops.append(perf_counter() - begun)
        inside.append(await _answer(inline, data))
        outside.append(await _answer(isolated, data))
    loop, inline_s, isolated_s = (
        statistics.median(times) / len(data)
        for times in (loops, [took for took, _ in inside], [took for took, _ in outside])
    )
    return LaneCost(
        name,
        loop * 1e6,
        inline_s * 1e6,
        statistics.fmean(rows for _, rows in inside),
        isolated_s * 1e6,
        statistics.fmean(rows for _, rows in outside),
    )


class _Burst:
    """Jobs that come at once; `done` when the last of them is answered."""

    def __init__(self, columns: Sequence[Columns]) -> None:
        self.left = len(columns)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.jobs = [_BurstJob(one, self) for one in columns]


class _BurstJob(Job):
    def __init__(self, columns: Columns, burst: _Burst) -> None:
        super().__init__(columns)
        self.deadline = math.inf
        self._burst = burst

    def resolved(self) -> None:
        self._burst.left -= 1
        if not self._burst.left and not self._burst.done.done():
            self._burst.done.set_result(None)


async def _answer(served: Served, data: Sequence[Any]) -> tuple[float, float]:
    """Seconds until requests of one datum each are answered, and how many of them shared a batch.

    :raises MdsliteError: one of them failed
    """
    codec = served.codec
    assert isinstance(codec, DataCodec)
    take = codec.take if isinstance(data[0], np.ndarray) else codec.from_data
    burst = _Burst([take([one]) for one in data])
    begun = perf_counter()
    for job in burst.jobs:
        served.lane.submit(job, perf_counter())
    await burst.done
    took_s = perf_counter() - begun
    for job in burst.jobs:
        if job.error is not None:
            raise job.error
    return took_s, statistics.fmean(job.batch_rows for job in burst.jobs)


def _process_id(served: Served) -> int:
    """Of the only replica of a package that is isolated."""
    assert isinstance(served.lane, Lane)
    session = served.lane.replicas[0].session
    assert isinstance(session, IsolatedSession)
    return session.pid


@asynccontextmanager
async def _serving(package: Path, isolation: Literal["process", "inline"]) -> AsyncIterator[Served]:
    """The package as the appliance serves it, behind no HTTP."""
    runtime = PythonRuntime()
    report = await asyncio.to_thread(runtime.probe, package, LoadOptions(), timeout_s=PROBE_LIMIT_S)
    devices = Devices(reason="packages compute on the CPU")
    fleet = Fleet(runtimes={runtime.name: runtime}, devices=devices, cores=os.cpu_count() or 1)
    spec = Spec(uri=str(package), isolation=isolation)
    request = LoadRequest("bench", isolation, "v1", spec, "sha256:0", package, report, runtime.name, "MDS")
    try:
        served = await fleet.load(request)
        fleet.switch(added=[served])
        yield served
    finally:
        await fleet.close(grace_s=10)


class _Plain:
    """The class of the package without anything around it, one datum at a time."""

    def predict(self, one: Any) -> Any:
        return one if isinstance(one, np.ndarray) else {"answer": one[0], "length": len(one)}


def _feeds(data: Sequence[Any]) -> DataFeeds:
    return {"data": data, "confidence": None, "tensors": isinstance(data[0], np.ndarray)}


if __name__ == "__main__":
    sys.exit(main())
