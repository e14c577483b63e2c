"""Hits over time, stacked by what answered: from the rollups where a filter asks for names alone, else from
the rows. Owns no file."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import msgspec
import numpy as np

from mdslite import blame
from mdslite.errors import InvalidRequest
from mdslite.store.columns import ARRIVED, Array
from mdslite.store.filters import Filter
from mdslite.store.reading import HourReader, Span
from mdslite.store.requests import RequestLog
from mdslite.store.rows import Labels
from mdslite.store.scan import HourScan

By: TypeAlias = Literal["version", "status", "code", "endpoint", "client", "model"]
Source: TypeAlias = Literal["minutes", "seconds", "entries"]

BYS: tuple[str, ...] = get_args(By)
MAX_BUCKETS = 10_000
MAX_SERIES = 50
DEFAULT_WINDOW_S = 86_400.0
DEFAULT_BUCKETS = 120
LONGEST_S = 1e9
ROUND_S = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800,
)  # fmt: skip


class HistogramSeries(msgspec.Struct, frozen=True):
    """What one version, or with another `by` all with one `value`, answered in each interval. Of `counts`,
    `errors` had a status of 500 or above, and `refused` one of 400 to 499."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool | None
    value: str | int | None
    counts: tuple[int, ...]
    errors: tuple[int, ...]
    refused: tuple[int, ...]
    total: int


class Histogram(msgspec.Struct, frozen=True):
    """Arrivals within [since, until), unix seconds: the window asked for, widened to whole intervals.
    `counts[n]` are those of [since + n * interval_s, since + (n + 1) * interval_s). The greatest series come
    first; those past a bound are summed up in `other`. `source` is what was counted: rollups, or rows.
    `skipped` names files that could not be read."""

    interval_s: float
    since: float
    until: float
    by: By
    source: Source
    series: tuple[HistogramSeries, ...]
    other: tuple[int, ...] | None
    skipped: tuple[str, ...]


def make_histogram(
    log: RequestLog,
    wanted: Filter,
    *,
    interval_s: float | None = None,
    by: By = "version",
    clock: Callable[[], float] = time.time,
) -> Histogram:
    """Count the rows that pass in the filter's own window: by default the last day, or what there is of it.
    Without an interval, a round one is chosen that makes at most DEFAULT_BUCKETS.

    :raises InvalidRequest: the interval makes no sense, or too many of them
    :raises DeadlineExceeded: the query took longer than the log's bound
    """
    since, until = _find_window(log, wanted, clock())
    if interval_s is None:
        interval_s = choose_interval(until - since)
    start, buckets = _cut(since, until, interval_s)
    stop = start + buckets * interval_s
    widened = dataclasses.replace(wanted, since=start, until=stop)
    source = _source(wanted, interval_s)
    totals: dict[tuple[object, ...], Array] = {}

    def visit(hour: HourReader, span: Span) -> None:
        labels = hour.labels()
        if source == "entries":
            first, counted = _count_rows(hour, span, widened, len(labels), buckets, interval_s)
        else:
            first, counted = hour.counts(wanted, start=start, stop=stop, interval_s=interval_s, source=source)
        here = slice(first, first + counted.shape[1])
        for series in np.flatnonzero(counted.any(axis=1)).tolist():
            kinds = totals.setdefault(_key(labels[series], by), np.zeros((3, buckets), dtype=np.int64))
            kinds[0, here] += counted[series]
            if blame.is_error(labels[series].status):
                kinds[1, here] += counted[series]
            elif blame.is_refused(labels[series].status):
                kinds[2, here] += counted[series]

    skipped = log.each(visit, since=start, until=stop)
    ranked = sorted(totals.items(), key=lambda item: (-int(item[1][0].sum()), str(item[0])))
    rest = [kinds[0] for _, kinds in ranked[MAX_SERIES:]]
    return Histogram(
        interval_s=interval_s,
        since=start,
        until=stop,
        by=by,
        source=source,
        series=tuple(_series(key, kinds, by) for key, kinds in ranked[:MAX_SERIES]),
        other=tuple(np.sum(rest, axis=0).tolist()) if rest else None,
        skipped=skipped,
    )


def choose_interval(window_s: float) -> float:
    """The smallest round interval that makes no more than DEFAULT_BUCKETS of a window."""
    return next((float(one) for one in ROUND_S if window_s / one <= DEFAULT_BUCKETS), float(ROUND_S[-1]))


def _find_window(log: RequestLog, wanted: Filter, now: float) -> tuple[float, float]:
    until = now if wanted.until is None else wanted.until
    if wanted.since is not None:
        return wanted.since, until
    since = until - DEFAULT_WINDOW_S
    first = log.first_time()
    return (max(since, min(first, until - 1)) if first is not None else since), until


def _cut(since: float, until: float, interval_s: float) -> tuple[float, int]:
    """The start of the first interval, and how many there are."""
    if not 0 < interval_s <= LONGEST_S:
        raise InvalidRequest(
            f"interval_s is {interval_s:g}, expected a number above 0 and at most {LONGEST_S:.0f}",
            hint=f"an interval of {choose_interval(max(until - since, 1.0)):g} s fits this window",
        )
    if not since < until:
        raise InvalidRequest("the window is empty: since is not before until")
    if (until - since) / interval_s > 2 * MAX_BUCKETS:  # what is far too short has no start that is a number
        raise _too_many(since, until, interval_s, (until - since) / interval_s)
    start = since // interval_s * interval_s
    buckets = -int(-(until - start) // interval_s)
    if buckets > MAX_BUCKETS:
        raise _too_many(since, until, interval_s, buckets)
    return start, buckets


def _too_many(since: float, until: float, interval_s: float, buckets: float) -> InvalidRequest:
    window_s = until - since
    least = next(
        (one for one in ROUND_S if window_s / one < MAX_BUCKETS), math.ceil(window_s / (MAX_BUCKETS - 1))
    )
    said = f"{math.ceil(buckets)}" if buckets < 1e9 else "far too many"
    return InvalidRequest(
        f"{said} intervals of {interval_s:g} s, expected at most {MAX_BUCKETS}",
        hint=f"an interval of {least} s fits this window",
    )


def _source(wanted: Filter, interval_s: float) -> Source:
    if any(wanted.on(table) is not None for table in ("urls", "entries", "bodies")) or interval_s % 1:
        return "entries"
    return "seconds" if interval_s % 60 else "minutes"


def _count_rows(
    hour: HourReader, span: Span, wanted: Filter, series: int, buckets: int, interval_s: float
) -> tuple[int, Array]:
    """Rows by series (down) and interval (across), from the interval on that is returned first; the filter's
    window is that of the intervals."""
    assert wanted.since is not None
    start_us, interval_us = round(wanted.since * 1e6), interval_s * 1e6
    low = max(0, int((span.since - wanted.since) // interval_s))
    high = min(buckets, int((span.until - wanted.since) // interval_s) + 2)
    counted = np.zeros((series, high - low), dtype=np.int64)
    for part in HourScan(hour, span, wanted).parts("series_id"):
        # A difference of microseconds is exact as a double.
        first, last = (int((one - start_us) / interval_us) for one in part.arrivals())
        # The last is rounded up where an interval is no whole number.
        first, last = max(first, low), min(last, high - 1)
        width = last - first + 1
        place = part.take("series_id").astype(np.intp)
        if width > 1:
            bucket = ((part.take(ARRIVED) - start_us) / interval_us).astype(np.intp)
            np.minimum(bucket, last, out=bucket)
            bucket -= first
            place *= width
            place += bucket
        found = np.bincount(place, minlength=series * width).reshape(series, width)
        counted[:, first - low : last - low + 1] += found
    return low, counted


def _key(labels: Labels, by: By) -> tuple[object, ...]:
    if by == "version":
        return labels.project, labels.model, labels.version, labels.shadow
    return (labels.project, labels.model) if by == "model" else (getattr(labels, by),)


def _series(key: tuple[object, ...], kinds: Array, by: By) -> HistogramSeries:
    named = dict(zip(("project", "model", "version", "shadow"), key, strict=False)) if len(key) > 1 else {}
    return msgspec.convert(
        {
            "project": None, "model": None, "version": None, "shadow": None, **named,
            "value": key[-1] if by not in ("version", "model") else named[by],
            "counts": kinds[0].tolist(), "errors": kinds[1].tolist(), "refused": kinds[2].tolist(),
            "total": int(kinds[0].sum()),
        },
        HistogramSeries,
    )  # fmt: skip
