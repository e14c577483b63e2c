"""What it costs to run a Python class in a process of its own: time a datum at batch 32, and a restart.

Runs in mdslite's own environment: `python scripts/benchmarks/isolation.py [--json] [--seconds S]`. A turn
calls the class's method in a plain loop, then the same class inline, then isolated, on the same 32 data, and
copies these data twice, as they are on their way to a process and back; the middle of all turns counts.
Inline and isolated sessions take JSON texts and give JSON texts, or arrays for arrays.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from mdslite.runtimes.protocol import DataFeeds, DataSession, LoadOptions
from mdslite.runtimes.python import PythonRuntime

ROWS = 32
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


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from a crash to the first answer of a new process, opened at once."""

    noticed_s: float
    serving_s: float


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


def measure_restart(package: Path, *, restarts: int) -> Restart:
    """The middle of so many crashes."""
    runtime = PythonRuntime()
    noticed, serving = [], []
    for _ in range(restarts):
        session = runtime.open(package, LoadOptions())
        ended = threading.Event()
        session.watch(lambda reason, ended=ended: ended.set())
        begun = perf_counter()
        os.kill(session.pid, signal.SIGKILL)
        if not ended.wait(10):
            raise RuntimeError("the end of a process was not noticed")
        noticed.append(perf_counter() - begun)
        session.close()
        fresh = runtime.open(package, LoadOptions())
        fresh.run(_feeds([b"[1]"]))
        serving.append(perf_counter() - begun)
        fresh.close()
    return Restart(statistics.median(noticed), statistics.median(serving))


def render(crossings: Sequence[Crossing], restart: Restart) -> str:
    heads = "".join(f"{head:>10}" for head in ("loop", "inline", "isolated", "added", "copies"))
    lines = [f"{'at batch 32, us a datum':26}{heads}"]
    for one in crossings:
        figures = (one.loop_us, one.inline_us, one.isolated_us, one.added_us, one.copies_us)
        lines.append(f"{one.data:26}{''.join(f'{figure:10.1f}' for figure in figures)}")
    noticed, serving = f"{restart.noticed_s * 1000:.0f} ms", f"{restart.serving_s:.2f} s"
    lines.append(f"a crash is noticed after {noticed}, and a new process answers {serving} after it")
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
        restart = measure_restart(package, restarts=options.restarts)
    if options.json:
        found = [asdict(one) | {"added_us": one.added_us} for one in crossings]
        print(json.dumps({"crossings": found, "restart": asdict(restart)}, indent=2))
    else:
        print(render(crossings, restart))
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


class _Plain:
    """The class of the package without anything around it, one datum at a time."""

    def predict(self, one: Any) -> Any:
        return one if isinstance(one, np.ndarray) else {"answer": one[0], "length": len(one)}


def _feeds(data: Sequence[Any]) -> DataFeeds:
    return {"data": data, "confidence": None, "tensors": isinstance(data[0], np.ndarray)}


if __name__ == "__main__":
    sys.exit(main())
