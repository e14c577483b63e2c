"""`python -m benchmarks`: measures the parts that were asked for and prints them. Run by `scripts/bench`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.changes import measure_changes
from benchmarks.contenders import Bench
from benchmarks.forms import measure_forms
from benchmarks.journal import count_log, measure_log_cost
from benchmarks.limit import measure_limit
from benchmarks.options import PARTS, parse
from benchmarks.overload import measure_overload
from benchmarks.packages import measure_lanes, measure_neighbour
from benchmarks.queries import measure_queries
from benchmarks.report import WORKLOADS, Results, render, to_plain
from benchmarks.routing import measure_routing, measure_shadows
from benchmarks.spam import measure_spam
from benchmarks.start import measure_start
from benchmarks.throughput import measure_throughput
from benchmarks.turns import Effort
from benchmarks.written import measure_written

COMPARED = ("onnxruntime-gpu", "onnxruntime", "mosec", "uvicorn", "hypercorn", "starlette")
BUSY_LOAD = 0.5


def main() -> int:
    options = parse()
    effort = Effort(seconds=options.seconds, rounds=options.rounds)
    results = Results(describe_machine())
    busy = os.getloadavg()[0]
    if busy > BUSY_LOAD:
        say(f"other programs are at work here (load average {busy:.1f}): the figures will be noisy")
    frameworks = options.frameworks if options.frameworks and options.frameworks.exists() else None
    with tempfile.TemporaryDirectory(prefix="mdslite-bench-") as folder:
        bench = Bench(Path(folder), options.mdslite, frameworks)
        complete = measure(results, bench, effort, options.only or PARTS, rows=options.rows)
    print(json.dumps(to_plain(results), indent=2) if options.json else render(results))
    return 0 if complete else 1


def measure(results: Results, bench: Bench, effort: Effort, parts: Sequence[str], *, rows: int) -> bool:
    """Measure each part into `results`; a part that fails says why and takes no other with it."""

    def throughput() -> None:
        for workload in WORKLOADS:
            results.cells += measure_throughput(bench, workload, effort, say)

    def limit() -> None:
        for workload in WORKLOADS:
            say(f"{workload.label}, bare onnxruntime")
            model = bench.model(workload)
            results.limits[workload.name] = measure_limit(workload, model, seconds=effort.seconds / 8)

    def log() -> None:
        results.log_costs = measure_log_cost(bench, effort, say)
        results.log_count = count_log(bench, effort, say)
        results.written = measure_written(bench, effort, say)

    def overload() -> None:
        results.overloads = measure_overload(bench, effort, say)

    def forms() -> None:
        results.forms = measure_forms(bench, effort, say)

    def rpc() -> None:
        from benchmarks.rpc import measure_rpc  # needs gRPC, which no other part does

        results.rpc = measure_rpc(bench, effort, say)

    def routing() -> None:
        results.routing = measure_routing(bench, effort, say)
        results.shadows = measure_shadows(bench, effort, say)

    def start() -> None:
        results.start = measure_start(bench, say)

    def changes() -> None:
        results.changes = measure_changes(bench, effort, say)

    def packages() -> None:
        results.lanes, results.restart = measure_lanes(bench, effort, say)
        results.neighbour = measure_neighbour(bench, effort, say)

    def queries() -> None:
        results.queries = measure_queries(bench, effort, say, rows=rows)

    def spam() -> None:
        results.spam = measure_spam(bench, effort, say)

    complete = True
    served = (throughput, limit, log, overload, forms, rpc, routing)
    for part in (*served, start, changes, packages, queries, spam):
        if part.__name__ not in parts:
            continue
        try:
            part()
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
            complete = False
            say(f"{part.__name__} could not be measured: {exc}")
    return complete


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def describe_machine() -> dict[str, Any]:
    found = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in COMPARED if name in found)
    return {
        "cores": os.cpu_count(),
        "cpu": read_cpu_name(),
        "python": platform.python_version(),
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def read_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
