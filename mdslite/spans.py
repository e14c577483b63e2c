"""The process that exports traces: requests that the appliance tells of become OpenTelemetry spans, which its
own SDK batches and sends over OTLP/HTTP. Owns what a span says.

    python -P -m mdslite.spans SOCKET_FD URL

Everything else about the sending is OpenTelemetry's: OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_* and so on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from random import getrandbits
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TOLD_BYTES = 64 * 1024
NICE = 5
SERVICE = "mdslite"


class Told(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One request; `began` is Unix time in seconds, `queued_s` counts from there."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    flags: int
    state: bytes
    began: float
    took_s: float
    queued_s: float
    queue_s: float
    compute_s: float
    upstream_ms: float | None
    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    url: str
    status: int
    code: str | None
    request_id: str
    endpoint: str
    rows: int
    batch_rows: int
    confidence: float | None
    nodes: str | None  # spans of a pipeline's nodes, as JSON


class Weaver:
    """Makes spans of requests."""

    def __init__(self) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from mdslite import __version__

        about = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": SERVICE}
        self._resource = Resource.create({**about, "service.version": __version__})
        self._scope = InstrumentationScope(SERVICE, __version__)

    def weave(self, told: Told) -> Iterator[ReadableSpan]:
        """The request's span first, then what it consisted of."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        name = f"predict {told.project}/{told.model}" if told.model else "predict"
        status = Status(StatusCode.ERROR, told.code) if told.status >= 500 else Status(StatusCode.UNSET)
        root = self._context(told, told.span_id)
        parent = None if told.parent_id is None else self._context(told, told.parent_id, remote=True)
        yield self._span(
            name,
            root,
            parent,
            _attributes(told),
            told.began,
            told.took_s,
            kind=SpanKind.SERVER,
            status=status,
        )
        queued = told.began + told.queued_s
        parts: list[tuple[str, float, float, dict[str, Any], SpanKind]] = []
        if told.upstream_ms is not None:
            there = {"server.address": told.endpoint}
            parts.append(("upstream", queued + told.queue_s, told.upstream_ms / 1e3, there, SpanKind.CLIENT))
        elif told.batch_rows:
            parts.append(("queue", queued, told.queue_s, {}, SpanKind.INTERNAL))
            size = {"mdslite.batch_rows": told.batch_rows}
            parts.append(("compute", queued + told.queue_s, told.compute_s, size, SpanKind.INTERNAL))
        for part, began, took_s, attributes, kind in parts:
            yield self._span(part, self._new(told), root, attributes, began, took_s, kind=kind)
        if told.nodes is not None:
            with contextlib.suppress(msgspec.DecodeError):
                yield from self._nodes(told, msgspec.json.decode(told.nodes), root, queued)

    def _nodes(self, told: Told, nodes: Any, parent: Any, began: float) -> Iterator[ReadableSpan]:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        for node in nodes:
            context = self._new(told)
            start = began + node["started_ms"] / 1e3
            took_s = ((node.get("queue_ms") or 0.0) + (node.get("compute_ms") or 0.0)) / 1e3
            about = {"mdslite.rows": node.get("rows"), "mdslite.version": node.get("version")}
            attributes = {name: value for name, value in about.items() if value is not None}
            # What went wrong may quote what came: the log has it, by its rules.
            status = Status(StatusCode.ERROR if node.get("error") else StatusCode.UNSET)
            yield self._span(
                str(node["node"]),
                context,
                parent,
                attributes,
                start,
                took_s,
                kind=SpanKind.INTERNAL,
                status=status,
            )
            yield from self._nodes(told, node.get("spans") or (), context, start)

    def _span(
        self,
        name: str,
        context: Any,
        parent: Any,
        attributes: dict[str, Any],
        began: float,
        took_s: float,
        *,
        kind: Any,
        status: Any = None,
    ) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Status

        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status or Status(),
            start_time=int(began * 1e9),
            end_time=int((began + max(took_s, 0.0)) * 1e9),
            instrumentation_scope=self._scope,
        )

    def _new(self, told: Told) -> Any:
        return self._context(told, (getrandbits(64) or 1).to_bytes(8))

    def _context(self, told: Told, span_id: bytes, *, remote: bool = False) -> Any:
        from opentelemetry.trace import SpanContext, TraceFlags, TraceState

        return SpanContext(
            int.from_bytes(told.trace_id),
            int.from_bytes(span_id),
            is_remote=remote,
            trace_flags=TraceFlags(told.flags),
            trace_state=TraceState.from_header([told.state.decode("latin-1")]) if told.state else None,
        )


def _attributes(told: Told) -> dict[str, Any]:
    known = {
        "http.request.method": "POST",
        "http.response.status_code": told.status,
        "url.path": told.url or None,
        "error.type": told.code,
        "mdslite.project": told.project,
        "mdslite.model": told.model,
        "mdslite.version": told.version,
        "mdslite.shadow": told.shadow,
        "mdslite.request_id": told.request_id,
        "mdslite.endpoint": told.endpoint or None,
        "mdslite.rows": told.rows,
        "mdslite.confidence": told.confidence,
    }
    return {name: value for name, value in known.items() if value is not None}


def traces_url(url: str) -> str:
    """Where spans go: a collector's address, with or without the path."""
    return url if url.rstrip("/").endswith("/v1/traces") else f"{url.rstrip('/')}/v1/traces"


def serve(end: socket.socket, url: str) -> None:
    """Export what comes over the socket until nothing more will come."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=traces_url(url)))
    weaver = Weaver()
    while message := end.recv(TOLD_BYTES):
        with contextlib.suppress(msgspec.DecodeError):  # one that was cut short
            for span in weaver.weave(msgspec.msgpack.decode(message, type=Told)):
                processor.on_end(span)
    processor.shutdown()  # type: ignore[no-untyped-call]


def main(arguments: Sequence[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the appliance, whose end this one hears of
    with contextlib.suppress(OSError):
        os.nice(NICE)
    descriptor, url = arguments
    with socket.socket(fileno=int(descriptor)) as end:
        serve(end, url)


if __name__ == "__main__":
    main(sys.argv[1:])
