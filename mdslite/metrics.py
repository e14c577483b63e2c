"""What was requested, counted, and the last minute's figures of each version. Owns the counters, no thread
and no file; how they are written is `exposition`'s.

The counters grow from tallies, which the request log's writer makes of the requests and the journal's thread
brings; so they lag behind the requests by up to the journal's flush interval. Everything else
(connections, queues, GPUs) is a gauge that its owner hands over when asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics

from mdslite import blame
from mdslite.exposition import Buckets, Exemplar, Exposition, Gauge, write_labels
from mdslite.recent import Recent, Window
from mdslite.store.journal import JournalStatistics
from mdslite.store.tallies import HISTOGRAMS, Tally

VersionKey: TypeAlias = tuple[str | None, str | None, str | None]  # project, model, version
_SeriesKey: TypeAlias = tuple[str | None, str | None, str | None, bool]  # and shadow
_RequestKey: TypeAlias = tuple[str | None, str | None, str | None, bool, str, int]  # and endpoint, status

MAX_VERSIONS = 1024
MAX_REQUEST_SERIES = 4096
OTHER = "(other)"


GaugeSource: TypeAlias = Callable[[], Iterable[Gauge]]


_HELP = {
    "request_seconds": "From arrival to answer.",
    "queue_seconds": "Waiting for a batch.",
    "compute_seconds": "Computing.",
    "upstream_seconds": "Remote endpoints' share.",
    "batch_rows": "Rows of the batch that a request ran in.",
}


class _Series:
    """One version's histograms: bucket counts (the last is above all bounds) and sums."""

    def __init__(self) -> None:
        self.counts = [np.zeros(len(kind.bounds) + 1, dtype=np.int64) for kind in HISTOGRAMS.values()]
        self.sums = [0.0] * len(HISTOGRAMS)
        self.failed_s = 0.0  # of the first sum, what errors and refused requests took
        self.last_second = 0  # in which one was answered, Unix time
        self.exemplars: dict[int, Exemplar] = {}  # of the first histogram, by bucket


@dataclass(frozen=True, slots=True)
class Totals:
    """One version's requests since the start, copies for shadows too; `failed` are those that
    got no good answer, whoever was to blame. Seconds are sums; `last_second` is when
    the last one was answered, in Unix time, 0 for never."""

    answered: int
    failed: int
    answered_s: float
    failed_s: float
    queue_s: float
    compute_s: float
    last_second: int


class Metrics:
    """`observe` is one of the journal's observers; `render`, `recent` and `keep` are for any thread.

    `flush` is asked to bring in what is pending before a text is made; it must be bounded in time.
    """

    def __init__(
        self, *, flush: Callable[[], object] = lambda: None, clock: Callable[[], float] = time.time
    ) -> None:
        self._flush = flush
        self._clock = clock
        self._lock = threading.Lock()  # held for a merge or a copy, never on a request's path
        self._requests: dict[_RequestKey, int] = {}
        self._series: dict[_SeriesKey, _Series] = {}
        self._windows: dict[VersionKey, Window] = {}
        self._sources: list[GaugeSource] = []
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def add_source(self, source: GaugeSource) -> None:
        """Ask `source` for its samples at each `render`."""
        self._sources.append(source)

    def observe(self, tally: Tally) -> None:
        """Add a tally of requests."""
        with self._lock:
            for of in tally.requests:
                self._count((of.project, of.model, of.version, of.shadow, of.endpoint, of.status), of.count)
            for version in tally.versions:
                key = (version.project, version.model, version.version)
                series = self._series_of((*key, version.shadow))
                for index, histogram in enumerate(version.histograms):
                    series.counts[index] += np.array(histogram.counts, dtype=np.int64)
                    series.sums[index] += histogram.total
                series.failed_s += version.failed_s
                for one in version.exemplars:
                    trace_id = None if one.trace_id is None else one.trace_id.hex()
                    series.exemplars[one.bucket] = Exemplar(one.value, one.time, one.request_id, trace_id)
                series.last_second = max([series.last_second, *(one.second for one in version.seconds)])
                if (window := self._window_of(key)) is not None:
                    for second in version.seconds:
                        window.add(second)

    def keep(self, versions: Collection[VersionKey]) -> None:
        """Forget every other version's series; requests that reached no version stay, their model's too."""
        known: set[VersionKey] = {*versions, (None, None, None), (OTHER, None, None)}
        known |= {(project, model, None) for project, model, _ in versions}
        with self._lock:
            self._requests = {key: n for key, n in self._requests.items() if key[:3] in known}
            self._series = {key: series for key, series in self._series.items() if key[:3] in known}
            self._windows = {key: window for key, window in self._windows.items() if key in known}

    def recent(self, project: str, model: str, version: str, *, since: float | None = None) -> Recent:
        """The last minute of one version, which serves `since` then, and its requests since the start."""
        key = (project, model, version)
        with self._lock:
            total = sum(count for of, count in self._requests.items() if of[:3] == key)
            window = self._windows.get(key)
            return (window or Window()).read(self._clock(), since=since, requests_total=total)

    def totals(self, versions: Iterable[VersionKey]) -> dict[VersionKey, Totals]:
        """Requests since the start, those that are pending too. Takes as long as `render`."""
        self._flush()
        with self._lock:
            return {key: self._total(key) for key in versions}

    def _total(self, key: VersionKey) -> Totals:
        counts = [(of[5], count) for of, count in self._requests.items() if of[:3] == key]
        series = [one for of, one in self._series.items() if of[:3] == key]
        sums = {name: sum(one.sums[place] for one in series) for place, name in enumerate(HISTOGRAMS)}
        failed_s = sum(one.failed_s for one in series)
        return Totals(
            answered=sum(count for status, count in counts if blame.is_good(status)),
            failed=sum(count for status, count in counts if not blame.is_good(status)),
            answered_s=sums["request_seconds"] - failed_s,
            failed_s=failed_s,
            queue_s=sums["queue_seconds"],
            compute_s=sums["compute_seconds"],
            last_second=max((one.last_second for one in series), default=0),
        )

    def render(self, *, open_metrics: bool = False) -> bytes:
        """The text of `/metrics`. Takes milliseconds, and up to `flush`'s bound: call it from a thread."""
        self._flush()
        with self._lock:
            requests = sorted(self._requests.items(), key=lambda item: str(item[0]))
            series = [
                (_labels(*key), [counts.tolist() for counts in of.counts], list(of.sums), dict(of.exemplars))
                for key, of in sorted(self._series.items(), key=lambda item: str(item[0]))
            ]
        text = Exposition(open_metrics=open_metrics)
        counts = ((_request_labels(key), count) for key, count in requests)
        lines = [*text.counter("mdslite_requests_total", "Requests answered.", counts)]
        for at, (short, kind) in enumerate(HISTOGRAMS.items()):
            buckets = (
                Buckets(labels, every[at], sums[at], exemplars if at == 0 else {})
                for labels, every, sums, exemplars in series
            )
            lines += text.histogram(f"mdslite_{short}", _HELP[short], kind.bounds, buckets)
        lines += text.gauges(gauge for source in self._sources for gauge in source())
        process = generate_open_metrics if open_metrics else generate_latest
        return "\n".join([*lines, ""]).encode() + process(self._process)

    def _count(self, key: _RequestKey, count: int) -> None:
        if key not in self._requests and len(self._requests) >= MAX_REQUEST_SERIES:
            key = (OTHER, None, None, key[3], OTHER, key[5])
        self._requests[key] = self._requests.get(key, 0) + count

    def _series_of(self, key: _SeriesKey) -> _Series:
        if key not in self._series and len(self._series) >= MAX_VERSIONS:
            key = (OTHER, None, None, key[3])
        if key not in self._series:
            self._series[key] = _Series()
        return self._series[key]

    def _window_of(self, key: VersionKey) -> Window | None:
        if key not in self._windows:
            if len(self._windows) >= MAX_VERSIONS:
                return None
            self._windows[key] = Window()
        return self._windows[key]


def journal_gauges(statistics: JournalStatistics) -> Iterator[Gauge]:
    """What the journal says of itself, as samples."""
    yield Gauge("mdslite_journal_pending_rows", "Rows in memory.", statistics.pending)
    yield Gauge("mdslite_journal_writing", "1 while the log is written.", float(statistics.trouble is None))
    yield Gauge("mdslite_journal_size_bytes", "Size of the request log's files.", statistics.size_bytes)
    about = "What the log's own sample of bodies takes of its files."
    yield Gauge("mdslite_journal_sampled_bytes", about, statistics.sampled_bytes)
    for name, help_text, value in (
        ("written", "Rows written to the request log.", statistics.written),
        (
            "dropped",
            "Rows dropped because there was no room for them, or nobody could write them.",
            statistics.dropped,
        ),
        ("malformed", "Rows dropped because they were malformed.", statistics.malformed),
        ("bodies", "Rows written with bodies.", statistics.bodies),
        ("bodiless", "Rows whose bodies there was no room for.", statistics.bodiless),
        ("restarts", "Restarts of the process that writes the request log.", statistics.restarts),
    ):
        yield Gauge(f"mdslite_journal_{name}_total", help_text, value, kind="counter")


def _request_labels(key: _RequestKey) -> str:
    project, model, version, shadow, endpoint, status = key
    told = {"host": host_of(endpoint), "endpoint": endpoint, "status": str(status)}
    return f"{_labels(project, model, version, shadow)},{write_labels(told)}"


def _labels(project: str | None, model: str | None, version: str | None, shadow: bool) -> str:
    known = {"project": project, "model": model, "version": version}
    return write_labels({**known, "shadow": "true" if shadow else "false"})


def host_of(endpoint: str) -> str:
    """Whose answer it was: `local`, a remote endpoint's host and port, nothing for what reached none."""
    if "://" in endpoint:
        return endpoint.partition("://")[2].partition("/")[0]
    return endpoint.partition("/")[0]
