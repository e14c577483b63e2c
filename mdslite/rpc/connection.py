"""One connection of the gRPC port: its answers and its end. What comes is read by its other half, inbound.py;
what is answered is the exchanges' affair.

It is an HTTP/2 of its own because an RPC through a general one costs three times what the prediction does: a
header that was read before is one lookup here, and an answer is one write.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, cast

from mdslite.errors import RequestTimeout
from mdslite.http.policing import LAST_STREAM_ID, PREFACE, Reason, goaway, ping
from mdslite.http.request import HEAD_LIST_BYTES
from mdslite.http.tls import subject_of
from mdslite.rpc import frames
from mdslite.rpc.control import FAREWELL, FIRST_WINDOW, Cut
from mdslite.rpc.exchange import Exchange
from mdslite.rpc.heads import BadBlock, LongBlock
from mdslite.rpc.inbound import Inbound

if TYPE_CHECKING:
    from mdslite.rpc.door import RpcDoor

_EXPLANATION = b"this port speaks gRPC\n"
_NO_HTTP2 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_EXPLANATION), _EXPLANATION)
)
_FIRST_BLOCK = frames.REPLY_HEAD + frames.literal(b"grpc-accept-encoding", frames.CODINGS)
_FIRST_HEAD = len(_FIRST_BLOCK).to_bytes(3) + bytes((frames.HEADERS, frames.END_HEADERS))
_DATA_HEAD = bytes((frames.DATA, 0))
_LAST_HEAD = bytes((frames.HEADERS, frames.END_HEADERS | frames.END_STREAM))
_IGNORED_BYTES = 1024 * 1024
_NOTICE_S = 1.0  # how long the answer to the ping of a goodbye may take
_STILL_THERE = b"present?"


class RpcConnection(Inbound):
    """One accepted connection. Everything happens on the loop's thread."""

    def __init__(self, door: RpcDoor, loop: asyncio.AbstractEventLoop) -> None:
        now = perf_counter()
        super().__init__(door, now)
        self.address = ""
        self.subject: str | None = None
        self._loop = loop
        self._transport: asyncio.Transport
        self._over = False
        self._opened_at = now
        self._asked_at = -math.inf  # when the client was asked whether it is there
        self._drain_at = math.inf  # when a goodbye is taken as heard
        self._rests = False  # until the loop's next turn
        self._ignored_bytes = 0
        self._corked: list[bytes] = []
        self._window = FIRST_WINDOW
        self._stalled: dict[int, Exchange] = {}
        self._paused_at = math.inf

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.subject = None if tls is None else subject_of(transport.get_extra_info("peercert"))
        if not self._door.admit(self):
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at = perf_counter()
        if self._over:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > _IGNORED_BYTES:
                self.abort()
            return
        if not self._greeted and not self._rest and not PREFACE.startswith(data[: len(PREFACE)]):
            self._emit(_NO_HTTP2)
            self._door.count(Reason.PROTOCOL_ERROR)
            self.hang_up()
            return
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        try:
            self.read(data)
        except Cut as exc:
            self.cut(exc.reason, exc.error_code)
        except LongBlock:
            self.cut(Reason.HEADERS_TOO_LARGE)
        except BadBlock:
            self.cut(Reason.PROTOCOL_ERROR, frames.COMPRESSION_ERROR)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._door.forget(self)
        for exchange in list(self.streams.values()):
            self._let_go(exchange)
        self._kinds.clear()  # it and this object hold each other

    def pause_writing(self) -> None:
        self._paused_at = perf_counter()
        self._look_away()  # who does not take answers gets no more of them by asking

    def resume_writing(self) -> None:
        self._paused_at = math.inf
        self._pump_all()
        for exchange in list(self.streams.values()):
            exchange.wake()
        self._look_again()

    # What the reading half asks for

    def _welcome(self) -> None:
        limits = self.limits
        settings = (
            (frames.MAX_CONCURRENT_STREAMS, limits.streams),
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window_bytes),
            (frames.MAX_FRAME_SIZE, limits.frame_bytes),
            (frames.MAX_HEADER_LIST_SIZE, HEAD_LIST_BYTES),
        )
        wider = frames.window_update(0, limits.connection_window_bytes - FIRST_WINDOW)
        self._emit(frames.settings(settings) + wider)

    def _make(self, stream_id: int) -> Exchange:
        exchange = Exchange(self, stream_id)
        exchange.window = self._peer_window
        exchange.credit = self.limits.stream_window_bytes
        return exchange

    def _reset(self, exchange: Exchange) -> None:
        self._let_go(exchange)
        self._part()

    def _widened(self, amount: int, exchange: Exchange | None = None) -> None:
        if exchange is None:
            self._window += amount
            self._pump_all()
        else:
            exchange.window += amount
            self._pump(exchange)
        if self._window > frames.WINDOW_MAX:
            raise Cut(Reason.PROTOCOL_ERROR, frames.FLOW_CONTROL_ERROR)

    def _rest_a_turn(self) -> None:
        self._rests = True
        self._look_away()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._rests = False
        self._look_again()

    def _look_away(self) -> None:
        """Leave in the socket what the client sends."""
        if not self._over and not self._transport.is_closing():
            self._transport.pause_reading()

    def _look_again(self) -> None:
        """Read on, beginning with what was put aside, unless there is a reason left not to."""
        if self._over or self._rests or not self.is_writable:
            return
        now = self._heard_at = perf_counter()
        if self._rest:
            self._rest_at = now  # it could not come while nobody read
        if self._block_id:
            self._block_at = now
        if self._aside:
            self._take_in(b"")
        if not (self._over or self._rests) and self.is_writable and not self._transport.is_closing():
            self._transport.resume_reading()

    def _confirmed(self) -> None:
        if self._drain_at < math.inf:
            self._refuse_more()

    # Answers

    @property
    def is_writable(self) -> bool:
        return self._paused_at == math.inf

    def reply(self, exchange: Exchange, message: bytes, end: bytes) -> None:
        """Send a whole answer, in the common case at once."""
        size = len(message) + frames.PREFIX_BYTES
        room = min(self._peer_frame_bytes, self._window, exchange.window)
        if size > room or exchange.headed or exchange.ended or exchange.id not in self.streams:
            exchange.finish(message, end)
            return
        exchange.ended = True
        self._window -= size
        sid = exchange.sid
        # Header, message and end: three frames.
        head = b"%b%b%b%b%b%b" % (_FIRST_HEAD, sid, _FIRST_BLOCK, size.to_bytes(3), _DATA_HEAD, sid)
        last = b"%b%b%b%b" % (len(end).to_bytes(3), _LAST_HEAD, sid, end)
        self._emit(b"%b\0%b%b%b" % (head, len(message).to_bytes(4), message, last))
        self._retire(exchange, 1)

    def send(self, exchange: Exchange) -> None:
        """Send what an exchange has to say, as far as the client's windows let it."""
        if exchange.id not in self.streams:
            return
        if not exchange.headed and exchange.out:
            exchange.headed = True
            self._emit(_FIRST_HEAD + exchange.sid + _FIRST_BLOCK)
        self._pump(exchange)

    def _pump(self, exchange: Exchange) -> None:
        out, moved = exchange.out, False
        while out:
            room = min(self._window, exchange.window, self._peer_frame_bytes)
            if room <= 0 or not self.is_writable:
                break
            piece = out.popleft()
            if len(piece) > room:
                view = memoryview(piece)
                out.appendleft(view[room:])
                piece = view[:room]
            size = len(piece)
            self._window -= size
            exchange.window -= size
            self._emit(size.to_bytes(3) + _DATA_HEAD + exchange.sid)
            self._emit(piece if isinstance(piece, bytes) else bytes(piece))
            moved = True
        if out:
            if moved or exchange.id not in self._stalled:
                exchange.stalled_at = perf_counter()
            self._stalled[exchange.id] = exchange
            return
        self._stalled.pop(exchange.id, None)
        if exchange.ended:
            self._end(exchange)
        else:
            exchange.wake()

    def _pump_all(self) -> None:
        for exchange in list(self._stalled.values()):
            self._pump(exchange)

    def _end(self, exchange: Exchange) -> None:
        end = exchange.end if exchange.headed else _FIRST_BLOCK + exchange.end
        kind, flags, at = frames.HEADERS, frames.END_STREAM, 0
        while len(end) - at > self._peer_frame_bytes:
            self._emit(frames.frame(kind, flags, exchange.id, end[at : at + self._peer_frame_bytes]))
            at += self._peer_frame_bytes
            kind, flags = frames.CONTINUATION, 0
        self._emit(frames.frame(kind, flags | frames.END_HEADERS, exchange.id, end[at:]))
        self._retire(exchange, exchange.headed)

    def _retire(self, exchange: Exchange, answers: int) -> None:
        """An answer is out; an error alone is none."""
        del self.streams[exchange.id]
        if not exchange.closed:
            self._emit(frames.reset(exchange.id, frames.NO_ERROR))
        exchange.wake()
        self._earn(answers)
        self._door.left(exchange)
        if self._final_id != LAST_STREAM_ID:
            self._part()

    def _emit(self, data: bytes) -> None:
        """Write with what else this turn of the loop brings; nothing behind the end, which others that were
        read together with its cause would still ask for."""
        if self._over:
            return
        if not self._corked:
            self._loop.call_soon(self._uncork)
        self._corked.append(data)

    def _uncork(self) -> None:
        corked = self._corked
        if corked and not self._transport.is_closing():
            self._transport.write(corked[0] if len(corked) == 1 else b"".join(corked))
        corked.clear()

    # Endings

    def check(self, now: float) -> None:
        """The sweep's: act on what is overdue."""
        limits = self.limits
        if self._over:
            return
        is_late = not self._greeted and now - self._opened_at > limits.head_s
        if now - self._paused_at > limits.write_s:
            self._door.count(Reason.SLOW_READER)
            self.abort()
        elif is_late or (self.is_writable and now - min(self._rest_at, self._block_at) > limits.head_s):
            self.cut(Reason.SLOW_HEADERS)
        elif self._asked_at > self._heard_at:
            if now - self._asked_at > limits.pong_s:
                self.abort()
        elif now - self._heard_at > limits.quiet_s:
            self._asked_at = now
            self._emit(ping(_STILL_THERE))
        if now >= self._drain_at:
            self._refuse_more()
        for exchange in list(self.streams.values()):
            self._check_exchange(exchange, now)

    def _check_exchange(self, exchange: Exchange, now: float) -> None:
        limits = self.limits
        if exchange.id in self._stalled:
            if now - exchange.stalled_at > limits.write_s:
                self._door.count(Reason.SLOW_READER)
                self._emit(frames.reset(exchange.id, frames.CANCEL))
                self._reset(exchange)
            return
        if exchange.ended or not exchange.is_waiting():
            return
        allowed_s = limits.head_s
        if not exchange.method.public:
            allowed_s = limits.message_s + exchange.have / limits.min_rate_bytes_per_s
        if now - exchange.begun_at > allowed_s:
            self._door.count(Reason.SLOW_BODY)
            exchange.break_off(RequestTimeout("no whole message came in time"))

    def drain(self) -> None:
        """Say goodbye; the connection ends with its last answer."""
        if not self._over and self._drain_at == math.inf and self._final_id == LAST_STREAM_ID:
            self._drain_at = perf_counter() + _NOTICE_S
            self._emit(goaway(LAST_STREAM_ID) + ping(FAREWELL))

    def cut(self, reason: Reason, error_code: int = frames.ENHANCE_YOUR_CALM) -> None:
        """Count it, tell the client, and hang up."""
        if self._over:
            return
        self._door.count(reason)
        self._emit(goaway(self._last_id, error_code=error_code))
        self.hang_up()

    def hang_up(self) -> None:
        """Read no more, and end when what is written is out."""
        self._over = True
        self._uncork()
        if not self._transport.is_closing():
            self._transport.resume_reading()
        for exchange in list(self.streams.values()):
            self._let_go(exchange)
        # To close with bytes unread would reset the connection, and the last words be lost.
        if self._transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                self._transport.write_eof()
            self._loop.call_later(self.limits.linger_s, self.abort)
        else:
            self._transport.close()

    def abort(self) -> None:
        self._over = True
        self._transport.abort()

    def _let_go(self, exchange: Exchange) -> None:
        """Nobody waits for an answer any more."""
        self.streams.pop(exchange.id, None)
        self._stalled.pop(exchange.id, None)
        exchange.abandon()
        self._door.left(exchange)

    def _refuse_more(self) -> None:
        self._drain_at = math.inf
        self._final_id = self._last_id
        self._emit(goaway(self._last_id))
        self._part()

    def _part(self) -> None:
        """Hang up if nothing is left to wait for."""
        if self._final_id != LAST_STREAM_ID and not self.streams and not self._over:
            self.hang_up()
