"""Metrics: what Prometheus' own parser reads from the text, and the last minute of a version."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from log_rows import NOON, Clock, counted, row, running
from open_metrics import parse_open_metrics
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from mdslite.exposition import Gauge, wants_open_metrics
from mdslite.metrics import MAX_REQUEST_SERIES, MAX_VERSIONS, OTHER, Metrics, journal_gauges
from mdslite.recent import Window
from mdslite.store.tallies import Tally


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(
        sample.value
        for family in families(metrics).values()
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    )


def observed(*tallies: Tally) -> Metrics:
    metrics = Metrics()
    for one in tallies:
        metrics.observe(one)
    return metrics


def fill(window: Window, tally: Tally) -> None:
    for version in tally.versions:
        for second in version.seconds:
            window.add(second)


def test_requests_are_counted_by_version_endpoint_and_status() -> None:
    metrics = observed(
        counted(*[row(version="v1")] * 3, row(version="v1", status=500), row(version="v2", shadow=True)),
        counted(
            row(version="v1", endpoint="local/1"), row(project=None, model=None, version=None, status=404)
        ),
    )
    name = "mdslite_requests_total"
    assert value(metrics, name) == 7
    assert value(metrics, name, project="mail", model="spam", version="v1") == 5
    assert value(metrics, name, version="v1", endpoint="local/0", status="200", shadow="false") == 3
    assert value(metrics, name, version="v1", status="500") == 1
    assert value(metrics, name, version="v2", shadow="true") == 1
    assert value(metrics, name, endpoint="local/1") == 1
    assert value(metrics, name, project="", status="404") == 1
    assert families(metrics)["mdslite_requests"].type == "counter"


def test_error_codes_do_not_multiply_series() -> None:
    metrics = observed(counted(row(status=503, code="unavailable"), row(status=503, code="out_of_memory")))
    (sample,) = families(metrics)["mdslite_requests"].samples
    assert sample.value == 2


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("mdslite_request_seconds", "latency_ms"),
        ("mdslite_queue_seconds", "queue_ms"),
        ("mdslite_compute_seconds", "compute_ms"),
        ("mdslite_upstream_seconds", "upstream_ms"),
    ],
)
def test_times_fill_histograms_in_seconds(name: str, field: str) -> None:
    metrics = observed(counted(*(row(**{field: ms}) for ms in (0.1, 1.0, 1.0001, 40_000.0))))
    assert families(metrics)[name].type == "histogram"
    assert value(metrics, f"{name}_count") == 4
    assert value(metrics, f"{name}_sum") == pytest.approx(40.0021001)
    assert value(metrics, f"{name}_bucket", le="0.00025") == 1
    assert value(metrics, f"{name}_bucket", le="0.001") == 2  # a value on the bound is within it
    assert value(metrics, f"{name}_bucket", le="0.0015") == 3
    assert value(metrics, f"{name}_bucket", le="30.0") == 3
    assert value(metrics, f"{name}_bucket", le="+Inf") == 4


def test_batches_fill_a_histogram_and_absent_values_fill_none() -> None:
    metrics = observed(
        counted(row(batch_rows=1), row(batch_rows=32), row(batch_rows=33), row(batch_rows=0, queue_ms=None))
    )
    assert value(metrics, "mdslite_batch_rows_count") == 3
    assert value(metrics, "mdslite_batch_rows_sum") == 66
    assert value(metrics, "mdslite_batch_rows_bucket", le="32.0") == 2
    assert value(metrics, "mdslite_queue_seconds_count") == 3
    assert value(metrics, "mdslite_upstream_seconds_count") == 0


def test_buckets_only_grow_with_their_bound() -> None:
    metrics = observed(counted(*(row(latency_ms=1.3**number) for number in range(45))))
    counts = [
        sample.value
        for sample in families(metrics)["mdslite_request_seconds"].samples
        if sample.name.endswith("_bucket")
    ]
    assert counts == sorted(counts)
    assert counts[-1] == 45


def test_sources_hand_over_gauges_and_what_is_not_available_is_left_out() -> None:
    metrics = Metrics()
    metrics.add_source(
        lambda: [
            Gauge("mdslite_http_connections", "Open connections.", 3, {"protocol": "http/1.1"}),
            Gauge("mdslite_http_connections", "Open connections.", 1, {"protocol": "h2"}),
            Gauge("mdslite_gpu_temperature_celsius", "Temperature.", None, {"gpu": "0"}),
            Gauge("mdslite_uptime_seconds", "Uptime.", 1.5),
            Gauge("mdslite_ready", "Ready.", True),
        ]
    )
    assert value(metrics, "mdslite_http_connections", protocol="h2") == 1
    assert value(metrics, "mdslite_http_connections") == 4
    assert value(metrics, "mdslite_uptime_seconds") == 1.5
    assert value(metrics, "mdslite_ready") == 1
    assert families(metrics)["mdslite_gpu_temperature_celsius"].samples == []


def test_the_process_is_measured() -> None:
    metrics = Metrics()
    assert value(metrics, "process_resident_memory_bytes") > 1e6
    assert value(metrics, "process_cpu_seconds_total") > 0


def test_the_journal_is_measured(tmp_path: Path) -> None:
    with running(tmp_path) as journal:
        metrics = Metrics()
        metrics.add_source(lambda: journal_gauges(journal.statistics()))
        for _ in range(3):
            journal.append(row())
        journal.append(row(latency_ms=None))
        assert journal.flush()
        assert value(metrics, "mdslite_journal_written_total") == 3
        assert value(metrics, "mdslite_journal_malformed_total") == 1
        assert value(metrics, "mdslite_journal_dropped_total") == 0
        assert value(metrics, "mdslite_journal_writing") == 1


def test_what_is_pending_is_brought_in_first(tmp_path: Path) -> None:
    metrics = Metrics(flush=lambda: journal.flush(timeout_s=10))
    with running(tmp_path, flush_s=60, observers=[metrics.observe]) as journal:
        journal.append(row())
        assert value(metrics, "mdslite_requests_total") == 1


def test_labels_are_escaped() -> None:
    endpoint = 'http://"quoted"\\back\nline'
    metrics = observed(counted(row(endpoint=endpoint)))
    (sample,) = families(metrics)["mdslite_requests"].samples
    assert sample.labels["endpoint"] == endpoint


def test_series_of_deleted_versions_go() -> None:
    metrics = observed(
        counted(row(version="v1"), row(version="v2"), row(project=None, model=None, version=None))
    )
    metrics.keep([("mail", "spam", "v2")])
    assert value(metrics, "mdslite_requests_total") == 2
    assert value(metrics, "mdslite_requests_total", version="v1") == 0
    assert value(metrics, "mdslite_request_seconds_count", version="v1") == 0
    assert metrics.recent("mail", "spam", "v1").requests_total == 0
    assert metrics.recent("mail", "spam", "v2").requests_total == 1


def test_a_flood_of_names_is_bounded() -> None:
    metrics = Metrics()
    count = MAX_REQUEST_SERIES + 100
    for start in range(0, count, 1000):
        metrics.observe(
            counted(*(row(version=f"v{number}") for number in range(start, min(start + 1000, count))))
        )
    lines = metrics.render().decode().splitlines()
    requests = [line for line in lines if line.startswith("mdslite_requests_total{")]
    assert len(requests) == MAX_REQUEST_SERIES + 1
    assert sum(int(line.rsplit(" ", 1)[1]) for line in requests) == count
    counts = [line for line in lines if line.startswith("mdslite_request_seconds_count{")]
    assert len(counts) == MAX_VERSIONS + 1
    (others,) = (line for line in counts if f'project="{OTHER}"' in line)
    assert others.endswith(f" {count - MAX_VERSIONS}")


def test_the_last_minute_of_a_version() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock.wall)
    rows = [row(time=NOON + number / 10, latency_ms=1.0 + number / 100) for number in range(100)]
    rows += [row(time=NOON + 9, status=504, latency_ms=50.0)] * 2 + [row(version="v2", time=NOON)]
    rows += [row(time=NOON + 9, status=status, latency_ms=0.01) for status in (400, 404, 429, 499)] * 50
    metrics.observe(counted(*rows))
    clock.pass_by(10)
    recent = metrics.recent("mail", "spam", "v1")
    assert (recent.requests, recent.errors, recent.refused, recent.requests_total) == (302, 2, 200, 302)
    assert recent.window_s == 10
    assert recent.rps == pytest.approx(30.2)
    assert recent.error_rate == pytest.approx(2 / 102)  # what was refused is no error, and hides none
    assert recent.p50_ms == pytest.approx(1.5, rel=0.05)  # and is no answer that came quickly
    assert recent.p99_ms == pytest.approx(1.99, rel=0.05)
    clock.pass_by(55)  # the first five seconds are out of the window
    assert metrics.recent("mail", "spam", "v1").requests == pytest.approx(252, abs=10)
    clock.pass_by(60)
    gone = metrics.recent("mail", "spam", "v1")
    assert (gone.requests, gone.rps, gone.requests_total) == (0, 0.0, 302)
    assert (gone.p50_ms, gone.p99_ms, gone.error_rate) == (None, None, None)


def test_the_last_minute_is_no_longer_than_the_version_serves() -> None:
    window = Window()
    fill(window, counted(*[row(time=NOON + 20)] * 30))
    young = window.read(NOON + 25, since=NOON + 10, requests_total=30)
    assert (young.window_s, young.rps) == (15, 2)  # as it served for ten seconds before anybody asked
    old = window.read(NOON + 25.5, since=NOON - 3600, requests_total=30)
    assert old.window_s == 59.5
    assert old.rps == pytest.approx(30 / 59.5)
    again = window.read(NOON + 25, since=NOON + 24, requests_total=30)  # loaded anew, with requests before
    assert (again.window_s, again.rps) == (5, 6)
    assert window.read(NOON + 20.01, since=NOON + 20, requests_total=30).window_s == 1


def test_a_version_without_requests_has_no_figures() -> None:
    recent = Metrics().recent("mail", "spam", "v1")
    assert (recent.requests, recent.rps, recent.p50_ms, recent.requests_total) == (0, 0.0, None, 0)


def test_a_window_forgets_the_second_that_its_slot_held_a_minute_before() -> None:
    window = Window()
    for second in (0, 60, 120):
        of = counted(row(time=NOON + second, latency_ms=1.0))
        fill(window, of)
    assert window.read(NOON + 121, requests_total=3).requests == 1


@pytest.mark.parametrize("latency_ms", [0.0, 0.001, 0.5, 3.0, 77.0, 5000.0, 1e6])
def test_percentiles_are_right_within_their_bins(latency_ms: float) -> None:
    window = Window()
    of = counted(*[row(latency_ms=latency_ms)] * 10)
    fill(window, of)
    found = window.read(NOON + 1 + latency_ms / 1e3, requests_total=10).p50_ms
    assert found == pytest.approx(min(max(latency_ms, 0.01), 167_000), rel=0.1)


def test_observing_and_rendering_at_the_same_time_agree_in_the_end() -> None:
    metrics = Metrics()
    of = counted(*(row(version=f"v{number % 5}") for number in range(500)))
    done = threading.Event()

    def keep_observing() -> None:
        for _ in range(50):
            metrics.observe(of)
        done.set()

    worker = threading.Thread(target=keep_observing)
    worker.start()
    last = 0.0
    while not done.is_set():
        now = value(metrics, "mdslite_requests_total")
        assert now >= last
        last = now
        metrics.recent("mail", "spam", "v1")
    worker.join()
    assert value(metrics, "mdslite_requests_total") == 25_000
    assert value(metrics, "mdslite_batch_rows_count") == 25_000


# OpenMetrics


def strict(metrics: Metrics) -> dict[str, Metric]:
    """What prometheus-client's OpenMetrics parser reads, which refuses whatever the format does not allow."""
    text = metrics.render(open_metrics=True).decode()
    assert text.endswith("# EOF\n")
    return {family.name: family for family in parse_open_metrics(text)}


def test_both_formats_tell_the_same() -> None:
    metrics = observed(counted(row(), row(status=500, latency_ms=80.0), row(endpoint="http://far:80/x")))
    metrics.add_source(
        lambda: [Gauge("mdslite_a_total", "A.", 3, kind="counter"), Gauge("mdslite_b", "B.", 1)]
    )

    def samples(found: dict[str, Metric]) -> dict[tuple[str, str], float]:
        return {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in found.values()
            for sample in family.samples
            if family.name.startswith("mdslite_")
        }

    assert samples(strict(metrics)) == samples(families(metrics))
    assert strict(metrics)["process_resident_memory_bytes"].samples[0].value > 0


def test_buckets_name_a_request_each_and_its_trace() -> None:
    trace_id = bytes(range(16))
    metrics = observed(
        counted(
            row(request_id="traced", latency_ms=2.0, trace_id=trace_id),
            row(request_id="later", latency_ms=2.0),
            row(request_id="slow", latency_ms=80.0),
            row(request_id="x" * 128, latency_ms=9000.0),
        )
    )
    found = {
        sample.labels["le"]: sample.exemplar
        for sample in strict(metrics)["mdslite_request_seconds"].samples
        if sample.exemplar is not None
    }
    assert set(found) == {"0.002", "0.1", "10.0"}
    assert found["0.002"].labels == {"trace_id": trace_id.hex(), "request_id": "traced"}
    assert (found["0.1"].labels, found["0.1"].value) == ({"request_id": "slow"}, 0.08)
    timestamp = found["0.1"].timestamp
    assert timestamp is not None and float(timestamp) == NOON
    assert found["10.0"].labels == {}  # it would be longer than the format allows
    metrics.observe(counted(row(request_id="newer", latency_ms=80.0)))
    assert 'request_id="newer"' in metrics.render(open_metrics=True).decode()
    assert "request_id" not in metrics.render().decode()


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False), ("*/*", False), ("text/plain", False), ("text/html;q=1", False),
        ("application/openmetrics-text", True), ("application/openmetrics-text;q=0, */*", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2", True),
        ("application/openmetrics-text;q=0.3, text/plain;q=0.8", False),
        ("application/openmetrics-text;q=x", False),
    ],
)  # fmt: skip
def test_a_scraper_gets_the_format_that_it_prefers(accept: str, wanted: bool) -> None:
    assert wants_open_metrics(accept) is wanted


def test_requests_are_counted_by_the_host_that_answered() -> None:
    metrics = observed(
        counted(
            row(), row(endpoint="http://10.0.0.2:8500"), row(endpoint="http://10.0.0.2:8500/base"),
            row(endpoint="", status=429),
        )
    )  # fmt: skip
    name = "mdslite_requests_total"
    assert [value(metrics, name, host=host) for host in ("local", "10.0.0.2:8500")] == [1, 2]
    assert value(metrics, name, host="", status="429") == 1
