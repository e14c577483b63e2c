"""The requests of one HTTP/2 connection: Hypercorn's protocol, with what it leaves open closed. Owns the
streams and the tasks that answer them, not the socket.

Importing this module costs what importing Hypercorn costs, so h2.py does it when the first connection comes.
What differs from plain Hypercorn 0.18, and why:

* an answer that ends before its request, or breaks off, or is cut, ends its stream; the rest of the body is
  read and dropped (there, it takes the whole connection down or leaves the client waiting for ever);
* flow control follows what the application has read, not what has arrived, so an application that does not
  read a body neither fills memory nor blocks its neighbours' frames;
* a stream above the limit is refused, which a client may retry, instead of ending the connection;
* closing a connection frees applications that wait to write;
* the priorities that RFC 9113 deprecates are ignored: each stream has an equal share.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

from h2.events import (
    DataReceived,
    Event,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
)
from h2.exceptions import DenialOfServiceError, ProtocolError, TooManyStreamsError
from h2.settings import SettingCodes, Settings
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.events import Event as LinkEvent
from hypercorn.protocol.events import Body, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup
from starlette.types import ASGIApp, Message, Scope

from mdslite.door.h2_exchange import Exchange, Send, error_reply
from mdslite.errors import HeadTooLong, InvalidRequest, MdsliteError, RequestTimeout, TooLarge
from mdslite.http.paths import is_prediction
from mdslite.http.policing import (
    CANCEL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Limits,
    Meter,
    Reason,
)
from mdslite.http.request import HEAD_LIST_BYTES, NO_PATH, REFUSED, is_long, long_head

# The search of hpack's encoder is linear in its table, and the client may ask for one of any size.
_ENCODER_TABLE_BYTES = 4096
_METHOD = re.compile(rb"(?!CONNECT\Z)[A-Z]{1,20}")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
_CONTROL = re.compile(rb"%0[0ad]", re.IGNORECASE)


class Link(Protocol):
    """The connection under the streams."""

    limits: Limits
    meter: Meter
    is_tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    extensions: dict[str, Any]  # of ASGI
    final_stream_id: int  # those above come too late

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...
    async def write(self, data: bytes) -> None: ...
    def count(self, reason: Reason) -> None: ...
    def hang_up(self) -> None: ...
    def cancels(self, scope: Scope) -> bool: ...


class Engine:
    """What all connections share: the application and Hypercorn's settings."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # It writes down each header that it reads, tokens too, for who listens at DEBUG.
        logging.getLogger("hpack").setLevel(logging.INFO)
        self._config = Config()
        self._config.accesslog = self._config.errorlog = None
        self._config.include_server_header = False
        self._config.keep_alive_max_requests = 2**31
        self._context = WorkerContext(None)

    def open(self, link: Link) -> Streams:
        return Streams(self._app, link, config=self._config, context=self._context)


class Streams(H2Protocol):
    """Answers the requests of one connection; `receive` takes bytes, `leave` says that no more will come."""

    def __init__(self, app: ASGIApp, link: Link, *, config: Config, context: WorkerContext) -> None:
        state = ConnectionState({})
        super().__init__(
            cast(AppWrapper, app),
            config,
            context,
            cast(TaskGroup, self),
            state,
            link.is_tls,
            link.client,
            link.server,
            self._send,
        )
        self._asgi = app
        self._link = link
        self._exchanges: dict[int, Exchange] = {}
        self._opening = 0  # the stream whose application spawn_app is to start
        self._refusal: MdsliteError | None = None  # that it is to answer with, if any
        self._running = 0
        self._waiting: dict[int, tuple[float, int]] = {}  # since when, and at how many bytes sent
        self.connection.decoder.max_header_list_size = link.limits.max_block_bytes

    async def open(self) -> None:
        """Send the settings and the connection's window."""
        limits = self._link.limits
        self.connection.local_settings = _settings(limits, max_streams=limits.max_streams)
        await self.initiate()
        # What is announced is refused stream by stream; h2 itself would end the connection.
        self.connection.local_settings = _settings(limits, max_streams=2 * limits.max_streams)
        self.connection.increment_flow_control_window(limits.connection_window_bytes - 65_535)
        await self._flush()

    async def receive(self, data: bytes) -> None:
        """Handle what the client sent."""
        try:
            events = self.connection.receive_data(data)
        except ProtocolError as exc:
            await self._flush()
            self._link.count(_reason(exc))
            self._link.hang_up()
            return
        for event in events:
            await self._on(event)
        await self._flush()

    async def leave(self) -> None:
        """The client is gone: tell the applications, and free those that wait to write."""
        await self.handle(Closed())
        for buffer in list(self.stream_buffers.values()):
            await buffer.close()
        for exchange in list(self._exchanges.values()):
            exchange.abandon()
        # This and h2's connection know themselves: what they hold would wait for the collector.
        self.send = _nowhere
        del self.task_group
        self.connection.streams.clear()

    def check(self, now: float) -> None:
        """Start cutting the streams whose client is too slow."""
        for stream_id in self._link.meter.slow_bodies(now=now):
            exchange = self._exchanges.get(stream_id)
            if exchange is None or not exchange.owes_bytes:
                self._link.spawn(self._refuse_slow_body(stream_id))
        for stream_id in self._slow_readers(now):
            self._link.spawn(self._cut_slow_reader(stream_id))

    async def stream_send(self, event: StreamEvent) -> None:
        await super().stream_send(event)
        if isinstance(event, StreamClosed):
            await self._settle(event.stream_id)

    def spawn(self, func: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Hypercorn's way to start its sending task, which lives as long as the connection."""
        self._link.spawn(func(*args)).add_done_callback(lambda _: self._link.hang_up())

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[Message], Awaitable[None]]:
        """Hypercorn's way to start the application for a request."""
        scope["extensions"].update(self._link.extensions)
        if self._refusal is not None:
            scope["extensions"][REFUSED] = self._refusal
        exchange = Exchange(send, partial(self._take_read, self._opening))
        self._exchanges[self._opening] = exchange
        self._running += 1
        task = self._link.spawn(exchange.answer(self._asgi, scope))
        task.add_done_callback(self._on_answered)
        if self._link.cancels(scope):
            exchange.task = task
        return exchange.put

    async def _send(self, event: LinkEvent) -> None:
        if isinstance(event, RawData):
            await self._link.write(event.data)
        elif isinstance(event, Closed):
            self._link.hang_up()

    async def _on(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            await self._open(event)
        elif isinstance(event, DataReceived):
            await self._take(event)
        elif isinstance(event, StreamReset):
            await self._close(event.stream_id)
        elif not isinstance(event, PriorityUpdated):
            if isinstance(event, RemoteSettingsChanged):
                self._bound_encoder()
            await self._handle_events([event])

    async def _open(self, event: RequestReceived) -> None:
        stream = self.connection.streams.get(event.stream_id)
        if stream is None or stream.closed:
            return  # reset in the same read
        limits = self._link.limits
        too_many = len(self.streams) >= limits.max_streams or self._running >= 2 * limits.max_streams
        if too_many or event.stream_id > self._link.final_stream_id:
            await self._end(event.stream_id, REFUSED_STREAM)
            return
        if event.stream_ended is not None and _announces_body(event):
            self._link.count(Reason.PROTOCOL_ERROR)
            await self._end(event.stream_id, PROTOCOL_ERROR)
            return
        error = _malformed(event)
        # A prediction is refused by the application, which logs it.
        if error is not None and not (isinstance(error, HeadTooLong) and _asks_prediction(event)):
            await self._refuse(event.stream_id, error)
            return
        self._opening, self._refusal = event.stream_id, error
        await self._create_stream(event)

    async def _take(self, event: DataReceived) -> None:
        stream_id = event.stream_id
        received = self._link.meter.streams.get(stream_id)
        too_large = received is not None and received.received_bytes > self._link.limits.max_body_bytes
        stream = self.streams.get(stream_id)
        if stream is None or too_large:
            self._hand_back(stream_id, event.flow_controlled_length)
            if too_large:
                self._link.count(Reason.BODY_TOO_LARGE)
                await self._refuse(stream_id, TooLarge("the body is longer than this server reads"))
            return
        self._exchanges[stream_id].unread.append(event.flow_controlled_length)
        await stream.handle(Body(stream_id=stream_id, data=event.data))

    async def _take_read(self, stream_id: int, size_bytes: int) -> None:
        """The application has read that much."""
        self._hand_back(stream_id, size_bytes)
        await self._flush()

    def _hand_back(self, stream_id: int, size_bytes: int) -> None:
        """Let the client send as many bytes again."""
        with suppress(ProtocolError):
            self.connection.acknowledge_received_data(size_bytes, stream_id)

    async def _refuse_slow_body(self, stream_id: int) -> None:
        seen = self._link.meter.streams.get(stream_id)
        if seen is None or not seen.request_open:
            return  # it came after all
        self._link.count(Reason.SLOW_BODY)
        await self._refuse(stream_id, RequestTimeout("the body did not arrive in time"))
        await self._flush()

    async def _cut_slow_reader(self, stream_id: int) -> None:
        self._link.count(Reason.SLOW_READER)
        await self._end(stream_id, CANCEL)
        await self._flush()

    async def _refuse(self, stream_id: int, error: MdsliteError) -> None:
        """Answer in the application's stead, if it has not begun to, and end the stream."""
        seen = self._link.meter.streams.get(stream_id)
        error_code = NO_ERROR
        if seen is not None and not seen.sent_bytes:
            with suppress(ProtocolError):
                self._answer(stream_id, error)
        elif seen is not None and seen.response_open:
            error_code = CANCEL
        await self._end(stream_id, error_code)

    def _answer(self, stream_id: int, error: MdsliteError) -> None:
        headers, body = error_reply(error)
        headers = [(b":status", b"%d" % error.status), *headers, *self.config.response_headers("h2")]
        self.connection.send_headers(stream_id, headers)
        self.connection.send_data(stream_id, body, end_stream=True)

    async def _end(self, stream_id: int, error_code: int) -> None:
        with suppress(ProtocolError):
            self.connection.reset_stream(stream_id, error_code)
        await self._close(stream_id)

    async def _close(self, stream_id: int) -> None:
        """Neither side wants the stream any more."""
        exchange = self._exchanges.get(stream_id)
        await self._close_stream(stream_id)
        if exchange is not None:
            exchange.abandon()
        self._forget(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
            await self._window_updated(stream_id)  # wakes the sending task, which drops the buffer

    async def _settle(self, stream_id: int) -> None:
        """The application is done with a stream: see to it that the client can be, too."""
        self._forget(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and buffer.buffer:
            await buffer.drain()
        is_ending = buffer is not None and buffer.complete
        seen = self._link.meter.streams.get(stream_id)
        if seen is not None and seen.response_open and not is_ending:
            await self._end(stream_id, INTERNAL_ERROR)
        await self._flush()

    def _forget(self, stream_id: int) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        self._waiting.pop(stream_id, None)
        if exchange is not None and exchange.unread:
            self._hand_back(stream_id, sum(exchange.unread))
            exchange.unread.clear()

    def _slow_readers(self, now: float) -> list[int]:
        """Streams with an answer that the client's windows have held back for too long."""
        limits = self._link.limits
        slow = []
        for stream_id, buffer in self.stream_buffers.items():
            seen = self._link.meter.streams.get(stream_id)
            if seen is None or not buffer.buffer:
                self._waiting.pop(stream_id, None)
                continue
            since, at_bytes = self._waiting.setdefault(stream_id, (now, seen.sent_bytes))
            moved_s = (seen.sent_bytes - at_bytes) / limits.min_rate_bytes_per_s
            if now - since > limits.write_timeout_s + moved_s:
                slow.append(stream_id)
        return slow

    def _bound_encoder(self) -> None:
        encoder = self.connection.encoder
        if encoder.header_table_size > _ENCODER_TABLE_BYTES:
            encoder.header_table_size = _ENCODER_TABLE_BYTES

    def _on_answered(self, _: asyncio.Task[None]) -> None:
        self._running -= 1


async def _nowhere(_: LinkEvent) -> None:
    """Where nothing is sent any more."""


def _settings(limits: Limits, *, max_streams: int) -> Settings:
    return Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_LIST_BYTES,
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        },
    )


def _reason(exc: ProtocolError) -> Reason:
    if isinstance(exc, DenialOfServiceError):
        return Reason.HEADERS_TOO_LARGE
    if isinstance(exc, TooManyStreamsError):
        return Reason.TOO_MANY_STREAMS
    return Reason.PROTOCOL_ERROR


def _announces_body(event: RequestReceived) -> bool:
    """Does a request that has ended with its header say that a body follows?"""
    return any(name == b"content-length" and value.strip(b"0") != b"" for name, value in event.headers or [])


def _malformed(event: RequestReceived) -> MdsliteError | None:
    """What h2 lets through and the application should not see."""
    headers = event.headers or []
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    method, target = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD.fullmatch(method):
        return InvalidRequest("this method is not served")
    if not _TARGET.fullmatch(target):
        return InvalidRequest(NO_PATH)
    if _CONTROL.search(target):
        return InvalidRequest("the request's target holds a control character")
    # HTTP/1.1 has the authority among its fields, too.
    if is_long(target, [field for field in headers if field[0] == b":authority" or field[0] not in pseudo]):
        return long_head()
    return None


def _asks_prediction(event: RequestReceived) -> bool:
    fields = dict(event.headers or [])
    return fields[b":method"] == b"POST" and is_prediction(fields[b":path"])
