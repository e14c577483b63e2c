"""Made traffic for measuring the watch for drift: a version's requests by panes of ten minutes, healthy or
changed by a known amount. Used by `measure_drift.py` and by the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdslite.drift.baseline import Baseline, build_usual
from mdslite.drift.features import Reading
from mdslite.drift.schedule import DAY_S, PANE_S
from mdslite.drift.sketches import Window
from mdslite.drift.watch import Change, Watch

DAY_PANES = DAY_S // PANE_S
_CLASSES = ("ham", "spam", "phish")
_COUNTRIES = tuple("abcdefghijklmnopqrstuvwxyz")
_ZIPF = np.array([1.0 / (place + 1) for place in range(len(_COUNTRIES))])


@dataclass(frozen=True)
class Traffic:
    """A healthy version, as far as it is not said otherwise. `rhythm` moves confidence, inputs and latency
    over the day by so many standard deviations; `burst` lets each pane stray by so many, on its own."""

    requests: int = 1200  # a pane
    rows: int = 600  # of them read
    features: int = 8
    rhythm: float = 0.0
    burst: float = 0.0
    shift: float = 0.0  # of the first feature, in standard deviations
    sure: float = 0.0  # of the confidence's mean, absolute
    slower: float = 1.0
    errors: float = 0.005
    classes: tuple[float, ...] = (0.8, 0.15, 0.05)
    absent: float = 0.0  # of the first feature
    country: float = 0.0  # share of requests that come from a country of which none came before

    def fill(self, watch: Watch, pane: int, random: np.random.Generator) -> None:
        """Feed one pane's requests."""
        wave = self.rhythm * np.sin(2 * np.pi * pane / DAY_PANES) + self.burst * random.normal()
        failed = int(random.binomial(self.requests, self.errors))
        good = self.requests - failed
        confidence = random.beta(8, 2, good) + self.sure + 0.03 * wave
        watch.pane.add_columns(
            latency_ms=random.lognormal(1.0, 0.4, good) * self.slower * np.exp(0.2 * wave),
            confidence=np.clip(confidence, 0.0, 1.0),
            good=np.ones(good, dtype=np.bool_),
            failed=failed,
        )
        watch.pane.add_readings(list(self._readings(random, float(wave))), watch.vocabulary, watch.known)

    def _readings(self, random: np.random.Generator, wave: float) -> Iterator[Reading]:
        numbers = random.normal(0.3 * wave, 1.0, (self.rows, self.features))
        numbers[:, 0] += self.shift
        countries = random.choice(_COUNTRIES, self.rows, p=_ZIPF / _ZIPF.sum()).tolist()
        classes = random.choice(_CLASSES, self.rows, p=self.classes).tolist()
        there = (random.random(self.rows) >= self.absent).tolist()
        new = (random.random(self.rows) < self.country).tolist()
        for row, values in enumerate(numbers.tolist()):
            reading: Reading = {"output": classes[row]}
            reading.update((f"input.x{place}", value) for place, value in enumerate(values))
            reading["input.country"] = "new" if new[row] else countries[row]
            if not there[row]:
                del reading["input.x0"]
            yield reading


def learn(traffic: Traffic, random: np.random.Generator, *, days: int = 1) -> Watch:
    """A watch whose baseline are the first days."""
    watch, hours = Watch(began=0.0, now=0.0), []
    for pane in range(days * DAY_PANES):
        traffic.fill(watch, pane, random)
        hours += watch.turn((pane + 1) * PANE_S).hours
    watch.restore(baseline_of([window for _, window in hours]), [])
    return watch


def baseline_of(hours: list[Window]) -> Baseline:
    return Baseline(
        chosen=False,
        source="v1",
        since=0.0,
        until=len(hours) * 3600.0,
        hours=len(hours),
        requests=sum(hour.requests for hour in hours),
        rows=sum(hour.rows for hour in hours),
        usual=build_usual(hours),
    )


def live(
    watch: Watch, traffic: Traffic, random: np.random.Generator, *, since: int, panes: int
) -> Iterator[tuple[int, Change]]:
    """Go on for so many panes; yields what changes, and how many panes that took."""
    for pane in range(since, since + panes):
        traffic.fill(watch, pane, random)
        for change in watch.turn((pane + 1) * PANE_S).changes:
            yield pane - since + 1, change


def delay(
    healthy: Traffic,
    random: np.random.Generator,
    signal: str,
    *,
    panes: int = 2 * DAY_PANES,
    **changed: Any,
) -> int | None:
    """How many panes after a change its signal fires, None if it does not. Healthy hours come before it."""
    watch = learn(healthy, random)
    for _ in live(watch, healthy, random, since=DAY_PANES, panes=18):
        pass
    drifted = replace(healthy, **changed)
    for after, change in live(watch, drifted, random, since=DAY_PANES + 18, panes=panes):
        if change.signal.signal == signal and change.state == "firing":
            return after
    return None
