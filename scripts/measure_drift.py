"""Measures the watch for drift on made traffic: how often a healthy version raises an alarm, and how surely
and how soon a change of known size is found.

    python scripts/measure_drift.py [--healthy VERSIONS] [--trials N] [--only WORDS] [--seed S]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from drift_traffic import DAY_PANES, Traffic, delay, learn, live

_HEALTHY = {
    "no rhythm": Traffic(),
    "little traffic: 12 requests in ten minutes": Traffic(requests=12, rows=12),
    "a day's rhythm": Traffic(rhythm=1.0),
    "bursts: every ten minutes stray on their own": Traffic(burst=0.5),
    "rhythm and bursts": Traffic(rhythm=1.0, burst=0.5),
}
_CHANGES: list[tuple[str, str, dict[str, Any]]] = [
    ("an input moves by 0.25 deviations", "input.x0", {"shift": 0.25}),
    ("an input moves by 0.35 deviations", "input.x0", {"shift": 0.35}),
    ("an input moves by 0.5 deviations", "input.x0", {"shift": 0.5}),
    ("an input moves by 1 deviation", "input.x0", {"shift": 1.0}),
    ("5 % of requests come from a new country", "input.country", {"country": 0.05}),
    ("10 % of requests come from a new country", "input.country", {"country": 0.10}),
    ("an input is absent in 10 %", "presence.x0", {"absent": 0.1}),
    ("classes 80/15/5 become 70/25/5", "output", {"classes": (0.70, 0.25, 0.05)}),
    ("classes 80/15/5 become 60/35/5", "output", {"classes": (0.60, 0.35, 0.05)}),
    ("confidence falls by 0.03", "confidence", {"sure": -0.03}),
    ("confidence falls by 0.1", "confidence", {"sure": -0.1}),
    ("latency becomes 1.3 times", "latency", {"slower": 1.3}),
    ("latency becomes twice", "latency", {"slower": 2.0}),
    ("errors rise from 0.5 % to 2 %", "error_rate", {"errors": 0.02}),
    ("errors rise from 0.5 % to 5 %", "error_rate", {"errors": 0.05}),
]


def measure_healthy(versions: int, only: str, seed: int) -> None:
    print("| healthy traffic | versions | weeks | false alarms |\n|---|---|---|---|")
    for name, traffic in ((name, one) for name, one in _HEALTHY.items() if only in name):
        started, alarms = time.perf_counter(), []
        for version in range(versions):
            random = np.random.default_rng([seed, version])
            watch = learn(traffic, random)
            found = live(watch, traffic, random, since=DAY_PANES, panes=7 * DAY_PANES)
            alarms += [change for _, change in found if change.state == "firing"]
        print(f"| {name} | {versions} | {versions} | {len(alarms)} |", flush=True)
        for one in alarms:
            print(f"    {one.finding}")
        print(f"    {(time.perf_counter() - started) / versions:.1f} s a version and week")


def measure_changes(trials: int, only: str, seed: int) -> None:
    kinds = {
        "120 requests a minute": Traffic(),
        "6 requests a minute": Traffic(requests=60, rows=60),
        "120 a minute, a day's rhythm and bursts": Traffic(rhythm=1.0, burst=0.5),
    }
    print(f"\n| change | {' | '.join(kinds)} |\n|---{'|---' * len(kinds)}|")
    for name, signal, changed in (one for one in _CHANGES if only in one[0]):
        cells = []
        for healthy in kinds.values():
            delays = [
                delay(healthy, np.random.default_rng([seed, trial]), signal, **changed)
                for trial in range(trials)
            ]
            found = sorted(one for one in delays if one is not None)
            median = f", after {found[len(found) // 2] * 10} min (at most {found[-1] * 10})" if found else ""
            cells.append(f"{len(found)} of {trials}{median}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--healthy", type=int, default=20, metavar="VERSIONS")
    parser.add_argument("--trials", type=int, default=20, metavar="N")
    parser.add_argument("--only", default="", metavar="WORDS", help="what has these words in its description")
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    if given.healthy:
        measure_healthy(given.healthy, given.only, given.seed)
    if given.trials:
        measure_changes(given.trials, given.only, given.seed)


if __name__ == "__main__":
    main()
