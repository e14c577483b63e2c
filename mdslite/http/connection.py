"""One HTTP/1.1 connection of the door: llhttp's callbacks on one side, one answer at a time on the other.

llhttp (through httptools) runs in its strict mode. One request is in progress at a time; pipelined ones wait,
and reading stops until they are answered. `Upgrade` headers are ignored, as RFC 9110 (7.8) allows. A client
that closes its sending side counts as gone, as with most servers: its work is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, cast

import httptools

from mdslite.errors import (
    InvalidRequest,
    MdsliteError,
    RequestTimeout,
    TooLarge,
    Unavailable,
    VersionNotSupported,
)
from mdslite.http.asgi import Exchange
from mdslite.http.guard import error_body, make_request_id
from mdslite.http.predict import Call, reply_headers

if TYPE_CHECKING:
    from mdslite.http.door import Door

logger = logging.getLogger(__name__)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ADMIN_BODY_BYTES = 4 * 1024 * 1024
HEAD_BYTES = 64 * 1024
HEADERS_MAX = 100
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
# Fields that frame a reply or belong to the connection: the door writes its own.
_OURS = frozenset({b"date", b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})

# What the connection is waiting for, and so what its deadline means.
State = Literal["idle", "head", "body", "answer", "reader", "farewell"]
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Request:
    """One parsed request, or (`error`) what could not be parsed as one. Header names are lower case."""

    method: bytes
    target: bytes
    version: str
    headers: Headers
    fields: dict[bytes, bytes]  # `headers` again, the last of each name
    body: bytes
    keep_alive: bool
    arrived_at: float
    error: MdsliteError | None = None


class Connection(asyncio.Protocol):
    """One accepted connection and its parser."""

    __slots__ = (
        "_arriving",
        "_body",
        "_body_bytes",
        "_body_limit",
        "_call",
        "_deaf",
        "_door",
        "_exchange",
        "_fields",
        "_first",
        "_head_bytes",
        "_headers",
        "_loop",
        "_parser",
        "_paused",
        "_pending",
        "_request",
        "_state",
        "_target",
        "_writable",
        "deadline",
        "quiet_since",
        "transport",
    )

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport
        self.deadline = math.inf
        self.quiet_since = 0.0  # since when no request is in progress
        self._door = door
        self._loop = loop
        self._parser: Any = httptools.HttpRequestParser(self)
        self._state: State = "idle"
        self._first: bytes | None = b""  # bytes that may yet become HTTP/2's preface
        self._deaf = False  # what still arrives is not read as requests
        self._paused = False
        self._writable = True
        self._request: Request | None = None
        self._pending: deque[Request] = deque()
        self._call: Call | None = None
        self._exchange: Exchange | None = None
        self._target = b""
        self._headers: Headers = []
        self._fields: dict[bytes, bytes] = {}
        self._arriving: Literal["head", "body"] | None = None  # what of a request is not complete yet
        self._head_bytes = 0  # received since the head began, a whole read at a time
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._body_limit = 0

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        door = self._door
        door.connections.add(self)
        self.quiet_since = perf_counter()
        self._wait_for("idle", door.limits.head_s)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._hand_over(b"")
        elif len(door.connections) > door.limits.connections:
            door.count_closed("too_many")
            self._refuse(Unavailable("too many connections are open", retry_after_s=1))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._first is not None:
            data = self._first + data
            if PREFACE.startswith(data[: len(PREFACE)]):
                if len(data) >= len(PREFACE):
                    self._hand_over(data)
                else:
                    self._first = data
                return
            self._first = None
        self._feed(data)
        if self._arriving is not None and not self._deaf:
            self._await_rest(len(data))
        if self._pending and not self._paused and not self._deaf:
            self._paused = True
            self.transport.pause_reading()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # An upgrade that is ignored: what follows is the next request of this connection.
            self._parser = httptools.HttpRequestParser(self)
            rest = data[exc.args[0] :]
            if rest and not self._deaf:
                self._feed(rest)
        except httptools.HttpParserCallbackError as exc:
            if not isinstance(exc.__context__, _Refused):
                logger.error("a connection's parser failed", exc_info=exc)
                self.abort()
        except httptools.HttpParserError as exc:
            if not self._deaf:
                self._refuse(_explain(exc))

    def _await_rest(self, received: int) -> None:
        """A request has come in part: bound its head, and give the rest a deadline."""
        if self._arriving == "head":
            self._head_bytes += received
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_long_head())
                return
        if self._request is not None or self._pending or self._state == self._arriving:
            return
        limits = self._door.limits
        if self._arriving == "head":
            self._wait_for("head", limits.head_s)
            return
        announced = int(self._fields.get(b"content-length", b"0"))
        self._wait_for("body", limits.body_s + announced / limits.body_bytes_per_s)
        if self._fields.get(b"expect", b"").lower() == b"100-continue" and not self._body:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._deaf = True
        self._pending.clear()
        if self._call is not None:
            call, self._call = self._call, None
            call.cancel()
        if self._exchange is not None:
            self._exchange.disconnected()
            self._exchange = None

    def pause_writing(self) -> None:
        self._writable = False
        self._wait_for("reader", self._door.limits.write_s)
        if self._exchange is not None:
            self._exchange.writable.clear()

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchange is not None:
            self._exchange.writable.set()
        if self._request is not None:
            self._state, self.deadline = "answer", math.inf
        elif not self._deaf:
            self._advance()

    # The parser's side

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []
        self._arriving = "head"

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._arriving = "body"
        self._head_bytes = self._body_bytes = self._body_limit = 0
        headers = self._headers
        fields = self._fields = dict(headers)
        if len(headers) > HEADERS_MAX:
            self._stop(_long_head())
        chunked = fields.get(b"transfer-encoding")
        if chunked is not None and chunked.lower() != b"chunked":
            self._stop(InvalidRequest("transfer-encoding: expected chunked alone"))
        length = fields.get(b"content-length")
        if length is None and chunked is None:
            return
        if self._target.startswith(b"/projects/"):
            self._body_limit = self._door.predictor.body_limit(fields.get(b"content-type", b""))
        else:
            self._body_limit = ADMIN_BODY_BYTES
        if length and int(length) > self._body_limit:
            self._stop(self._too_large())

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self._stop(self._too_large())
        self._body.append(body)

    def on_message_complete(self) -> None:
        parser, body = self._parser, self._body
        keep_alive = parser.should_keep_alive()
        # Without a Connection field only 1.1 keeps connections alive: no need to ask for the version then.
        plain = keep_alive and b"connection" not in self._fields
        request = Request(
            parser.get_method(),
            self._target,
            "1.1" if plain else parser.get_http_version(),
            self._headers,
            self._fields,
            b"" if not body else body[0] if len(body) == 1 else b"".join(body),
            keep_alive,
            perf_counter(),
        )
        self._body = []
        self._arriving = None
        if self._request is not None or self._pending or not self._writable:
            self._pending.append(request)
        else:
            self._begin(request)

    def _too_large(self) -> TooLarge:
        hint = "send large tensors in binary, as application/x-npy" if b":predict" in self._target else None
        return TooLarge(f"the body is longer than {self._body_limit} bytes", hint=hint)

    # One request after the other

    def _begin(self, request: Request) -> None:
        door = self._door
        self._request = request
        self._state = "answer"
        self.deadline = math.inf
        fields = request.fields
        try:
            _check(request)
            door.allow_list.admit(fields.get(b"host"), fields.get(b"origin"))
        except MdsliteError as exc:
            self._answer_error(request, exc)
            return
        if request.method == b"POST" and request.target.startswith(b"/projects/"):
            self._call = Call(
                request.target,
                request.body,
                fields.get(b"content-type", b""),
                fields.get(b"content-encoding", b""),
                fields.get(b"x-request-id"),
                request.arrived_at,
                self._reply_call,
            )
            door.predictor.start(self._call)
            return
        self._exchange = Exchange(self, request, door.app)
        door.run(self._exchange)

    def _reply_call(self, call: Call, status: int, body: bytes) -> None:
        self._call = None
        request = self._request
        if request is None:
            return
        served = call.served
        if status == 200 and served is not None and request.keep_alive and not self._door.closing:
            # The common case, written at once: as `respond` would, in about a microsecond.
            self.transport.write(
                b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\nmdslite-request-id: %b\r\n"
                b"mdslite-version: %b\r\nserver-timing: %b\r\n%bcontent-length: %d\r\n\r\n%b"
                % (
                    self._door.date,
                    call.request_id.encode(),
                    served.version.encode(),
                    call.timing(perf_counter()),
                    b"" if request.version == "1.1" else b"connection: keep-alive\r\n",
                    len(body),
                    body,
                )
            )
            self._finished(True)
        else:
            self._respond(request, status, reply_headers(call, perf_counter()), body)

    def _answer_error(self, request: Request, error: MdsliteError) -> None:
        request_id = make_request_id(request.fields.get(b"x-request-id"))
        headers = [(b"content-type", b"application/json"), (b"mdslite-request-id", request_id.encode())]
        self._respond(request, error.status, headers, error_body(error, request_id))

    def _respond(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole reply and go on to the next request."""
        keep_alive = request.keep_alive and not self._door.closing
        head = self.head(request, status, headers, keep_alive=keep_alive)
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + length + (b"" if request.method == b"HEAD" else body))
        self._finished(keep_alive)

    def head(self, request: Request, status: int, headers: Headers, *, keep_alive: bool) -> bytes:
        """Status line and fields, without the one that frames the body."""
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status, self._door.date]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in headers if name not in _OURS]
        if not keep_alive or self._door.closing:
            lines.append(b"connection: close\r\n")
        elif request.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        return b"".join(lines)

    def finish_exchange(self, *, keep_alive: bool) -> None:
        """The application's answer is written."""
        self._exchange = None
        self._finished(keep_alive and not self._door.closing)

    def _finished(self, keep_alive: bool) -> None:
        self._request = None
        if keep_alive:
            self._advance()
        else:
            self._say_goodbye()

    def _advance(self) -> None:
        """Begin the next pipelined request, or wait for one."""
        if not self._writable:
            return
        if self._pending:
            # From the loop, not from here: a thousand pipelined requests must not nest.
            self._loop.call_soon(self._begin_next)
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        self.quiet_since = now = perf_counter()
        self._state = "idle"
        self.deadline = now + self._door.limits.idle_s
        if self._arriving is not None:
            self._await_rest(0)

    def _begin_next(self) -> None:
        if self._pending and self._request is None and self._writable and not self._deaf:
            self._begin(self._pending.popleft())

    # Endings

    def _hand_over(self, data: bytes) -> None:
        self._door.connections.discard(self)
        self._deaf = True
        self._door.adopt_http2(self.transport, data)

    def _stop(self, error: MdsliteError) -> None:
        """End the connection from inside a callback of the parser."""
        self._refuse(error)
        raise _Refused

    def _refuse(self, error: MdsliteError) -> None:
        """Answer what is no proper request, after those that came before it, and close."""
        request = Request(b"", b"", "1.1", [], {}, b"", False, perf_counter(), error)
        if self._request is not None or self._pending or not self._writable:
            self._pending.append(request)
            self.transport.pause_reading()
            self._paused = True
        else:
            self._begin(request)

    def _say_goodbye(self) -> None:
        """Close so that the reply arrives: to close with bytes unread would reset the connection."""
        self._deaf = True
        self._pending.clear()
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._wait_for("farewell", self._door.limits.linger_s)
        else:
            self.transport.close()

    def overdue(self) -> None:
        """The sweep's word: the deadline has passed."""
        match self._state:
            case "head" | "body":
                self._door.count_closed(f"slow_{self._state}")
                self._refuse(RequestTimeout(f"the request's {self._state} did not arrive in time"))
            case "reader":
                self._door.count_closed("slow_reader")
                self.abort()
            case "farewell":
                self.abort()
            case _:
                self._door.count_closed("idle")
                self.transport.close()

    def close_if_quiet(self, since: float) -> None:
        """Close if no request has been in progress or arriving since then."""
        if self._state == "idle" and self.quiet_since < since:
            self.transport.close()

    def abort(self) -> None:
        self._deaf = True
        self.transport.abort()

    def _wait_for(self, state: State, seconds: float) -> None:
        self._state = state
        self.deadline = perf_counter() + seconds


class _Refused(Exception):
    """Ends llhttp's run after a refusal; the answer is already on its way."""


def _check(request: Request) -> None:
    if request.error is not None:
        raise request.error
    if request.version not in ("1.1", "1.0"):
        raise VersionNotSupported(f"HTTP/{request.version} is not served: expected 1.1 or 2")
    if len(request.fields) != len(request.headers):
        hosts = sum(name == b"host" for name, _ in request.headers)
        if hosts > 1:
            raise InvalidRequest(f"expected exactly one Host header, got {hosts}")
    if b"host" not in request.fields and request.version == "1.1":
        raise InvalidRequest("expected a Host header")
    target = request.target
    if not target.startswith(b"/"):
        raise InvalidRequest("expected a path as the request's target, such as /healthz")
    if b"%" in target and any(code in target.lower() for code in (b"%00", b"%0a", b"%0d")):
        raise InvalidRequest("the request's target holds a control character")


def _long_head() -> TooLarge:
    return TooLarge(f"the request's head is longer than {HEAD_BYTES} bytes or {HEADERS_MAX} fields")


def _explain(exc: httptools.HttpParserError) -> MdsliteError:
    if "HTTP version" in str(exc):
        return VersionNotSupported("this HTTP version is not served: expected 1.1 or 2")
    return InvalidRequest(f"malformed HTTP request: {exc}")
