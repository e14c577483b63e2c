"""What each node of a pipeline did for one request, as the log keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mdslite.serving.queue import Job

MAX_BYTES = 16 * 1024
_MAX_ERROR_CHARS = 200

_quote = msgspec.json.Encoder().encode


class Span:
    """One node's part in a request, over all its batches: times add up, `batch_rows` is the largest.

    `version` is the handler's, or that of the deployed model which answered; `upstream_ms` is what a remote
    endpoint took of it; `inner` are the spans of a pipeline that answered.
    """

    __slots__ = (
        "batch_rows", "begun_s", "compute_s", "error", "inner", "queue_s", "rows", "upstream_ms", "version",
    )  # fmt: skip

    def __init__(self, *, begun_s: float, version: str | None = None) -> None:
        self.begun_s = begun_s  # since the request came into the pipeline
        self.version = version
        self.queue_s = 0.0
        self.compute_s = 0.0
        self.rows = 0
        self.batch_rows = 0
        self.upstream_ms: float | None = None
        self.error: str | None = None
        self.inner: str | None = None

    def add(self, job: Job) -> None:
        """Count a job in that the node has finished."""
        if job.started_at:
            self.queue_s += job.started_at - job.queued_at
        self.compute_s += job.compute_s
        self.rows += job.columns.rows
        if job.batch_rows > self.batch_rows:
            self.batch_rows = job.batch_rows
        if job.upstream_ms is not None:
            self.upstream_ms = (self.upstream_ms or 0.0) + job.upstream_ms
        if job.spans is not None:
            self.inner = job.spans

    def write(self, name: str, *, nested: bool = True) -> str:
        """The span as JSON; `name` is the node's, as JSON too."""
        # By hand: a dict of rounded numbers costs three times as much, at every node of every request.
        version = "null" if self.version is None else _quote(self.version).decode()
        text = (
            f'{{"node":{name},"version":{version},"started_ms":{self.begun_s * 1e3:.3f},'
            f'"queue_ms":{self.queue_s * 1e3:.3f},"compute_ms":{self.compute_s * 1e3:.3f},'
            f'"rows":{self.rows},"batch_rows":{self.batch_rows}'
        )
        if self.upstream_ms is not None:
            text += f',"upstream_ms":{self.upstream_ms:.3f}'
        if self.error is not None:
            text += f',"error":{_quote(self.error[:_MAX_ERROR_CHARS]).decode()}'
        if nested and self.inner is not None:
            text += f',"spans":{self.inner}'
        return text + "}"


def write_spans(spans: Sequence[tuple[str, Span]]) -> str:
    """Spans, each with its node's name as JSON, as a JSON array; those of nested pipelines are left out when
    the whole would be too long."""
    text = f"[{','.join([span.write(name) for name, span in spans])}]"
    if len(text) > MAX_BYTES:
        text = f"[{','.join([span.write(name, nested=False) for name, span in spans])}]"
    return text
