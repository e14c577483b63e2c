"""A predict answer that comes in pieces, as server-sent events, and its way out over each kind of connection.

An item of the model's is one event, `data: JSON`. What goes wrong after the first of them is an event of its
own, `event: error`, with the body that an error reply would have had.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdslite.http.call import Call
    from mdslite.http.connection import Connection
    from mdslite.http.request import Headers, Request

EVENTS = b"text/event-stream"
_AHEAD = 16  # pieces that wait for an HTTP/2 client before the model has to


def make_event(text: bytes) -> bytes:
    """One item, of which the JSON text has no line break, as an event."""
    return b"data: %b\n\n" % text


def make_error_event(body: bytes) -> bytes:
    return b"event: error\ndata: %b\n\n" % body


class EventWriter:
    """Writes pieces to an HTTP/1.1 connection: in chunks, or to a 1.0 client until the connection's end."""

    def __init__(self, connection: Connection, request: Request, headers: Headers) -> None:
        self._connection = connection
        self._chunked = request.version == "1.1"
        self._keep_alive = self._chunked and connection.keeps_alive(request)
        head = connection.head(request, 200, headers, keep_alive=self._keep_alive)
        framing = b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n"
        connection.transport.write(head + framing)

    def write(self, piece: bytes) -> None:
        self._connection.transport.write(
            b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece,
        )

    def end(self) -> None:
        """The last piece is written."""
        if self._chunked:
            self._connection.transport.write(b"0\r\n\r\n")
        self._connection.finish_exchange(keep_alive=self._keep_alive)


class Pieces:
    """The pieces of one call for somebody who awaits them. They pause the model while they pile up."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._waiting: deque[bytes] = deque()
        self._moved = asyncio.Event()
        self._ended = False

    def put(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._moved.set()
        if len(self._waiting) >= _AHEAD and self._call.stream is not None:
            self._call.stream.pause()

    def end(self) -> None:
        self._ended = True
        self._moved.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """All pieces in order; to stop early cancels the call."""
        try:
            while True:
                while self._waiting:
                    piece = self._waiting.popleft()
                    if not self._waiting and self._call.stream is not None:
                        self._call.stream.resume()
                    yield piece
                if self._ended:
                    return
                self._moved.clear()
                await self._moved.wait()
        finally:
            if not self._ended:
                self._call.cancel()

    async def send(self, send: Any, headers: Headers) -> None:
        """Be the answer to an ASGI request."""
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
