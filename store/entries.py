"""One logged request as it is handed out, and how it is made of what an hour file's reader found. Owns no
file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mdslite.store.rows import Labels


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


def make_entries(rows: Sequence[tuple[Any, ...]], labels: dict[int, Labels]) -> list[Entry]:
    return [_entry(row, labels[row[3]]) for row in rows]


def _entry(row: tuple[Any, ...], labels: Labels) -> Entry:
    (
        number, lag_us, request_id, _, url, latency_us, queue_us, compute_us, upstream_us, rows, batch_rows,
        confidence, request, reply, request_bytes, reply_bytes, spans, trace_id,
    ) = row  # fmt: skip
    # By place, which takes a quarter of the time: pages of a busy log are asked for again and again.
    return Entry(
        number,
        (number - lag_us) / 1e6,
        request_id,
        labels.project,
        labels.model,
        labels.version,
        labels.shadow,
        url,
        labels.status,
        labels.code,
        latency_us / 1e3,
        None if queue_us is None else queue_us / 1e3,
        None if compute_us is None else compute_us / 1e3,
        None if upstream_us is None else upstream_us / 1e3,
        rows,
        batch_rows,
        confidence,
        labels.endpoint,
        None if request is None else _body(request, request_bytes),
        None if reply is None else _body(reply, reply_bytes),
        None if spans is None else _spans(spans),
        labels.client,
        None if trace_id is None else trace_id.hex(),
    )


def _spans(text: str) -> tuple[NodeSpan, ...] | None:
    try:
        return msgspec.json.decode(text, type=tuple[NodeSpan, ...])
    except (
        msgspec.MsgspecError
    ):  # who logged it had another idea of spans: the request is still worth showing
        return None


def _body(content: str | bytes, size_bytes: int) -> LoggedBody:
    if isinstance(content, bytes):
        return LoggedBody(base64.b64encode(content).decode(), "base64", size_bytes, len(content) < size_bytes)
    return LoggedBody(content, "utf-8", size_bytes, len(content.encode()) < size_bytes)
