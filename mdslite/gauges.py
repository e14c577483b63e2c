"""What the parts of a running appliance say of themselves on `/metrics`, beside the counted requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import get_args

from mdslite import __version__
from mdslite.door.door import Door
from mdslite.door.h2 import Http2Bridge
from mdslite.exposition import Gauge
from mdslite.metrics import host_of, journal_gauges
from mdslite.runtimes.devices import Devices
from mdslite.serving.fleet import Fleet, Served
from mdslite.serving.lane import Lane
from mdslite.serving.pipeline import PipelineLane
from mdslite.serving.remote.lane import RemoteLane
from mdslite.store.comparisons import DropReason
from mdslite.store.journal import Journal

_LANE_COUNTERS = (
    ("batches", "Batches computed."),
    ("inline_batches", "Batches computed on the event loop."),
    ("refused", "Requests refused because the queue was full."),
    ("expired", "Requests not answered in time."),
    ("cancelled", "Requests whose client left before the answer."),
    ("reruns", "Parts of failed batches that were computed again."),
)


class Gauges:
    """A source of samples over the appliance's parts; called at each scrape, from any thread."""

    def __init__(
        self,
        *,
        door: Door,
        bridge: Http2Bridge,
        fleet: Fleet,
        journal: Journal,
        devices: Devices,
        rpc_connections: Callable[[], int] = lambda: 0,
    ) -> None:
        self._door = door
        self._bridge = bridge
        self._fleet = fleet
        self._journal = journal
        self._devices = devices
        self._rpc_connections = rpc_connections

    def __call__(self) -> Iterator[Gauge]:
        yield Gauge("mdslite_info", "What runs here.", 1, {"version": __version__})
        yield from self._connections()
        for served in self._fleet.all():
            yield from _version(served)
        for label, gate in list(self._fleet.gates.items()):
            device = {"device": label}
            yield Gauge("mdslite_gate_busy_slots", "Slots of the device in use.", gate.busy, device)
            yield Gauge("mdslite_gate_waiting", "Lanes that wait for the device.", gate.waiting, device)
        yield from self._readings()
        yield from journal_gauges(self._journal.statistics())

    def _connections(self) -> Iterator[Gauge]:
        name, about = "mdslite_http_connections", "Open connections."
        yield Gauge(name, about, len(self._door.connections), {"protocol": "http/1.1"})
        yield Gauge(name, about, self._bridge.connections, {"protocol": "h2"})
        yield Gauge(name, about, self._rpc_connections(), {"protocol": "grpc"})
        yield Gauge("mdslite_open_requests", "Predict requests in progress.", self._door.predictor.books.open)
        yield Gauge(
            "mdslite_unauthorized_total",
            "Requests without a token, or without a good one.",
            self._door.predictor.access.refused,
            kind="counter",
        )
        for reason, count in sorted(self._door.closed_for.items()):
            yield Gauge(
                "mdslite_http_closed_total",
                "Connections or streams that the appliance ended, by reason.",
                count,
                {"reason": reason},
                kind="counter",
            )

    def _readings(self) -> Iterator[Gauge]:
        for reading in self._devices.readings():
            labels = {"device": reading.label, "name": reading.name}
            for name, about, value in (
                ("utilization_percent", "How busy the device is.", reading.utilization_percent),
                ("memory_used_bytes", "Memory in use by everybody.", reading.memory_used_bytes),
                ("memory_total_bytes", "Memory that there is.", reading.memory_total_bytes),
                ("temperature_celsius", "Temperature.", reading.temperature_c),
                ("power_watts", "Power drawn.", reading.power_w),
            ):
                yield Gauge(f"mdslite_device_{name}", about, value, labels)


def _version(served: Served) -> Iterator[Gauge]:
    labels = {"project": served.project, "model": served.model, "version": served.version}
    yield Gauge("mdslite_version_ready", "1 when the version can serve.", served.state == "ready", labels)
    yield Gauge("mdslite_version_weight", "Weight of the version.", served.spec.service_info.weight, labels)
    if not served.loaded:
        return
    lane = served.lane
    yield Gauge("mdslite_queue_rows", "Rows that wait in the version's queue.", lane.queue_rows, labels)
    yield Gauge("mdslite_running_batches", "Batches being computed.", lane.running, labels)
    stats = lane.stats
    for field, about in _LANE_COUNTERS:
        yield Gauge(f"mdslite_{field}_total", about, getattr(stats, field), labels, kind="counter")
    if isinstance(lane, RemoteLane):
        yield from _endpoints(lane, labels)
    else:
        about = "Replicas in rotation."
        rotation = sum(len(station.lane.replicas) for station in served.stations)
        yield Gauge("mdslite_replicas", about, rotation, labels)
    if served.spec.service_info.shadow or served.shadows_dropped:
        yield from _dropped(served, labels)
    if isinstance(lane, PipelineLane):
        for node, handler in lane.handlers.items():
            yield from _node(handler.lane, labels | {"node": node})


def _dropped(served: Served, labels: dict[str, str]) -> Iterator[Gauge]:
    about = "Copies of requests that came to no comparison, by why."
    for reason in get_args(DropReason):
        count = served.shadows_dropped[reason]
        yield Gauge("mdslite_shadow_dropped_total", about, count, labels | {"reason": reason}, kind="counter")


def _endpoints(lane: RemoteLane, labels: dict[str, str]) -> Iterator[Gauge]:
    now = perf_counter()
    for endpoint in list(lane.pool.endpoints):
        of = labels | {"host": host_of(endpoint.url), "endpoint": endpoint.url}
        about = "1 while the endpoint is not left out for its failures."
        yield Gauge("mdslite_endpoint_available", about, not endpoint.is_ejected(now), of)
        yield Gauge(
            "mdslite_endpoint_open_requests", "Requests that wait for the endpoint.", endpoint.open, of
        )
        about = "Requests sent to the endpoint, repetitions too."
        yield Gauge("mdslite_endpoint_requests_total", about, endpoint.requests, of, kind="counter")
        about = "Requests and health checks that the endpoint failed."
        yield Gauge("mdslite_endpoint_failures_total", about, endpoint.failures, of, kind="counter")


def _node(lane: Lane, labels: dict[str, str]) -> Iterator[Gauge]:
    yield Gauge(
        "mdslite_node_queue_rows", "Rows that wait for a node of a pipeline.", lane.queue_rows, labels
    )
    yield Gauge("mdslite_node_replicas", "Replicas of a node in rotation.", len(lane.replicas), labels)
    batches = lane.stats.batches
    yield Gauge(
        "mdslite_node_batches_total", "Batches that a node computed.", batches, labels, kind="counter"
    )
