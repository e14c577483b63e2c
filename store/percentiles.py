"""Percentiles of the good answers' latency and confidence, version by version. Owns no file.

Up to MAX_EXACT rows are kept and sorted: what is said is the value of a row (nearest rank). Of more, counts
are kept in steps of 0.4 %, which is how far a percentile can then be off.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from mdslite import blame
from mdslite.store.columns import Array
from mdslite.store.filters import Filter
from mdslite.store.reading import HourReader, Span
from mdslite.store.requests import RequestLog
from mdslite.store.scan import HourScan

MAX_EXACT = 4_000_000  # rows, of 16 bytes
_SHIFT = 15  # of a float's bits: 8 of its fraction are left, 256 steps to each power of two
_Key = tuple[str | None, str | None, str | None, bool]


class LatencyPercentiles(msgspec.Struct, frozen=True):
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class ConfidencePercentiles(msgspec.Struct, frozen=True):
    p10: float
    p50: float
    mean: float


class VersionPercentiles(msgspec.Struct, frozen=True):
    """`errors` and `refused` are those of `count` that were no good answer; `error_rate` is the share of
    errors in what was not refused. `latency_ms` is of the good answers, null where there is none; so is
    `confidence`, null where none had one."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    count: int
    errors: int
    refused: int
    error_rate: float | None
    latency_ms: LatencyPercentiles | None
    confidence: ConfidencePercentiles | None


class Percentiles(msgspec.Struct, frozen=True):
    """Greatest groups first. They arrived in [since, until), unix seconds: what was asked for, as far as
    there is a log of it; null without any. When not `exact`, percentiles are within 0.4 %. `skipped` names
    files that could not be read."""

    groups: tuple[VersionPercentiles, ...]
    since: float | None
    until: float | None
    exact: bool
    skipped: tuple[str, ...]


def find_percentiles(
    log: RequestLog,
    wanted: Filter,
    *,
    max_exact: int = MAX_EXACT,
    clock: Callable[[], float] = time.time,
) -> Percentiles:
    """Of all rows that pass the filter.

    :raises DeadlineExceeded: the query took longer than the log's bound
    """
    groups: dict[_Key, _Group] = {}
    kept = 0

    def visit(hour: HourReader, span: Span) -> None:
        nonlocal kept
        labels = hour.labels()
        keys = [(one.project, one.model, one.version, one.shadow) for _, one in sorted(labels.items())]
        good = np.array([blame.is_good(one.status) for _, one in sorted(labels.items())], dtype=np.bool_)
        error = np.array([blame.is_error(one.status) for _, one in sorted(labels.items())], dtype=np.bool_)
        names = list(dict.fromkeys(keys))
        group_of = np.array([names.index(key) for key in keys], dtype=np.uint16)
        for part in HourScan(hour, span, wanted).parts("series_id", "latency_us", "confidence"):
            series = part.take("series_id").astype(np.intp)
            all_of, well = group_of[series], good[series]
            counts = np.bincount(all_of, minlength=len(names))
            errors = np.bincount(all_of[error[series]], minlength=len(names))
            of = all_of[well]
            order = np.flatnonzero(well)[np.argsort(of, kind="stable")]  # of such small numbers: by radix
            latency_us, confidence = part.take("latency_us")[order], part.take("confidence")[order]
            sizes = np.bincount(of, minlength=len(names))
            stops = np.cumsum(sizes)
            for number in np.flatnonzero(counts).tolist():
                group = groups.setdefault(names[number], _Group())
                mine = slice(stops[number] - sizes[number], stops[number])
                group.add(latency_us[mine], confidence[mine])
                group.count += int(counts[number])
                group.errors += int(errors[number])
            kept += len(of)
            if kept > max_exact:
                for group in groups.values():
                    group.condense()
                kept = 0

    skipped = log.each(visit, since=wanted.since, until=wanted.until)
    exact = not any(group.condensed for group in groups.values())
    found = [_describe(key, group) for key, group in groups.items()]
    found.sort(key=lambda one: (-one.count, str(one.project), str(one.model), str(one.version), one.shadow))
    since, until = _covered(log, wanted, clock())
    return Percentiles(tuple(found), since, until, exact, skipped)


@dataclass(slots=True)
class _Values:
    """Numbers of at least 0: kept as they are, then counted in steps."""

    parts: list[Array] = field(default_factory=list)
    steps: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    count: int = 0
    total: float = 0.0
    greatest: float = 0.0
    least: float = np.inf

    def add(self, values: Array) -> None:
        if not len(values):
            return
        self.parts.append(values)
        self.count += len(values)
        self.total += float(values.sum(dtype=np.float64))
        self.greatest = max(self.greatest, float(values.max()))
        self.least = min(self.least, float(values.min()))

    def condense(self) -> None:
        for values in self.parts:
            bits = np.ascontiguousarray(np.maximum(values, 0), dtype=np.float32).view(np.int32) >> _SHIFT
            counts = np.bincount(bits)
            if len(counts) > len(self.steps):
                self.steps = np.concatenate([self.steps, np.zeros(len(counts) - len(self.steps), np.int64)])
            self.steps[: len(counts)] += counts
        self.parts = []

    def at(self, shares: tuple[float, ...]) -> list[float]:
        """The values at these shares of all, by the nearest rank."""
        ranks = [max(0, int(np.ceil(share * self.count)) - 1) for share in shares]
        if not len(self.steps):
            together = np.concatenate(self.parts).astype(np.float64)
            return [float(one) for one in np.partition(together, sorted(set(ranks)))[ranks]]
        self.condense()
        places = np.searchsorted(np.cumsum(self.steps), np.array(ranks) + 1)
        edges = np.stack([places, places + 1]).astype(np.int32) << _SHIFT
        middles = edges.view(np.float32).astype(np.float64).mean(axis=0)
        return [float(one) for one in np.clip(middles, self.least, self.greatest)]


@dataclass(slots=True)
class _Group:
    latency_us: _Values = field(default_factory=_Values)
    confidence: _Values = field(default_factory=_Values)
    count: int = 0
    errors: int = 0
    condensed: bool = False

    def add(self, latency_us: Array, confidence: Array) -> None:
        self.latency_us.add(latency_us)
        self.confidence.add(confidence[~np.isnan(confidence)])

    def condense(self) -> None:
        self.condensed = True
        self.latency_us.condense()
        self.confidence.condense()


def _covered(log: RequestLog, wanted: Filter, now: float) -> tuple[float, float] | tuple[None, None]:
    first = log.first_time()
    if first is None:
        return None, None
    since = first if wanted.since is None else max(first, wanted.since)
    until = now if wanted.until is None else min(now, wanted.until)
    return (since, until) if since < until else (None, None)


def _describe(key: _Key, group: _Group) -> VersionPercentiles:
    project, model, version, shadow = key
    latency, sure = group.latency_us, group.confidence
    good = latency.count
    times = confidence = None
    if good:
        p50, p90, p95, p99 = (one / 1e3 for one in latency.at((0.5, 0.9, 0.95, 0.99)))
        times = LatencyPercentiles(p50=p50, p90=p90, p95=p95, p99=p99, max=latency.greatest / 1e3)
    if sure.count:
        low, middle = sure.at((0.1, 0.5))
        confidence = ConfidencePercentiles(p10=low, p50=middle, mean=sure.total / sure.count)
    return VersionPercentiles(
        project=project,
        model=model,
        version=version,
        shadow=shadow,
        count=group.count,
        errors=group.errors,
        refused=group.count - good - group.errors,
        error_rate=blame.error_rate(good=good, errors=group.errors),
        latency_ms=times,
        confidence=confidence,
    )
