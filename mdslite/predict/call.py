"""One predict request on its way through the appliance, and the reply to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from mdslite.errors import ClientClosed
from mdslite.http.guard import error_fields, make_request_id
from mdslite.predict.events import Pieces, make_event
from mdslite.runtimes.protocol import Outputs
from mdslite.serving.fleet import Served
from mdslite.serving.queue import Job
from mdslite.serving.router import Route
from mdslite.serving.samples import Samples

if TYPE_CHECKING:
    from mdslite.predict.predictor import Predictor

Headers = Sequence[tuple[bytes, bytes]]

LOGGED_EVENTS_BYTES = 4096

# What a reply's head says of its body, as it goes over the wire.
JSON_LINES = "content-type: application/json\r\n"
EVENT_LINES = "content-type: text/event-stream\r\ncache-control: no-store\r\n"


_NO_FIELDS: Mapping[bytes, bytes] = MappingProxyType({})


class Form(Protocol):
    """How an answer is put that is not in the JSON of the predict URLs."""

    def write(self, call: Call, outputs: Outputs | None) -> bytes:
        """Encode the answer, None where there were no rows, and set the call's `reply_lines`.

        :raises MdsliteError: it cannot be put like this
        """
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. `headers` lack content-length and date, which belong to the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    pieces: Pieces | None = None  # instead of the body, where the answer is a stream of events


def answer_nobody(call: Call, status: int, body: bytes) -> None:
    """The `reply` of a call that is made for another purpose than its answer."""


class Call(Job):
    """One predict request. Whoever makes it fills the request part and calls `Predictor.start`."""

    __slots__ = (
        "admitted", "authorization", "body", "client", "coding", "encoding", "fields", "form", "kept",
        "media_type", "on_piece", "plan", "predictor", "reply", "reply_lines", "request_id", "route", "sent",
        "served", "target", "timeout_s", "url",
    )  # fmt: skip

    shadow = False
    describe = "GET /v2/models/{}"  # what tells its caller of a model's inputs

    on_piece: Callable[[Call, bytes], None]  # set by whoever can send an answer in pieces
    predictor: Predictor

    def __init__(
        self,
        target: bytes,
        body: bytes | memoryview,
        media_type: bytes,
        encoding: bytes,
        request_id: bytes | None,
        arrived_at: float,
        reply: Callable[[Call, int, bytes], None],
    ) -> None:
        Job.__init__(self)  # `super()` costs as much again
        self.target = target
        self.body: Any = body  # bytes; or, of a large one that is no JSON, a view of them
        self.media_type = media_type
        self.encoding = encoding
        self.request_id = make_request_id(request_id)
        self.arrived_at = arrived_at
        self.reply = reply
        self.fields: Mapping[bytes, bytes] = _NO_FIELDS  # the request's header
        self.authorization = b""  # set where somebody asks for it
        self.client: str | None = None  # whose token that was
        self.admitted = False  # who sent it has been let in before
        self.route: Route[Served] | None = None
        self.served: Served | None = None
        self.url = ""
        self.form: Form | None = None  # of the answer, where it is not the predict URLs' JSON
        self.plan: Any = None  # what the form remembers of the request
        self.timeout_s = math.inf  # that the caller gave it
        self.coding = ""  # that the caller wishes for the answer's body
        self.reply_lines = JSON_LINES
        self.sent = b""  # the first of the pieces, for the log
        self.kept = False  # its bodies are in the log, if there is room for them

    def resolved(self) -> None:
        self.predictor.finish(self)

    def emitted(self, piece: bytes) -> None:
        self.reply_lines = EVENT_LINES
        event = make_event(piece)
        if len(self.sent) < LOGGED_EVENTS_BYTES:
            self.sent += event
        self.on_piece(self, event)

    def cancel(self) -> None:
        """The client left: free what the request holds and log it as 499."""
        if self.lane is not None and not self.finished:
            self.lane.cancel(self)
            self.predictor.books.record(self, ClientClosed.status, ClientClosed.code, None)

    def is_due(self, samples: Samples, now: float, *, failed: bool) -> bool:
        """Are the bodies of this request, which has been answered, for the log?"""
        due = self.kept = samples.due(
            now, failed=failed, confidence=self.confidence, request_id=self.request_id
        )
        return due

    def logged_reply(self, reply: bytes | None) -> bytes | None:
        """The reply as the log keeps it; `reply` is what was sent."""
        return reply

    def timing(self, now: float) -> str:
        """The value of `server-timing`, in milliseconds."""
        total_ms = _write_ms(now - self.arrived_at)
        if not self.started_at:
            return f"total;dur={total_ms}"
        queue_ms, compute_ms = _write_ms(self.started_at - self.queued_at), _write_ms(self.compute_s)
        return f"queue;dur={queue_ms}, compute;dur={compute_ms}, total;dur={total_ms}"


# To look one of these up takes less time than to make it, and every answer has three.
_SHORT_MS = tuple(f"{us / 1e3:.3f}" for us in range(4096))


def _write_ms(seconds: float) -> str:
    """Milliseconds, with three digits of their fraction."""
    us = int(seconds * 1e6 + 0.5)
    return _SHORT_MS[us] if 0 <= us < 4096 else f"{us / 1e3:.3f}"


def reply_headers(call: Call, now: float) -> list[tuple[bytes, bytes]]:
    """The headers of a predict reply, in the order in which every way in sends them."""
    lines = call.reply_lines.encode("latin-1").split(b"\r\n")[:-1]
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    headers.append((b"mdslite-request-id", call.request_id.encode()))
    if call.served is not None:
        headers.append((b"mdslite-version", call.served.version.encode()))
    headers.append((b"server-timing", call.timing(now).encode()))
    if call.error is not None:
        headers += error_fields(call.error)
    return headers
