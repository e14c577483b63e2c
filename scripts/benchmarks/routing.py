"""What routing among many versions costs a request, and what a shadow does to the primary's latency."""

from __future__ import annotations

import json
import math
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Bench, Contender, predict_path
from benchmarks.models import TINY, Workload
from benchmarks.turns import Effort, Say, Turns, start, take_turns

MANY = 100
# Takes the tiny model's requests and some thirty times as long for each.
SLOW = Workload("slow", (64, 1024, 1024, 10))
CONNECTIONS = 8
# Two-sided Student quantiles at 95 %, by degrees of freedom.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True, slots=True)
class RoutingCost:
    """Processor time a request with one version and with many, in microseconds."""

    versions: int
    one_us: float
    many_us: float
    added_us: float  # median over the turns


@dataclass(frozen=True, slots=True)
class ShadowCost:
    """The primary's p99 with a shadow divided by that without: mean over the turns, and its 95 % interval."""

    percent: int
    without_ms: float
    with_ms: float
    ratio: float
    low: float
    high: float
    failed: int


def measure_routing(bench: Bench, effort: Effort, say: Say) -> RoutingCost:
    say(f"routing among 1 and {MANY} versions, {CONNECTIONS} connections")
    model = str(bench.model(TINY))
    many = [
        {"version": f"v{number}", "weight": 1 + number % 7, "spec": {"uri": model}} for number in range(MANY)
    ]
    with ExitStack() as stack:
        running = [
            start(stack, bench, TINY, _appliance(bench, name, versions))
            for name, versions in (("one", many[:1]), ("many", many))
        ]
        one, hundred = take_turns(bench, TINY, running, effort, connections=CONNECTIONS)
    differences = [theirs - own for own, theirs in zip(_cpu_us(one), _cpu_us(hundred), strict=True)]
    return RoutingCost(MANY, one.cpu_us, hundred.cpu_us, statistics.median(differences))


def measure_shadows(bench: Bench, effort: Effort, say: Say) -> list[ShadowCost]:
    """A shadow that takes far longer than its primary gets a share of the traffic, and then all of it."""
    primary: dict[str, Any] = {"version": "v1", "weight": 100, "spec": {"uri": str(bench.model(TINY))}}
    costs = []
    for percent in (10, 100):
        say(f"a slow shadow of {percent} % of the traffic, {CONNECTIONS} connections")
        info = {"shadow": True, "shadow_percent": percent}
        shadow: dict[str, Any] = {
            "version": "v2",
            "spec": {"uri": str(bench.model(SLOW)), "service_info": info},
        }
        with ExitStack() as stack:
            running = [
                start(stack, bench, TINY, _appliance(bench, f"{name}-{percent}", versions))
                for name, versions in (("alone", [primary]), ("shadowed", [primary, shadow]))
            ]
            alone, shadowed = take_turns(bench, TINY, running, effort, connections=CONNECTIONS)
        ratios = [theirs.p99_ms / own.p99_ms for own, theirs in zip(alone.loads, shadowed.loads, strict=True)]
        low, high = _interval(ratios)
        costs.append(
            ShadowCost(
                percent,
                alone.p99_ms,
                shadowed.p99_ms,
                statistics.fmean(ratios),
                low,
                high,
                alone.failed + shadowed.failed,
            )
        )
    return costs


def _appliance(bench: Bench, name: str, versions: list[dict[str, Any]]) -> Contender:
    file = bench.folder / f"routing-{name}.yaml"
    deployment = {"project": "bench", "model": TINY.name, "versions": versions}
    Path(file).write_text(json.dumps({"deployments": [deployment]}))
    command = [str(bench.mdslite), "up", str(file), "--port", "PORT", "--store", "STORE"]
    return Contender(f"routing-{name}", name, command, predict_path(TINY))


def _cpu_us(turns: Turns) -> list[float]:
    pairs = zip(turns.cpu_s, turns.loads, strict=True)
    return [cpu_s / max(load.requests, 1) * 1e6 for cpu_s, load in pairs]


def _interval(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return 0.0, math.inf
    freedom = len(values) - 1
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 2.0
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
