"""Python packages: what a lane adds to calling their class, how soon they are back, and whom they disturb."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Bench, Contender, Running, predict_path
from benchmarks.load import Load, run_load
from benchmarks.models import TINY
from benchmarks.package_cost import LaneCost, Restart
from benchmarks.turns import WARM_S, Effort, Say

ISOLATION = "benchmarks.isolation"
CONNECTIONS = 32
SETTLE_S = 0.25  # what burns begins so long before the load, and ends as long after it
MARGIN_S = 120.0
# Computes for as long as it is asked to, in Python and nothing else, and says how much of a core it had.
BURN = """
import time

def burn(seconds):
    until, before = time.perf_counter() + seconds, time.process_time()
    number = 0
    while time.perf_counter() < until:
        for step in range(1000):
            number = (number * 31 + step) % 1000003
    return (time.process_time() - before) / seconds
"""
PACKAGE = (
    BURN
    + """
import mds

@mds.model("burner", "v1")
class Burner:
    @mds.predict
    def predict(self, data):
        return burn(float(data))
"""
)
UNRELATED = BURN + "\nimport sys\n\nprint(burn(float(sys.argv[1])))\n"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Requests a second that an ONNX model answers: with nothing beside it, while an unrelated process burns
    a core, and while a package of the same appliance does. `ratio` is the last by the one before: the median
    over the turns. `burnt` is the share of a core that each burner had."""

    free_per_s: float
    unrelated_per_s: float
    package_per_s: float
    ratio: float
    unrelated_burnt: float
    package_burnt: float
    failed: int


def measure_lanes(bench: Bench, effort: Effort, say: Say) -> tuple[list[LaneCost], Restart]:
    """Runs in mdslite's environment, whose lanes it takes without the rest."""
    say("a lane's cost at batch 32, and restarts")
    seconds, restarts = effort.seconds * min(effort.rounds, 3) / 2, min(effort.rounds, 5)
    command = [str(bench.mdslite.with_name("python")), "-P", "-m", ISOLATION, "--json"]
    command += ["--seconds", str(seconds), "--restarts", str(restarts)]
    limit_s = 5 * seconds + MARGIN_S
    found = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if found.returncode:
        raise RuntimeError(f"{ISOLATION} failed: {found.stderr[-2000:]}")
    figures = json.loads(found.stdout)
    return [LaneCost(**one) for one in figures["lanes"]], Restart(**figures["restart"])


def measure_neighbour(bench: Bench, effort: Effort, say: Say) -> Neighbour:
    """One appliance serves both all the time; what changes from turn to turn is who burns."""
    folder = bench.folder / "neighbour"
    folder.mkdir()
    (folder / "unrelated.py").write_text(UNRELATED)
    body = bench.body(TINY)
    turns: dict[str, list[Load]] = {"nobody": [], "unrelated": [], "package": []}
    burnt: dict[str, list[float]] = {"nobody": [], "unrelated": [], "package": []}
    with Running(_appliance(bench, folder), body=body, folder=folder / "run") as running:
        run_load(running.url, body=body, connections=CONNECTIONS, seconds=WARM_S)
        for number in range(effort.rounds):
            say(f"an ONNX model beside a package that burns a core, turn {number + 1} of {effort.rounds}")
            for who, loads in turns.items():
                with _burning(running, who, folder, effort.seconds + 2 * SETTLE_S, burnt[who]):
                    loads.append(
                        run_load(running.url, body=body, connections=CONNECTIONS, seconds=effort.seconds)
                    )
    pairs = zip(turns["unrelated"], turns["package"], strict=True)
    return Neighbour(
        free_per_s=_speed(turns["nobody"]),
        unrelated_per_s=_speed(turns["unrelated"]),
        package_per_s=_speed(turns["package"]),
        ratio=statistics.median(ours.requests_per_s / theirs.requests_per_s for theirs, ours in pairs),
        unrelated_burnt=statistics.median(burnt["unrelated"]),
        package_burnt=statistics.median(burnt["package"]),
        failed=sum(load.failed for loads in turns.values() for load in loads),
    )


def _speed(loads: Sequence[Load]) -> float:
    return statistics.median(load.requests_per_s for load in loads)


def _appliance(bench: Bench, folder: Path) -> Contender:
    package = folder / "burner.py"
    package.write_text(PACKAGE)
    models: dict[str, tuple[Path, dict[str, Any]]] = {
        TINY.name: (bench.model(TINY), {}),
        "burner": (package, {"batch": {"prediction_time_ms": 600_000}}),
    }
    deployments = [
        {
            "project": "bench",
            "model": name,
            "versions": [{"version": "v1", "spec": {"uri": str(uri), **spec}}],
        }
        for name, (uri, spec) in models.items()
    ]
    file = folder / "deployments.json"
    file.write_text(json.dumps({"deployments": deployments}))
    command = [str(bench.mdslite), "up", str(file), "--port", "PORT", "--store", "STORE"]
    return Contender("neighbour", "mdslite", command, predict_path(TINY))


@contextmanager
def _burning(running: Running, who: str, folder: Path, seconds: float, burnt: list[float]) -> Iterator[None]:
    """Let somebody burn a core for so long; the block ends within that time."""

    def burn() -> float:
        if who == "package":
            path = "/projects/bench/models/burner:predict"
            body = json.dumps({"instances": [seconds]}).encode()
            return float(json.loads(running.ask(path, body))["predictions"][0])
        command = [sys.executable, str(folder / "unrelated.py"), str(seconds)]
        # In a session of its own, like a package: on Linux sessions may share the cores evenly.
        done = subprocess.run(command, capture_output=True, check=True, start_new_session=True)
        return float(done.stdout)

    if who == "nobody":
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        burning = pool.submit(burn)
        time.sleep(SETTLE_S)
        yield
        burnt.append(burning.result())
