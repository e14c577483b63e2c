"""What routing among many versions costs a request, and what a shadow does to the primary's latency."""

from __future__ import annotations

import json
import timeit
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import Bench, Contender, predict_path
from benchmarks.estimate import estimate, estimate_ratio
from benchmarks.models import TINY, Workload
from benchmarks.turns import Effort, Say, Turns, start, take_turns
from mdslite.intervals import Estimate
from mdslite.serving.router import Route, Router, weighted_cycle

MANY = 100
# Takes the tiny model's requests and some thirty times as long for each.
SLOW = Workload("slow", (64, 1024, 1024, 10))
CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class RoutingCost:
    """Microseconds a request more with many versions than with one.

    `pick` is the choice alone: to look the URL up and to take a turn among many versions of equal weight.
    `deployed` is processor time, all that a request needs, where the others are deployed and have no weight;
    `spread` where all have the same, and then pays for it that requests of different versions share no batch.
    """

    versions: int
    pick_us: float
    one_us: float  # of a request, with one version
    deployed: Estimate
    spread: Estimate


@dataclass(frozen=True, slots=True)
class ShadowCost:
    """The primary's p99 with a shadow divided by that without: the geometric mean over the turns."""

    percent: int
    without_ms: float
    with_ms: float
    ratio: Estimate
    failed: int


def measure_routing(bench: Bench, effort: Effort, say: Say) -> RoutingCost:
    say(f"routing among 1 and {MANY} versions, {CONNECTIONS} connections")
    model = str(bench.model(TINY))

    def versions(count: int, weight: int) -> list[dict[str, Any]]:
        first = {"version": "v0", "weight": 1, "spec": {"uri": model}}
        return [first, *({**first, "version": f"v{at}", "weight": weight} for at in range(1, count))]

    boxes = {"one": versions(1, 1), "deployed": versions(MANY, 0), "spread": versions(MANY, 1)}
    with ExitStack() as stack:
        running = [start(stack, bench, TINY, _appliance(bench, name, found)) for name, found in boxes.items()]
        one, deployed, spread = take_turns(bench, TINY, running, effort, connections=CONNECTIONS)
    base = _cpu_us(one)
    return RoutingCost(
        MANY,
        time_picks(MANY) - time_picks(1),
        one.cpu_us,
        estimate([theirs - own for own, theirs in zip(base, _cpu_us(deployed), strict=True)]),
        estimate([theirs - own for own, theirs in zip(base, _cpu_us(spread), strict=True)]),
    )


@dataclass(slots=True)
class _Target:
    version: str
    project: str = "bench"
    model: str = "tiny"


def time_picks(count: int, *, picks: int = 200_000) -> float:
    """Microseconds to find a URL's route and a version of `count`; the least of five."""
    targets = [_Target(f"v{at}") for at in range(count)]
    cycle = [targets[at] for at in weighted_cycle([1.0] * count)]
    own = [Route("bench", "tiny", one.version, [one]) for one in targets]
    router: Router[_Target] = Router()
    router.replace([Route("bench", "tiny", None, cycle), *own])
    url = predict_path(TINY).encode()
    seconds = timeit.repeat(lambda: router.get(url).pick(), number=picks, repeat=5)  # type: ignore[union-attr]
    return min(seconds) / picks * 1e6


def measure_shadows(bench: Bench, effort: Effort, say: Say) -> list[ShadowCost]:
    """A shadow that takes far longer than its primary gets a share of the traffic, and then all of it.

    Five times as many turns as elsewhere, of one second each: one p99 says little on a small machine.
    """
    primary: dict[str, Any] = {"version": "v1", "weight": 100, "spec": {"uri": str(bench.model(TINY))}}
    turns = Effort(seconds=1, rounds=5 * effort.rounds)
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
            alone, shadowed = take_turns(bench, TINY, running, turns, connections=CONNECTIONS)
        pairs = zip(alone.loads, shadowed.loads, strict=True)
        found = estimate_ratio([theirs.p99_ms / own.p99_ms for own, theirs in pairs])
        costs.append(
            ShadowCost(
                percent,
                alone.p99_ms,
                shadowed.p99_ms,
                found,
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
