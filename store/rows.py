"""One logged request as the event loop hands it to the journal, and as bytes on its way to the writer's
process. Owns the order and bounds of its fields."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

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
    str | None,  # spans: what each node of a pipeline did, as JSON
    str | None,  # client: the name of the token that the caller showed
    bytes | None,  # trace_id: of the caller's trace, 16 bytes
]
ROW_FIELDS = (
    "time", "request_id", "project", "model", "version", "shadow", "url", "status", "code",
    "latency_ms", "queue_ms", "compute_ms", "upstream_ms", "rows", "batch_rows", "confidence", "endpoint",
    "request", "reply", "spans", "client", "trace_id",
)  # fmt: skip

# Where these stand, in a row and in its record.
CONFIDENCE: Final = 15
REQUEST: Final = 17
REPLY: Final = 18
SPANS: Final = 19
TRACE_ID: Final = 21

# A row on its way to the writer: its fields, its bodies cut, how they are kept (a `Keeping`, or None as long
# as it is SAMPLED), then the sizes of the whole bodies.
Record: TypeAlias = tuple[Any, ...]
RECORD_FIELDS: Final = len(ROW_FIELDS) + 3
KEEPING: Final = len(ROW_FIELDS)
_RUN_FIELDS = 7

MAX_URL_CHARS = 2048
MAX_ID_CHARS = 128
MAX_NAME_CHARS = 64
MAX_ENDPOINT_CHARS = 256
MAX_SPANS_CHARS = 16 * 1024
MAX_BODY_BYTES = 4096  # of either body, unless the version's rule says otherwise
TRACE_ID_BYTES = 16
# What is to be redacted goes whole, for a part of a JSON text is none; longer bodies are not kept then.
REDACTED_BYTES = 256 * 1024


class Keeping(NamedTuple):
    """How the bodies of a version's requests are kept."""

    max_bytes: int = MAX_BODY_BYTES  # of either body
    redact: tuple[str, ...] = ()  # names of fields whose values are not kept
    asked: bool = False  # a rule of the version's own chose them, so they are no part of the log's sample
    # Good answers less sure than this were all kept, and this share of the others.
    below: float | None = None
    share: float = 1.0


SAMPLED: Final = Keeping()


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Labels(NamedTuple):
    """What many rows share. The order is that of the `series` table."""

    project: str | None
    model: str | None
    version: str | None
    shadow: bool
    endpoint: str
    status: int
    code: str | None
    client: str | None = None


REPLAY: Final = "replay:"  # what the client of a replayed request is called, before the replay's number


def is_replay(labels: Labels) -> bool:
    """Was it asked by a replay? Then it is nobody's traffic. No token has a name like that."""
    return labels.client is not None and labels.client.startswith(REPLAY)


class Run:
    """Good answers of one batch whose bodies nobody keeps: what they share, and a tuple each for the rest.

    The event loop fills `calls` and then hands the run over whole. A call is (request_id, arrived, queued,
    answered, confidence, rows, trace_id), its times seconds of the clock of which `clock_to_unix` leads to
    unix time.
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
        self.calls: list[tuple[str, float, float, float, float | None, int, bytes | None]] = []


def pack_row(row: Row, keeping: Keeping = SAMPLED, *, bodies: bool = True) -> bytes:
    """A row as a record for the writer: its bodies cut, their whole sizes behind it.

    :raises TypeError, ValueError, OverflowError, IndexError: the row is not as `Row` says
    """
    request, reply = (row[REQUEST], row[REPLY]) if bodies else (None, None)
    limit = REDACTED_BYTES + 1 if keeping.redact else keeping.max_bytes
    cut = (
        None if request is None else bytes(request[:limit]),
        None if reply is None else bytes(reply[:limit]),
    )
    told = None if keeping is SAMPLED else keeping
    record = (*row[:REQUEST], *cut, *row[REPLY + 1 :], told, len(request or b""), len(reply or b""))
    try:
        return _pack(record)
    except UnicodeEncodeError:  # a lone surrogate
        return _pack([clean(field, len(field)) if isinstance(field, str) else field for field in record])


def pack_run(run: Run) -> bytes:
    """A run as a record for the writer.

    :raises TypeError, ValueError, OverflowError: the run is not as `Run` says
    """
    return _pack(
        (run.labels, run.url, run.started, run.compute_ms, run.batch_rows, run.clock_to_unix, run.calls)
    )


def unpack(record: bytes | memoryview) -> Record | Run:
    """What a record held.

    :raises ValueError: it is no record
    """
    fields = _unpack(record)
    if len(fields) != _RUN_FIELDS:
        return tuple(fields)
    labels, url, started, compute_ms, batch_rows, clock_to_unix, calls = fields
    run = Run(
        Labels(*labels),
        url,
        started=started,
        compute_ms=compute_ms,
        batch_rows=batch_rows,
        clock_to_unix=clock_to_unix,
    )
    run.calls = calls
    return run


def count_rows(record: Record | Run) -> int:
    return len(record.calls) if isinstance(record, Run) else 1


def clean(text: str, limit: int) -> str:
    """Cut to `limit` characters; what UTF-8 cannot carry (lone surrogates) becomes a question mark."""
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
