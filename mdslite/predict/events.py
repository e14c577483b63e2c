"""A predict answer that comes in pieces, as server-sent events; `door/events.py` writes them to HTTP/1.1.

An item of the model's is one event, `data: JSON`. What goes wrong after the first of them is an event of its
own, `event: error`, with the body that an error reply would have had.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdslite.http.request import Headers
    from mdslite.predict.call import Call
    from mdslite.serving.streams import Stream

EVENTS = b"text/event-stream"
_AHEAD = 16  # pieces that wait for an HTTP/2 client before the model has to


def make_event(text: bytes) -> bytes:
    """One item, of which the JSON text has no line break, as an event."""
    return b"data: %b\n\n" % text


def make_error_event(body: bytes) -> bytes:
    return b"event: error\ndata: %b\n\n" % body


class Pieces:
    """The pieces of one call for somebody who awaits them. They pause the model while they pile up.

    The call knows them, and they do not hold it: once it is over nothing is to keep its body. Until then its
    lane does.
    """

    def __init__(self, call: Call) -> None:
        self._call = weakref.ref(call)
        self._waiting: deque[bytes] = deque()
        self._moved = asyncio.Event()
        self._ended = False

    def put(self, piece: bytes) -> None:
        self._waiting.append(piece)
        self._moved.set()
        if len(self._waiting) >= _AHEAD and (stream := self._stream()) is not None:
            stream.pause()

    def end(self) -> None:
        self._ended = True
        self._moved.set()

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        if (call := self._call()) is not None:
            call.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """All pieces in order; to stop early cancels the call."""
        try:
            while True:
                while self._waiting:
                    piece = self._waiting.popleft()
                    if not self._waiting and (stream := self._stream()) is not None:
                        stream.resume()
                    yield piece
                if self._ended:
                    return
                self._moved.clear()
                await self._moved.wait()
        finally:
            if not self._ended:
                self.cancel()

    async def send(self, send: Any, headers: Headers) -> None:
        """Be the answer to an ASGI request."""
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in self:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _stream(self) -> Stream | None:
        call = self._call()
        return None if call is None else call.stream
