"""What is usual for a version: of each signal, how its values were spread over a span of healthy hours, and
how much those hours differed among themselves. Owns the tests of a later window against it.

A window exceeds when chance is too unlikely an explanation *and* the difference is large enough to matter: by
customary bounds, and by a quarter more than any hour of the baseline was off by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypedDict

import msgspec
import numpy as np

from mdslite.drift import measures
from mdslite.drift.features import INPUT, LENGTH, OUTPUT
from mdslite.drift.measures import Counts
from mdslite.drift.schedule import LEVELS, Span
from mdslite.drift.sketches import (
    AN_OCTAVE,
    BUCKETS,
    CONFIDENCE_EDGES,
    FIRST_MS,
    LATENCY_BINS,
    RANK_ERROR,
    SLOTS,
    Presence,
    Vocabulary,
    Window,
    choose_edges,
    count_numbers,
)

PSI_MIN = 0.1
DISTANCE_MIN = 0.1
RATIO_MIN = 1.5  # of latencies
RATE_MIN = 0.01  # of errors: a percentage point
MARGIN = 1.25  # over what the baseline's own hours were off
BASE_MIN = 300  # values in a baseline
COUNT_MIN = 100  # values in a window
FEW_HOURS = 6  # with fewer, how much hours differ is anybody's guess: this one
GUESSED_DISPERSION = 3.0
DAY_HOURS = 24
DAYS_MIN = 3  # from which on the baseline's days say how much days differ
CALM_SHARE = 0.75  # of a threshold: below it, a signal that fired calms down
CALM_TAIL = 0.01

Kind = Literal["latency", "confidence", "rate", "numbers", "texts", "presence"]
Test = Literal["ks", "chi_square", "binomial"]
Measure = Literal["psi", "distance", "ratio", "difference"]

_PERCENTILES = (0.5, 0.95)
_LATENCY_EDGES = FIRST_MS * 2 ** (np.arange(1, LATENCY_BINS) / AN_OCTAVE)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at one signal came to: `effect` by that `measure` which is largest beside its threshold."""

    signal: str
    span: Span
    count: int
    test: Test
    statistic: float
    tail: float
    level: float
    measure: Measure
    effect: float
    threshold: float
    exceeds: bool
    calm: bool
    text: str


class Figures(TypedDict):
    """A finding's figures, as people are told them."""

    window: Span | None
    test: Test | None
    statistic: float | None
    p: float | None
    measure: Measure | None
    effect: float | None
    threshold: float | None
    count: int


def figures_of(one: Finding | None) -> Figures:
    """What a look came to, or that there was none."""
    return Figures(
        window=one.span if one else None,
        test=one.test if one else None,
        statistic=one.statistic if one else None,
        p=one.tail if one else None,
        measure=one.measure if one else None,
        effect=one.effect if one else None,
        threshold=one.threshold if one else None,
        count=one.count if one else 0,
    )


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """One signal of a baseline. `edges` bound the cells of numbers; `thresholds` are by measure."""

    signal: str
    kind: Kind
    edges: list[float]
    counts: list[float]
    dispersion: float  # of hours
    day_dispersion: float
    thresholds: dict[Measure, float]

    @property
    def total(self) -> int:
        return round(sum(self.counts))


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Of a version, over the hours [since, until); `source` is the version whose hours these are."""

    chosen: bool
    source: str
    since: float
    until: float
    hours: int
    requests: int
    rows: int
    usual: list[Usual]


def build_usual(hours: Sequence[Window]) -> list[Usual]:
    """What was usual in these hours, in their order."""
    total = Window()
    for hour in hours:
        total.merge(hour)
    kinds: list[tuple[str, Kind]] = [
        ("error_rate", "rate"),
        ("latency", "latency"),
        ("confidence", "confidence"),
    ]
    for name, presence in sorted(total.presence.items()):
        kinds.append((name, "numbers" if presence.numbers >= presence.texts else "texts"))
        if name != OUTPUT and not is_length(name, total):
            kinds.append((f"presence.{name.removeprefix(INPUT).removeprefix('.')}", "presence"))
    found = []
    for name, kind in kinds:
        one = _build(name, kind, total, hours)
        if one is not None:
            found.append(one)
    return found


def is_length(name: str, window: Window) -> bool:
    """Is it the length of another feature, and so there when that is?"""
    return name.endswith(LENGTH) and name.removesuffix(LENGTH) in window.presence


def _build(name: str, kind: Kind, total: Window, hours: Sequence[Window]) -> Usual | None:
    edges: list[float] = []
    if kind == "numbers":
        sketch = total.numbers.get(name)
        edges = [] if sketch is None else [float(edge) for edge in choose_edges(sketch)]
    draft = Usual(
        signal=name, kind=kind, edges=edges, counts=[], dispersion=1.0, day_dispersion=1.0, thresholds={}
    )
    each = [count_cells(draft, hour) for hour in hours]
    counts = np.sum(each, axis=0) if each else np.zeros(0)
    if counts.sum() < BASE_MIN:
        return None
    dispersion, day_dispersion = _dispersions(kind, counts, [one for one in each if one.sum() > 0])
    draft = msgspec.structs.replace(
        draft, counts=counts.tolist(), dispersion=dispersion, day_dispersion=day_dispersion
    )
    return msgspec.structs.replace(draft, thresholds=_thresholds(draft, each))


def _dispersions(kind: Kind, counts: Counts, hours: Sequence[Counts]) -> tuple[float, float]:
    unordered = kind in ("texts", "presence", "rate")
    of = measures.unordered_dispersion if unordered else measures.ordered_dispersion
    cells = int((counts >= measures.EXPECTED_MIN * len(hours)).sum())
    noise = math.sqrt(2.0 / max(cells - 1, 1)) if unordered else measures.KS_NOISE
    hourly = measures.cautious_dispersion(of(counts, hours), len(hours), noise)
    if len(hours) < FEW_HOURS:
        return max(hourly, GUESSED_DISPERSION), max(hourly, GUESSED_DISPERSION) * DAY_HOURS
    days = [np.sum(hours[at : at + DAY_HOURS], axis=0) for at in range(0, len(hours), DAY_HOURS)]
    if len(days) >= DAYS_MIN:
        return hourly, max(of(counts, days), 1.0)
    if not unordered:
        beside = measures.neighbours_dispersion(hours)
    else:
        beside = float(np.mean([of(one + two, [one, two]) for one, two in pairwise(hours)]))
    return hourly, 2.0 * max(beside, 1.0)


def _thresholds(usual: Usual, hours: Sequence[Counts]) -> dict[Measure, float]:
    """The least that matters, and more than the baseline's own hours were off."""
    least: dict[Measure, float] = {
        "rate": {"difference": RATE_MIN},
        "latency": {"ratio": RATIO_MIN},
        "texts": {"psi": PSI_MIN},
        "presence": {"psi": PSI_MIN},
    }.get(usual.kind, {"psi": PSI_MIN, "distance": DISTANCE_MIN})  # type: ignore[assignment]
    base = np.array(usual.counts)
    seen = [
        _effects(usual, base, hour) for hour in hours if hour.sum() >= COUNT_MIN and hour.sum() < base.sum()
    ]
    found: dict[Measure, float] = {}
    for measure, minimum in least.items():
        rest = 1.0 if measure == "ratio" else 0.0
        most = max((one[measure] for one in seen), default=rest)
        found[measure] = max(minimum, rest + MARGIN * (most - rest))
    return found


def count_cells(usual: Usual, window: Window) -> Counts:
    """A window's counts over a signal's cells."""
    if usual.kind == "latency":
        return window.latency.astype(np.float64)
    if usual.kind == "confidence":
        return window.confidence.astype(np.float64)
    if usual.kind == "rate":
        return np.array([window.requests - window.failed, window.failed], dtype=np.float64)
    if usual.kind == "numbers":
        return count_numbers(window.numbers.get(usual.signal), np.array(usual.edges, dtype=np.float32))
    if usual.kind == "texts":
        found = window.texts.get(usual.signal)
        return np.zeros(SLOTS + BUCKETS) if found is None else found.astype(np.float64)
    name = usual.signal.removeprefix("presence.")
    one = _presence_of(window, name)
    there = one.numbers + one.texts + one.empty
    return np.array([one.numbers, one.texts, one.empty, max(0, window.rows - there)], dtype=np.float64)


def _presence_of(window: Window, name: str) -> Presence:
    found = window.presence.get(f"{INPUT}.{name}")
    return found or window.presence.get(f"{INPUT}{name}") or Presence()


def judge(usual: Usual, window: Counts, *, span: Span, vocabulary: Vocabulary) -> Finding | None:
    """Compare a window with what is usual; None where it holds too little to say anything."""
    base = np.array(usual.counts)
    if len(window) != len(base) or window.sum() < COUNT_MIN:
        return None
    dispersion = usual.day_dispersion if span == "24h" else usual.dispersion
    test, statistic, tail = _TESTS[usual.kind](usual, base, window, dispersion)
    effects = _effects(usual, base, window)
    shares = {measure: effects[measure] / least for measure, least in usual.thresholds.items()}
    measure = max(shares, key=lambda one: shares[one])
    level = LEVELS[span]
    return Finding(
        signal=usual.signal,
        span=span,
        count=round(float(window.sum())),
        test=test,
        statistic=statistic,
        tail=tail,
        level=level,
        measure=measure,
        effect=effects[measure],
        threshold=usual.thresholds[measure],
        exceeds=tail <= level and shares[measure] >= 1.0,
        calm=tail > CALM_TAIL or shares[measure] < CALM_SHARE,
        text=describe(usual, base, window, vocabulary),
    )


def _test_ordered(usual: Usual, base: Counts, window: Counts, dispersion: float) -> tuple[Test, float, float]:
    both, slower = measures.ks_distance(base, window)
    size = measures.joint_size(float(window.sum()), float(base.sum()))
    if usual.kind == "latency":
        return "ks", slower, measures.ks_tail(slower, size, dispersion=dispersion, sides=1)
    sure = max(0.0, both - 2 * RANK_ERROR) if usual.kind == "numbers" else both
    return "ks", both, measures.ks_tail(sure, size, dispersion=dispersion)


def _test_unordered(
    usual: Usual, base: Counts, window: Counts, dispersion: float
) -> tuple[Test, float, float]:
    return "chi_square", *measures.chi_square(base, window, dispersion=dispersion)


def _test_rate(usual: Usual, base: Counts, window: Counts, dispersion: float) -> tuple[Test, float, float]:
    count, total = float(window[1]), float(window.sum())
    tail = measures.excess_tail(count, total, float(base[1]), float(base.sum()), dispersion=dispersion)
    return "binomial", count / total, tail


_Tester = Callable[[Usual, Counts, Counts, float], tuple[Test, float, float]]
_TESTS: dict[Kind, _Tester] = {
    "latency": _test_ordered,
    "confidence": _test_ordered,
    "numbers": _test_ordered,
    "texts": _test_unordered,
    "presence": _test_unordered,
    "rate": _test_rate,
}


def _effects(usual: Usual, base: Counts, window: Counts) -> dict[Measure, float]:
    if usual.kind == "rate":
        return {"difference": max(0.0, float(window[1] / window.sum() - base[1] / base.sum()))}
    if usual.kind == "latency":
        slower = [
            quantile(_LATENCY_EDGES, window, share) / quantile(_LATENCY_EDGES, base, share)
            for share in _PERCENTILES
        ]
        return {"ratio": max(slower)}
    if usual.kind in ("texts", "presence"):
        there = base + window > 0
        small = base[there] < base.sum() * 0.005
        merged = [
            np.append(one[there][~small], one[there][small].sum()) if small.any() else one[there]
            for one in (base, window)
        ]
        return {"psi": measures.psi_without_bias(*merged)}
    starts = measures.group_cells(base)
    grouped = np.add.reduceat(base, starts), np.add.reduceat(window, starts)
    distance, _ = measures.ks_distance(base, window)
    noise = 0.822 / max(measures.joint_size(float(window.sum()), float(base.sum())), 1e-9)
    return {
        "psi": measures.psi_without_bias(*grouped),
        "distance": max(0.0, distance * distance - noise) ** 0.5,
    }


def quantile(edges: Counts, counts: Counts, share: float) -> float:
    """The upper edge of the cell that holds it."""
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum(), side="left"))
    return float(edges[min(place, len(edges) - 1)])


def describe(usual: Usual, base: Counts, window: Counts, vocabulary: Vocabulary) -> str:
    """What has changed, in words."""
    if usual.kind == "rate":
        return f"{_percent(window[1] / window.sum())} failed, usual are {_percent(base[1] / base.sum())}"
    if usual.kind == "latency":
        now, then = (
            [f"{quantile(_LATENCY_EDGES, counts, share):.3g}" for share in _PERCENTILES]
            for counts in (window, base)
        )
        return f"p50 {now[0]} ms, p95 {now[1]} ms, usual are {then[0]} and {then[1]}"
    if usual.kind in ("confidence", "numbers"):
        edges = CONFIDENCE_EDGES if usual.kind == "confidence" else np.array(usual.edges)
        return f"median {quantile(edges, window, 0.5):.4g}, usual is {quantile(edges, base, 0.5):.4g}"
    shares, before = window / window.sum(), base / base.sum()
    place = int((shares - before).argmax())
    if usual.kind == "presence":
        name = ("a number", "a text", "empty", "absent")[place]
    else:
        name = repr(vocabulary.text(usual.signal, place))
    return f"{name} in {_percent(shares[place])}, usual are {_percent(before[place])}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"
