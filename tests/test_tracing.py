"""Traces: which requests are told, what their spans say, and that nobody waits for whoever takes them."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import models
import msgspec
import pytest
from doors import Deployed, open_site, run
from h1_client import ROW, predict
from live import up
from traces import PARENT, SPAN_ID, TRACE_ID
from waiting import until

from mdslite.errors import InvalidRequest
from mdslite.serving.trace import Trace
from mdslite.spans import Told, Weaver, traces_url
from mdslite.tracing import Tracer, check_installed

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


class Collector:
    """An OTLP collector: `spans` are those that were sent, as plain values."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resource: dict[str, Any] = {}
        self.heard = threading.Condition()
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        assert path == "/v1/traces"
        found = MessageToDict(ExportTraceServiceRequest.FromString(body))
        with self.heard:
            for part in found["resourceSpans"]:
                self.resource = plain(part["resource"]["attributes"])
                for scope in part["scopeSpans"]:
                    self.spans += scope["spans"]
            self.heard.notify_all()

    def wait(self, enough: Callable[[], Any]) -> None:
        with self.heard:
            assert self.heard.wait_for(enough, 30)


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


class Listener:
    """Stands in for the exporting process: what was told lies in its end of the socket."""

    def __init__(self, end: socket.socket, url: str, on_exit: Callable[[str], None]) -> None:
        self.end = end.dup()
        self.end.setblocking(False)

    def told(self) -> list[Told]:
        found: list[Told] = []
        while True:
            try:
                message = self.end.recv(1 << 16)
            except BlockingIOError:
                return found
            found.append(msgspec.msgpack.decode(message, type=Told))

    def wait(self, timeout_s: float | None = None) -> bool:
        self.end.close()
        return True

    def kill(self, reason: str | None = None) -> None:
        raise AssertionError(reason)


def listening(tracer: Tracer) -> Listener:
    assert isinstance(tracer._exporter, Listener)
    return tracer._exporter


def make_told(**fields: Any) -> Told:
    values: dict[str, Any] = {
        "trace_id": bytes.fromhex(TRACE_ID), "span_id": b"12345678", "parent_id": bytes.fromhex(SPAN_ID),
        "flags": 1, "state": b"vendor=1", "began": 100.0, "took_s": 0.01, "queued_s": 0.001, "queue_s": 0.002,
        "compute_s": 0.004, "upstream_ms": None, "project": "p", "model": "m", "version": "v1",
        "shadow": False, "url": "/projects/p/models/m:predict", "status": 200, "code": None,
        "request_id": "r", "endpoint": "local/0", "rows": 1, "batch_rows": 4, "confidence": 0.5,
        "nodes": None,
    }  # fmt: skip
    return Told(**(values | fields))


def test_a_request_becomes_a_span_with_its_parts_below() -> None:
    root, queue, compute = Weaver().weave(make_told())
    assert root.name == "predict p/m"
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert (root.start_time, root.end_time) == (100_000_000_000, 100_010_000_000)
    assert root.attributes["mdslite.request_id"] == "r"  # type: ignore[index]
    assert root.context.trace_state.to_header() == "vendor=1"
    assert [one.name for one in (queue, compute)] == ["queue", "compute"]
    assert all(one.parent is root.context for one in (queue, compute))
    assert (queue.start_time, queue.end_time) == (100_001_000_000, 100_003_000_000)
    assert compute.end_time == 100_007_000_000


def test_what_another_host_computed_is_a_client_s_span_and_a_failure_says_its_code() -> None:
    root, upstream = Weaver().weave(
        make_told(upstream_ms=5.0, endpoint="http://far", status=503, code="unavailable", parent_id=None)
    )
    assert (root.parent, root.status.is_ok, root.status.description) == (None, False, "unavailable")
    assert (upstream.name, upstream.kind.name) == ("upstream", "CLIENT")
    assert upstream.attributes == {"server.address": "http://far"}


def test_a_pipelines_nodes_are_spans_and_their_errors_stay_in_the_log() -> None:
    inner = {"node": "b", "started_ms": 1.0, "compute_ms": 1.0, "error": "KeyError: secret"}
    nodes = json.dumps(
        [{"node": "a", "started_ms": 2.0, "queue_ms": 1.0, "compute_ms": 3.0, "spans": [inner]}]
    )
    root, a, b = Weaver().weave(make_told(nodes=nodes, batch_rows=0))
    assert (a.parent, b.parent) == (root.context, a.context)
    assert (a.start_time, a.end_time) == (100_003_000_000, 100_007_000_000)
    assert not b.status.is_ok
    assert "secret" not in str(b.to_json())
    assert len(list(Weaver().weave(make_told(nodes="no JSON")))) == 3


def test_a_collectors_address_may_have_its_path() -> None:
    assert traces_url("http://c:4318/") == traces_url("http://c:4318/v1/traces") == "http://c:4318/v1/traces"


def test_callers_decide_of_their_traces_and_a_share_of_the_others_begins_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            tracer = Tracer("http://nowhere", share=0.0, launch=Listener)
            await tracer.start()
            site.predictor.books.tracer = tracer
            for parent in (PARENT, PARENT[:-2] + "00", None):
                headers = [] if parent is None else [("traceparent", parent)]
                assert (await site.ask(predict(headers=headers))).status == 200
            await site.ask(predict(headers=[("traceparent", PARENT)], body=b"nonsense"))
            good, failed = listening(tracer).told()
            assert good.trace_id == failed.trace_id == bytes.fromhex(TRACE_ID)
            assert good.parent_id == bytes.fromhex(SPAN_ID)
            assert (good.status, failed.status, failed.code) == (200, 400, "invalid_json")
            assert 0 < good.compute_s < good.took_s
            tracer._share = 1.0
            await site.ask(predict())
            (begun,) = listening(tracer).told()
            assert begun.parent_id is None
            await until(lambda: len(site.rows) == 5)
            assert site.logged[-1]["trace_id"] == begun.trace_id
            assert site.logged[-2]["trace_id"] == bytes.fromhex(TRACE_ID)
            await tracer.close()
            assert (tracer.sent, tracer.dropped) == (3, 0)

    run(test())


def test_no_more_are_told_than_may_be_and_nobody_waits_for_a_slow_exporter(tmp_path: Path) -> None:
    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            bounded = Tracer("http://nowhere", share=1.0, per_second=2, launch=Listener)
            await bounded.start()
            bounded._until, site.predictor.books.tracer = 1e12, bounded
            for _ in range(4):
                await site.ask(predict())
            assert (bounded.sent, bounded.dropped) == (2, 2)
            await bounded.close()

            deaf = Tracer("http://nowhere", share=1.0, per_second=1 << 30, launch=Listener)
            await deaf.start()
            site.predictor.books.tracer = deaf
            while not deaf.dropped:
                assert (await site.ask(predict())).status == 200
            assert deaf.sent > 10
            await deaf.close()
            await site.ask(predict())  # a tracer that is closed drops

    run(test())


def test_an_exporter_that_died_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdslite.tracing.RESTART_S", 0.0)

    async def test() -> None:
        async with open_site(tmp_path, Deployed(models.identity(tmp_path / "m.onnx"))) as site:
            tracer = Tracer("http://nowhere", share=1.0, launch=Listener)
            await tracer.start()
            first = listening(tracer)
            site.predictor.books.tracer = tracer
            first.end.close()
            await site.ask(predict())
            await until(lambda: tracer._exporter is not first and tracer._socket is not None)
            await site.ask(predict())
            assert len(listening(tracer).told()) == 1
            await tracer.close()

    run(test())


def test_a_shadows_span_hangs_on_its_primarys() -> None:
    trace = Trace(bytes(15) + b"1", None, 1)
    assert trace.child() is trace
    trace.begin_span()
    child = trace.child()
    assert (child.trace_id, child.parent_id) == (trace.trace_id, trace.span_id)
    assert child.span_id not in (None, trace.span_id)


def test_without_opentelemetry_one_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdslite.tracing._EXTRA", "opentelemetry_that_is_not_there")
    with pytest.raises(InvalidRequest) as caught:
        check_installed()
    assert "mdslite[otel]" in str(caught.value.hint)


def test_an_appliance_exports_what_it_was_asked(tmp_path: Path) -> None:
    models.identity(tmp_path / "m.onnx")
    with collecting() as collector:
        with up("m.onnx", "--traces", collector.url, "--trace-share", "1", cwd=tmp_path) as live:
            url = f"{live.url}/projects/default/models/m:predict"
            request = Request(
                url, json.dumps({"instances": [ROW]}).encode(), {"content-type": "application/json"}
            )
            with urlopen(request) as reply:
                assert reply.status == 200
            with urlopen(f"{live.url}/metrics") as reply:
                assert b"\nmdslite_traces_total 1\n" in reply.read()
            code, err = live.stop()
            assert (code, "Traceback" in err) == (0, False)
        collector.wait(lambda: len(collector.spans) >= 3)
    assert collector.resource["service.name"] == "mdslite"
    assert {span["name"] for span in collector.spans} == {"predict default/m", "queue", "compute"}
