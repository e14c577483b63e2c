"""What the metrics need to know of a block of requests: counts, histograms and the last seconds' latencies.
Owns their bounds. The writer's process counts, the appliance adds up (`mdslite.metrics`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from mdslite import blame
from mdslite.store.blocks import Block, Floats, Ints
from mdslite.store.courtesy import Rest, no_rest
from mdslite.store.rollups import LATENCY_BOUNDS_US
from mdslite.store.rows import is_replay

# Latency bins: eight an octave from 10 µs to about 100 s, so that a percentile is right within 5 %.
FIRST_MS = 0.01
AN_OCTAVE = 8
BINS = 24 * AN_OCTAVE


_Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class HistogramKind:
    """One value of each request, in the metric's unit; NaN is not counted."""

    bounds: tuple[float, ...]
    values: Callable[[Block], Floats]


_SECONDS = tuple(bound / 1e6 for bound in LATENCY_BOUNDS_US)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

HISTOGRAMS = {
    "request_seconds": HistogramKind(_SECONDS, lambda block: block.latency_ms * 1e-3),
    "queue_seconds": HistogramKind(_SECONDS, lambda block: block.queue_ms * 1e-3),
    "compute_seconds": HistogramKind(_SECONDS, lambda block: block.compute_ms * 1e-3),
    "upstream_seconds": HistogramKind(_SECONDS, lambda block: block.upstream_ms * 1e-3),
    "batch_rows": HistogramKind(
        _ROWS, lambda block: np.where(block.batch_rows > 0, block.batch_rows, np.nan).astype(np.float64)
    ),
}


class RequestCount(msgspec.Struct, frozen=True, array_like=True):
    """How many requests had these labels."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    endpoint: str
    status: int
    count: int


class HistogramCount(msgspec.Struct, frozen=True, array_like=True):
    """Values in each bucket, the last of which is above all bounds, and their sum."""

    counts: list[int]
    total: float


class SecondCount(msgspec.Struct, frozen=True, array_like=True):
    """The requests that were answered in one unix second: good ones by the bin of their latency, without the
    empty ones, and how many others."""

    second: int
    errors: int
    refused: int
    bins: list[int]
    counts: list[int]


class ExemplarOf(msgspec.Struct, frozen=True, array_like=True):
    """A request that stands for its bucket of the first histogram."""

    bucket: int
    value: float
    time: float  # unix seconds
    request_id: str
    trace_id: bytes | None


class VersionCount(msgspec.Struct, frozen=True, array_like=True):
    """`histograms` stand in the order of HISTOGRAMS."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    histograms: list[HistogramCount]
    seconds: list[SecondCount]
    failed_s: float  # of the seconds that all requests took, those of errors and refused ones
    exemplars: list[ExemplarOf]  # of request_seconds, one a bucket


class Tally(msgspec.Struct, frozen=True, array_like=True):
    requests: list[RequestCount]
    versions: list[VersionCount]


def tally(block: Block, *, rest: Rest = no_rest) -> Tally:
    """Count a block: a few array operations for thousands of requests. What replays asked is left out."""
    counts = np.bincount(block.label, minlength=len(block.labels)).tolist()
    keys = [(*labels[:4], is_replay(labels)) for labels in block.labels]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    group = np.array([numbers[key] for key in keys])[block.label]
    spreads = []
    for kind in HISTOGRAMS.values():
        spreads.append(_spread(kind, block, group, len(numbers)))
        rest()
    traces = dict(block.traces)
    latest = _latest(spreads[0][2], len(numbers), traces)
    statuses = [labels.status for labels in block.labels]
    good = np.array([blame.is_good(status) for status in statuses])[block.label]
    error = np.array([blame.is_error(status) for status in statuses])[block.label]
    versions = []
    for (project, model, version, shadow, replayed), number in numbers.items():
        if replayed:
            continue
        here = group == number
        versions.append(
            VersionCount(
                project,
                model,
                version,
                shadow,
                histograms=[
                    HistogramCount(buckets[number].tolist(), float(sums[number]))
                    for buckets, sums, _ in spreads
                ],
                seconds=_seconds(block.ended_us[here], block.latency_ms[here], good[here], error[here]),
                failed_s=float(np.nansum(block.latency_ms[here & ~good])) * 1e-3,
                exemplars=list(_exemplars(block, latest[number], traces)),
            )
        )
    requests = [
        RequestCount(*of[:6], count)
        for of, count in zip(block.labels, counts, strict=True)
        if not is_replay(of)
    ]
    return Tally(requests, versions)


def _spread(kind: HistogramKind, block: Block, group: Ints, groups: int) -> tuple[Ints, Floats, Ints]:
    """Bucket counts, (groups, buckets), and sums, (groups,), of one histogram; and in which of all buckets
    each value that is there fell."""
    values = kind.values(block)
    there = ~np.isnan(values)
    values, group = values[there], group[there]
    width = len(kind.bounds) + 1
    flat = group * width + np.searchsorted(kind.bounds, values, side="left")
    counts = np.bincount(flat, minlength=groups * width).reshape(groups, width)
    sums = np.bincount(group, weights=values, minlength=groups).astype(np.float64)
    return counts.astype(np.int64), sums, flat


def _latest(flat: Ints, groups: int, traces: Mapping[int, bytes]) -> Ints:
    """The last row in each bucket, (groups, buckets), one with a trace before one without; -1 for none."""
    last = np.full((groups, len(_SECONDS) + 1), -1)
    last.reshape(-1)[flat] = np.arange(len(flat))  # of equal places the last one counts
    if traces:
        traced = np.array(sorted(traces), dtype=np.int64)
        last.reshape(-1)[flat[traced]] = traced
    return last


def _exemplars(block: Block, rows: Ints, traces: Mapping[int, bytes]) -> Iterator[ExemplarOf]:
    for bucket in np.flatnonzero(rows >= 0).tolist():
        row = int(rows[bucket])
        seconds, time = float(block.latency_ms[row]) * 1e-3, float(block.time[row])
        yield ExemplarOf(bucket, seconds, time, block.request_ids[row], traces.get(row))


def _seconds(ended_us: Ints, latency_ms: Floats, good: _Flags, error: _Flags) -> list[SecondCount]:
    seconds = ended_us // 1_000_000
    bins = np.log2(np.maximum(latency_ms, FIRST_MS) / FIRST_MS) * AN_OCTAVE
    numbers = np.minimum(bins.astype(np.int64), BINS - 1)
    found = []
    for second in np.unique(seconds).tolist():
        here = seconds == second
        filled, counts = np.unique(numbers[here & good], return_counts=True)
        errors = int(np.count_nonzero(error[here]))
        refused = int(np.count_nonzero(here)) - errors - int(counts.sum())
        found.append(SecondCount(second, errors, refused, filled.tolist(), counts.tolist()))
    return found
