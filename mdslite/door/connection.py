"""One HTTP/1.1 connection of the door: one answer at a time to the requests that its `Receiver` half makes of
the bytes. Owns the order of the answers, the connection's deadlines and its end.

One request is in progress at a time and pipelined ones wait, so few that reading can go on: only who reads
notices that a client left. More of them stop the reading until they are answered. A client that closes its
sending side counts as gone, as with most servers: its work is cancelled.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Literal, cast

from mdslite.door.asgi import Exchange
from mdslite.door.backlog import Backlog
from mdslite.door.events import EventWriter
from mdslite.door.heads import KnownHead
from mdslite.door.receiver import Receiver
from mdslite.door.replies import STATUS_LINES, DoorCall, reply_head
from mdslite.errors import MdsliteError, Overloaded, RequestTimeout, Unavailable
from mdslite.http.guard import error_body, error_headers, error_lines, make_request_id
from mdslite.http.paths import is_prediction
from mdslite.http.request import Headers, Request, check
from mdslite.predict.call import Call, reply_headers
from mdslite.predict.deferred import wants_later

if TYPE_CHECKING:
    from mdslite.door.door import Door

_NEVER = math.inf
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# What the connection is waiting for, and so what its deadline means.
State = Literal["idle", "head", "body", "answer", "held", "reader", "farewell"]


class Connection(Receiver):
    """One accepted connection."""

    __slots__ = (
        "_call",
        "_door",
        "_ended",
        "_events",
        "_exchange",
        "_loop",
        "_paused",
        "_pending",
        "_request",
        "_seen_bytes",
        "_writable",
        "deadline",
        "quiet_since",
        "state",
        "transport",
    )

    def __init__(self, door: Door, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(door.predictor)
        self.transport: asyncio.Transport
        self.deadline = _NEVER
        self.quiet_since = 0.0  # since when no request is in progress
        self.state: State = "idle"
        self._door = door
        self._loop = loop
        self._seen_bytes = 0  # how far a body or a reader was when its deadline was last moved
        self._ended = False  # the last reply is written
        self._paused = False
        self._writable = True
        self._request: Request | None = None
        self._pending = Backlog()
        self._call: Call | None = None
        self._exchange: Exchange | None = None
        self._events: EventWriter | None = None  # of the call, once it has begun to answer in pieces

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        door = self._door
        door.connections.add(self)
        self.quiet_since = perf_counter()
        self._wait_for("idle", door.limits.head_s)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self.hand_over(b"")
        elif len(door.connections) > door.limits.connections:
            door.count_closed("too_many")
            self._refuse(Unavailable("too many connections are open", retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        self._deaf = self._ended = True
        self._pending.clear()
        if self._call is not None:
            call, self._call = self._call, None
            self._events = None
            call.cancel()
        if self._exchange is not None:
            self._exchange.disconnected()
            self._exchange = None
        # The parser and this object hold each other, and maybe a large body: let go at once.
        self._parser = self._request = self._latest = self._known = None
        self._body, self._landing, self._claim = b"", None, None

    def pause_writing(self) -> None:
        self._writable = False
        self._wait_for("reader", self._door.limits.write_s)
        self._seen_bytes = -self.transport.get_write_buffer_size()
        if self._exchange is not None:
            self._exchange.writable.clear()
        if self._call is not None and self._call.stream is not None:
            self._call.stream.pause()

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchange is not None:
            self._exchange.writable.set()
        if self._call is not None and self._call.stream is not None:
            self._call.stream.resume()
        if self._ended:
            self._wait_for("farewell", self._door.limits.linger_s)
        elif self._request is not None:
            self.state, self.deadline = "answer", _NEVER
        else:
            self._advance(perf_counter())

    # The receiver's side

    def take(self, request: Request) -> None:
        if self._request is None and not self._pending and self._writable and self.state != "held":
            self._begin(request)
            return
        if self._pending.add(request) and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def take_again(self, known: KnownHead, body: bytes) -> None:
        now = perf_counter()
        if self._request is None and not self._pending and self._writable and self.state != "held":
            self._request = known.request
            self.state = "answer"
            self.deadline = _NEVER
            self._predict(known.request, body, now)
        else:
            self.take(known.repeat(body, now))

    def refuse(self, error: MdsliteError) -> None:
        """Answer what is no proper request, after those that came before it, and close."""
        self.take(self.known_request(error))

    def await_rest(self) -> None:
        """Set the deadline of an incomplete message, unless its client has to wait for us."""
        if self._request is not None or not self._writable or self.state in (self._phase, "held"):
            return
        if self._phase == "head":
            self._wait_for("head", self._door.limits.head_s)
            return
        self._wait_for("body", self._door.limits.body_s)
        self._seen_bytes = self._body_bytes
        if b"expect" in self._fields and not self._body_bytes and self._parser.get_http_version() == "1.1":
            self.transport.write(_CONTINUE)

    def hand_over(self, data: bytes) -> None:
        self._door.connections.discard(self)
        self._deaf = True
        self._door.adopt_http2(self.transport, data)
        self._parser = None  # it knows this object

    def switch(self, protocol: asyncio.BaseProtocol) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        # A transport that reads into a buffer of the protocol's has to begin anew.
        transport.pause_reading()
        transport.set_protocol(protocol)
        if not self._paused:
            transport.resume_reading()

    # One request after the other

    def _begin(self, request: Request) -> None:
        door = self._door
        self._request = request
        self.state = "answer"
        self.deadline = _NEVER
        fields = request.fields
        is_predict = request.method == b"POST" and is_prediction(request.target)
        try:
            if request.error is not None and not is_predict:
                raise request.error
            check(request)
            door.allow_list.admit(fields.get(b"host"), fields.get(b"origin"))
        except MdsliteError as exc:
            request.keep_alive = False
            self.answer_error(request, exc)
            return
        if not is_predict or (b"prefer" in fields and request.error is None and wants_later(fields)):
            self._exchange = Exchange(self, request, door.app)
            door.run(self._exchange)
            return
        request.passed = request.error is None
        self._predict(request, request.body, request.arrived_at)

    def _predict(self, request: Request, body: bytes | memoryview, arrived_at: float) -> None:
        """Have a request answered by the predict function; `request` may be one that came before with the
        same head."""
        door, fields = self._door, request.fields
        call = self._call = DoorCall(
            request.target,
            body,
            fields.get(b"content-type", b""),
            fields.get(b"content-encoding", b""),
            fields.get(b"x-request-id"),
            arrived_at,
            self._reply_call,
        )
        call.fields = fields
        call.on_piece = self._send_piece
        if not door.predictor.access.idle:
            call.authorization = fields.get(b"authorization", b"")
        if not request.target.startswith(b"/projects/"):
            door.predictor.adopt(call)
        door.predictor.start(call, request.error)

    def _send_piece(self, call: Call, piece: bytes) -> None:
        request = self._request
        if request is None or self._call is not call:
            return
        if self._events is None:
            self._events = EventWriter(self, request, reply_headers(call, perf_counter()))
        self._events.write(piece)

    def _reply_call(self, call: Call, status: int, body: bytes) -> None:
        self._call = None
        request = self._request
        if request is None:
            return
        if self._events is not None:
            events, self._events = self._events, None
            events.end()
            return
        now = perf_counter()
        served = call.served
        if request.keep_alive and not self._door.closing:
            # The common case, written at once: as `_respond` would, in less than a microsecond.
            version = "" if served is None else f"mdslite-version: {served.version}\r\n"
            more = "" if call.error is None else error_lines(call.error)
            if request.version != "1.1":
                more += "connection: keep-alive\r\n"
            head = (
                f"{STATUS_LINES[status]}{self._door.date}{call.reply_lines}"
                f"mdslite-request-id: {call.request_id}\r\n{version}"
                f"server-timing: {call.timing(now)}\r\n{more}content-length: {len(body)}\r\n\r\n"
            )
            self._predictor.outbox.send(self.transport, head.encode() + body)
            self._request = None
            if status == Overloaded.status and self._writable and self._door.pace.hold(self, now):
                self._hold()
            else:
                self._advance(now)
        else:
            self._respond(request, status, reply_headers(call, now), body)

    def answer_error(self, request: Request, error: MdsliteError) -> None:
        """Answer a request in the application's stead."""
        self._exchange = None
        request_id = make_request_id(request.fields.get(b"x-request-id"))
        headers = [*error_headers(error), (b"mdslite-request-id", request_id.encode())]
        self._respond(request, error.status, headers, error_body(error, request_id))

    def _respond(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole reply and go on to the next request."""
        keep_alive = self.keeps_alive(request)
        head = reply_head(request, status, headers, date=self._door.date, keep_alive=keep_alive)
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + length + (b"" if request.method == b"HEAD" else body))
        self.finish(keep_alive=keep_alive)

    def keeps_alive(self, request: Request) -> bool:
        """Whether the connection goes on after this request; while the door closes, for what has arrived."""
        received = bool(self._pending) or self._phase != "none"
        return request.keep_alive and (received or not self._door.closing)

    @property
    def date(self) -> str:
        """The field of a reply that is written now."""
        return self._door.date

    def finish(self, *, keep_alive: bool) -> None:
        """The answer in progress, whose head announced `keep_alive`, is written."""
        self._request = self._exchange = None
        if keep_alive:
            self._advance(perf_counter())
        else:
            self._say_goodbye()

    def _advance(self, now: float) -> None:
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
        if self._phase == "none":
            self.quiet_since = now
            self.state = "idle"
            self.deadline = now + self._door.limits.idle_s
        else:
            self.await_rest()

    def _hold(self) -> None:
        """Leave what comes unread until `let_go`."""
        self.state, self.deadline = "held", _NEVER
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def let_go(self) -> None:
        if self.state == "held" and not self._ended:
            self.state = "answer"
            self._advance(perf_counter())

    def _begin_next(self) -> None:
        if self._pending and self._request is None and self._writable:
            self._begin(self._pending.popleft())

    # Endings

    def _say_goodbye(self) -> None:
        """Close so that the reply arrives: to close with bytes unread would reset the connection."""
        self._deaf = self._ended = True
        self._pending.clear()
        transport = self.transport
        if transport.is_closing():
            return
        is_read = self._phase == "none" and not self._paused
        if self._paused:
            self._paused = False
            transport.resume_reading()
        if transport.can_write_eof():
            with suppress(OSError):
                transport.write_eof()
        elif is_read:
            transport.close()
        if self._writable:
            self._wait_for("farewell", self._door.limits.linger_s)

    def overdue(self) -> None:
        """The sweep's word: the deadline has passed."""
        match self.state:
            case "body" | "reader" if self._has_moved():
                pass
            case "head" | "body":
                self._door.count_closed(f"slow_{self.state}")
                self._refuse(RequestTimeout(f"the request's {self.state} did not arrive in time"))
            case "reader":
                self._door.count_closed("slow_reader")
                self.abort()
            case "farewell" if self.transport.get_write_buffer_size():
                self.pause_writing()  # the reply is still on its way: from now on a reader's time counts
            case "farewell":
                self.abort()
            case _:
                self._door.count_closed("idle")
                self._hang_up()

    def _has_moved(self) -> bool:
        """Let what a body or a reader moved since the last look buy it time; whether that is enough."""
        at_bytes = self._body_bytes if self.state == "body" else -self.transport.get_write_buffer_size()
        self.deadline += (at_bytes - self._seen_bytes) / self._door.limits.min_rate_bytes_per_s
        self._seen_bytes = at_bytes
        return self.deadline > perf_counter()

    def close_if_quiet(self, since: float) -> None:
        """Close if no request has been in progress or arriving since then."""
        if self.state == "idle" and self.quiet_since < since:
            self._hang_up()

    def _hang_up(self) -> None:
        self._deaf = self._ended = True
        self.transport.close()
        self._wait_for("farewell", self._door.limits.linger_s)

    def abort(self) -> None:
        self._deaf = self._ended = True
        self._pending.clear()
        self.transport.abort()

    def _wait_for(self, state: State, seconds: float) -> None:
        self.state = state
        self.deadline = perf_counter() + seconds
