"""Weight changes and version swaps under load: does a request fail, does anybody wait."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Bench, Running, mdslite, write_deployments
from benchmarks.load import Load, run_load
from benchmarks.models import TINY
from benchmarks.turns import WARM_S, Effort, Say

CONNECTIONS = 32
CHANGE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of change applied again and again under load, beside turns without any."""

    kind: str
    applied: int
    requests: int
    failed: int
    baseline_p99_ms: float
    p99_ms: float
    ratio: float


def measure_changes(bench: Bench, effort: Effort, say: Say) -> list[Change]:
    first, second = bench.model(TINY), bench.model(TINY, seed=8)
    weights = [{"v1": (first, 80), "v2": (second, 20)}, {"v1": (first, 20), "v2": (second, 80)}]
    swaps = [{"v1": (first, 100)}, {"v1": (second, 100)}]
    return [
        _measure_change(bench, effort, "weight change", weights, say),
        _measure_change(bench, effort, "version swap", swaps, say),
    ]


def _measure_change(
    bench: Bench, effort: Effort, kind: str, states: Sequence[dict[str, tuple[Path, int]]], say: Say
) -> Change:
    sources = [write_deployments(TINY, state) for state in states]
    body = bench.body(TINY)
    calm: list[Load] = []
    changed: list[Load] = []
    with Running(mdslite(bench, TINY), body=body, folder=bench.folder / kind.replace(" ", "-")) as running:
        changer = Changer(running, sources)
        changer.apply()
        run_load(running.url, body=body, connections=CONNECTIONS, seconds=WARM_S)
        for number in range(effort.rounds):
            say(f"{kind} under load, turn {number + 1} of {effort.rounds}")
            calm.append(run_load(running.url, body=body, connections=CONNECTIONS, seconds=effort.seconds))
            with changer.busy():
                load = run_load(running.url, body=body, connections=CONNECTIONS, seconds=effort.seconds)
            changed.append(load)
    pairs = zip(calm, changed, strict=True)
    return Change(
        kind=kind,
        applied=changer.applied - 1,  # the first was before the load
        requests=sum(load.requests for load in changed),
        failed=sum(load.failed for load in changed),
        baseline_p99_ms=statistics.median(load.p99_ms for load in calm),
        p99_ms=statistics.median(load.p99_ms for load in changed),
        ratio=statistics.median(busy.p99_ms / quiet.p99_ms for quiet, busy in pairs),
    )


class Changer:
    """Applies one source after the other, the last one first: the appliance was started on the first."""

    def __init__(self, running: Running, sources: Sequence[str]) -> None:
        self._running = running
        self._sources = itertools.cycle([sources[-1], *sources[:-1]])
        self.applied = 0

    def apply(self) -> None:
        order = {"source": next(self._sources), "file": "bench.yaml", "base": str(self._running.folder)}
        reply = json.loads(self._running.ask("/api/v1/apply", json.dumps(order).encode()))
        if reply["state"] != "applied":
            raise RuntimeError(f"the apply did not go through: {reply}")
        self.applied += 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Apply every CHANGE_EVERY_S from a thread while the block runs; raise here what failed there."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.wait(CHANGE_EVERY_S):
                self.apply()

        with ThreadPoolExecutor(1) as pool:
            applying = pool.submit(run)
            try:
                yield
            finally:
                stopping.set()
            applying.result()
