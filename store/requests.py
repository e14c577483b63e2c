"""The request log's reading end: pages, following, histograms over all hour files. Owns no connection for
longer than a query, so that nothing holds a file which the journal seals or retention removes.

Methods block and may be called from several threads at a time. A file that cannot be read is left out and
named in the answer.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mdslite.errors import InvalidRequest, StoreError
from mdslite.store.evidence import Evidence, join, read_hour
from mdslite.store.filters import Filter
from mdslite.store.hours import list_hours
from mdslite.store.reading import MAX_ID, HourReader, Source, Span
from mdslite.store.rows import Labels

MAX_LIMIT = 10_000
MAX_BUCKETS = 10_000
MAX_HISTOGRAM_SERIES = 50
_SETTLED_S = 2.0  # a file changed within this time may change again without its times and sizes showing it


class LoggedBody(msgspec.Struct, frozen=True):
    """A request's or reply's body; `size_bytes` is that of the whole one."""

    content: str
    encoding: Literal["utf-8", "base64"]
    size_bytes: int
    truncated: bool


class NodeSpan(msgspec.Struct, frozen=True):
    """What one node of a pipeline did for a request; `started_ms` counts from the request's arrival.
    `upstream_ms` is there for what is served elsewhere, `spans` for what is a pipeline itself."""

    node: str
    started_ms: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    version: str | None = None
    error: str | None = None
    rows: int | None = None
    batch_rows: int | None = None
    upstream_ms: float | None = None
    spans: tuple[NodeSpan, ...] | None = None


class Entry(msgspec.Struct, frozen=True):
    """One logged request. `id` orders the log and is the cursor of `query` and `tail`."""

    id: int
    time: float  # unix seconds, at arrival
    request_id: str
    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    url: str
    status: int
    code: str | None
    latency_ms: float
    queue_ms: float | None
    compute_ms: float | None
    upstream_ms: float | None
    rows: int
    batch_rows: int
    confidence: float | None
    endpoint: str
    request: LoggedBody | None
    reply: LoggedBody | None
    spans: tuple[NodeSpan, ...] | None
    client: str | None  # the name of the token that the caller showed
    trace_id: str | None = None  # of the caller's trace (W3C), 32 hex digits


class Page(msgspec.Struct, frozen=True):
    """`next` is the cursor to go on with: `before` of `query` (None at the end), `after` of `tail`."""

    rows: tuple[Entry, ...]
    next: int | None
    skipped: tuple[str, ...] = ()  # names of the files that could not be read


class HistogramSeries(msgspec.Struct, frozen=True):
    labels: dict[str, str | int | bool | None]
    counts: tuple[int, ...]
    total: int


class Histogram(msgspec.Struct, frozen=True):
    """Bucket n counts the arrivals [start + n * interval_s, start + (n + 1) * interval_s). The series are the
    greatest first; those past the bound are summed up in `other`."""

    start: float
    interval_s: float
    buckets: int
    source: Source
    series: tuple[HistogramSeries, ...]
    other: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()


class RequestLog:
    """`timeout_s` bounds one query."""

    def __init__(
        self,
        folder: Path,
        *,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._spans: dict[Path, tuple[tuple[Any, ...], Span | None]] = {}

    def query(self, wanted: Filter, *, limit: int = 100, before: int | None = None) -> Page:
        """The newest `limit` rows that pass the filter and have ids below `before`.

        :raises InvalidRequest: the limit is out of bounds
        :raises DeadlineExceeded: the query took longer than the bound
        """
        _check_limit(limit)
        late, skipped = self._deadline(), _Skipped()
        found: list[Entry] = []
        spans = self._matching(wanted, late, skipped)
        for span in sorted(spans, key=lambda span: span.max_id, reverse=True):
            if before is not None and span.min_id >= before:
                continue
            # Files overlap in ids only after a clock jump; then rows of several are merged.
            if len(found) == limit and span.max_id < found[-1].id:
                break
            with skipped.catch(span.path), HourReader(span.path, late=late) as hour:
                now = hour.span() or span  # of this snapshot, which may hold more by now
                rows = hour.entries(now, wanted, before=before or MAX_ID, limit=limit, newest=True)
                found += _entries(rows, hour.labels() if rows else {})
                found = sorted(found, key=lambda entry: entry.id, reverse=True)[:limit]
        return Page(tuple(found), found[-1].id if len(found) == limit else None, skipped.names)

    def tail(self, wanted: Filter, *, after: int | None = None, limit: int = 1000) -> Page:
        """The oldest `limit` rows that pass the filter and came after the cursor.

        Without a cursor: no rows, and the cursor of the log's end. Call again with the page's `next`; no row
        is missed and none comes twice.

        :raises InvalidRequest: the limit is out of bounds
        :raises DeadlineExceeded: the query took longer than the bound
        """
        _check_limit(limit)
        late, skipped = self._deadline(), _Skipped()
        spans = list(self._all_spans(late, skipped))
        if after is None:
            return Page((), max((span.max_id for span in spans), default=0), skipped.names)
        found: list[Entry] = []
        end = after
        for span in spans:
            if span.max_id <= after:
                continue
            with skipped.catch(span.path), HourReader(span.path, late=late) as hour:
                now = hour.span() or span
                rows = hour.entries(now, wanted, after=after, limit=limit + 1, newest=False)
                found += _entries(rows, hour.labels() if rows else {})
                end = max(end, now.max_id)
        found.sort(key=lambda entry: entry.id)
        if len(found) > limit:
            found = found[:limit]
            end = found[-1].id
        return Page(tuple(found), end, skipped.names)

    def histogram(
        self,
        wanted: Filter,
        *,
        since: float,
        until: float,
        interval_s: float,
        by: Sequence[str] = ("project", "model", "version"),
    ) -> Histogram:
        """Requests by arrival, stacked by the labels `by`; the window is widened to whole intervals.

        Filters on labels alone are answered from the rollups, others from the rows.

        :raises InvalidRequest: the window, the interval or a label makes no sense
        :raises DeadlineExceeded: the query took longer than the bound
        """
        since, until = max(since, wanted.since or since), min(until, wanted.until or until)
        start, buckets = _window(since, until, interval_s)
        _check_labels(by)
        source = _source(wanted, interval_s)
        late, skipped = self._deadline(), _Skipped()
        totals: dict[tuple[Any, ...], list[int]] = {}
        stop = start + buckets * interval_s
        for span in self._all_spans(late, skipped):
            if not span.meets(start, stop):
                continue
            with skipped.catch(span.path), HourReader(span.path, late=late) as hour:
                labels = hour.labels()
                for bucket, series, count in hour.counts(
                    wanted, start=start, stop=stop, interval_s=interval_s, source=source
                ):
                    key = tuple(getattr(labels[series], name) for name in by)
                    totals.setdefault(key, [0] * buckets)[min(bucket, buckets - 1)] += count
        ranked = sorted(totals.items(), key=lambda item: (-sum(item[1]), str(item[0])))
        shown, rest = ranked[:MAX_HISTOGRAM_SERIES], ranked[MAX_HISTOGRAM_SERIES:]
        return Histogram(
            start=start,
            interval_s=interval_s,
            buckets=buckets,
            source=source,
            series=tuple(
                HistogramSeries(dict(zip(by, key, strict=True)), tuple(counts), sum(counts))
                for key, counts in shown
            ),
            other=tuple(map(sum, zip(*(counts for _, counts in rest), strict=True))) if rest else None,
            skipped=skipped.names,
        )

    def evidence(self, project: str, model: str, *, since: float, until: float) -> list[Evidence]:
        """What the log tells of a model's versions and shadows in [since, until), to the second.

        :raises DeadlineExceeded: the query took longer than the bound
        """
        late, skipped = self._deadline(), _Skipped()
        found: list[Evidence] = []
        for span in self._all_spans(late, skipped):
            if span.meets(since, until):
                with skipped.catch(span.path), HourReader(span.path, late=late) as hour:
                    found += read_hour(hour, project, model, since=since, until=until)
        return join(found)

    def _matching(self, wanted: Filter, late: Callable[[], bool], skipped: _Skipped) -> list[Span]:
        return [span for span in self._all_spans(late, skipped) if span.meets(wanted.since, wanted.until)]

    def _all_spans(self, late: Callable[[], bool], skipped: _Skipped) -> Iterator[Span]:
        """Each file's span; those of files that no longer change are remembered."""
        paths = [hour.path for hour in list_hours(self._folder) if not hour.set_aside]
        with self._lock:
            self._spans = {path: known for path, known in self._spans.items() if path in set(paths)}
        for path in paths:
            state = _state(path)
            with self._lock:
                known = self._spans.get(path)
            if known is not None and known[0] == state:
                span = known[1]
            else:
                span = None
                with skipped.catch(path), HourReader(path, late=late) as hour:
                    span = hour.span()
                    if state and self._clock() - max(state[0::3]) / 1e9 > _SETTLED_S:
                        with self._lock:
                            self._spans[path] = (state, span)
            if span is not None:
                yield span

    def _deadline(self) -> Callable[[], bool]:
        end_s = self._monotonic() + self._timeout_s
        return lambda: self._monotonic() > end_s


class _Skipped:
    """Names the files that could not be read; one that retention removed meanwhile is no loss."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()

    def catch(self, path: Path) -> _Catch:
        return _Catch(self, path)


class _Catch:
    def __init__(self, skipped: _Skipped, path: Path) -> None:
        self._skipped = skipped
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> bool:
        if not isinstance(exc, StoreError):
            return False
        if self._path.exists() and self._path.name not in self._skipped.names:
            self._skipped.names = (*self._skipped.names, self._path.name)
        return True


def _state(path: Path) -> tuple[int, ...]:
    """What changes when the file is written: time, size and inode of it and of its -wal."""
    state: list[int] = []
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue
        state += (found.st_mtime_ns, found.st_size, found.st_ino)
    return tuple(state)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"limit is {limit}, expected 1 to {MAX_LIMIT}")


def _window(since: float, until: float, interval_s: float) -> tuple[float, int]:
    if not interval_s > 0:
        raise InvalidRequest(f"interval_s is {interval_s}, expected a number above 0")
    if not since < until:
        raise InvalidRequest("the window is empty: since is not before until")
    start = since // interval_s * interval_s
    buckets = -int(-(until - start) // interval_s)
    if buckets > MAX_BUCKETS:
        raise InvalidRequest(
            f"{buckets} intervals of {interval_s:g} s, expected at most {MAX_BUCKETS}",
            hint=f"an interval of {(until - since) / MAX_BUCKETS:.3g} s or more fits this window",
        )
    return start, buckets


def _check_labels(by: Sequence[str]) -> None:
    for name in by:
        if name not in Labels._fields:
            raise InvalidRequest(f"{name!r} is no label", hint=f"labels: {' '.join(Labels._fields)}")


def _source(wanted: Filter, interval_s: float) -> Source:
    if any(wanted.on(table) is not None for table in ("urls", "entries", "bodies")) or interval_s % 1:
        return "entries"
    return "seconds" if interval_s % 60 else "minutes"


def _entries(rows: Sequence[tuple[Any, ...]], labels: dict[int, Labels]) -> list[Entry]:
    return [_entry(row, labels[row[3]]) for row in rows]


def _entry(row: tuple[Any, ...], labels: Labels) -> Entry:
    (
        number, lag_us, request_id, _, url, latency_us, queue_us, compute_us, upstream_us, rows, batch_rows,
        confidence, request, reply, request_bytes, reply_bytes, spans, trace_id,
    ) = row  # fmt: skip
    return Entry(
        id=number,
        time=(number - lag_us) / 1e6,
        request_id=request_id,
        project=labels.project,
        model=labels.model,
        version=labels.version,
        shadow=labels.shadow,
        url=url,
        status=labels.status,
        code=labels.code,
        latency_ms=latency_us / 1e3,
        queue_ms=_ms(queue_us),
        compute_ms=_ms(compute_us),
        upstream_ms=_ms(upstream_us),
        rows=rows,
        batch_rows=batch_rows,
        confidence=confidence,
        endpoint=labels.endpoint,
        request=_body(request, request_bytes),
        reply=_body(reply, reply_bytes),
        spans=_spans(spans),
        client=labels.client,
        trace_id=None if trace_id is None else trace_id.hex(),
    )


def _ms(value_us: int | None) -> float | None:
    return None if value_us is None else value_us / 1e3


def _spans(text: str | None) -> tuple[NodeSpan, ...] | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=tuple[NodeSpan, ...])
    except (
        msgspec.MsgspecError
    ):  # who logged it had another idea of spans: the request is still worth showing
        return None


def _body(content: str | bytes | None, size_bytes: int) -> LoggedBody | None:
    if content is None:
        return None
    if isinstance(content, bytes):
        return LoggedBody(base64.b64encode(content).decode(), "base64", size_bytes, len(content) < size_bytes)
    return LoggedBody(content, "utf-8", size_bytes, len(content.encode()) < size_bytes)
