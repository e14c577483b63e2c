"""One logged request as the event loop hands it to the journal. Owns the order and bounds of its fields."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

Row: TypeAlias = tuple[
    float,  # time: when the request arrived, unix seconds
    str,  # request_id
    str | None,  # project
    str | None,  # model
    str | None,  # version
    bool,  # shadow
    str,  # url
    int,  # status
    str | None,  # code: the error's stable code
    float,  # latency_ms: from arrival to answer
    float | None,  # queue_ms
    float | None,  # compute_ms
    float | None,  # upstream_ms: a remote endpoint's share; None when local
    int,  # rows of this request
    int,  # batch_rows: rows of the batch that it ran in
    float | None,  # confidence
    str,  # endpoint, such as local/0
    bytes | None,  # request body
    bytes | None,  # reply body
]
ROW_FIELDS = (
    "time", "request_id", "project", "model", "version", "shadow", "url", "status", "code",
    "latency_ms", "queue_ms", "compute_ms", "upstream_ms", "rows", "batch_rows", "confidence", "endpoint",
    "request", "reply",
)  # fmt: skip

# Where the bodies stand.
REQUEST: Final = 17
REPLY: Final = 18

MAX_URL_CHARS = 2048
MAX_ID_CHARS = 128
MAX_NAME_CHARS = 64
MAX_ENDPOINT_CHARS = 256


class Labels(NamedTuple):
    """What many rows share. The order is that of the `series` table."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    endpoint: str
    status: int
    code: str | None


class Run:
    """Good answers of one batch whose bodies nobody keeps: what they share, and a tuple each for the rest.

    The event loop fills `calls` and then hands the run over whole. A call is (request_id, arrived, queued,
    answered, confidence, rows), its times seconds of the clock of which `clock_to_unix` leads to unix time.
    """

    __slots__ = ("batch_rows", "calls", "clock_to_unix", "compute_ms", "labels", "started", "url")

    def __init__(
        self,
        labels: Labels,
        url: str,
        *,
        started: float,
        compute_ms: float,
        batch_rows: int,
        clock_to_unix: float,
    ) -> None:
        self.labels = labels
        self.url = url
        self.started = started  # when the batch began to run
        self.compute_ms = compute_ms
        self.batch_rows = batch_rows
        self.clock_to_unix = clock_to_unix
        self.calls: list[tuple[str, float, float, float, float | None, int]] = []


def without_bodies(row: Row) -> Row:
    return (*row[:17], None, None)


def clean(text: str, limit: int) -> str:
    """Cut to `limit` characters; what UTF-8 cannot carry (lone surrogates) becomes a question mark."""
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
