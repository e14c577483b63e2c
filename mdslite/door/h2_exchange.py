"""Runs the ASGI application for one request of HTTP/2. Owns the messages that wait for the application, not
the stream."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from mdslite.errors import MdsliteError, unknown_error
from mdslite.http.guard import error_body, error_headers, make_request_id

logger = logging.getLogger(__name__)

Send = Callable[[Message | None], Awaitable[None]]

_DISCONNECT = {"type": "http.disconnect"}


class Exchange:
    """One request on its way through the application.

    `unread` are the flow-controlled sizes of the pieces of its body that the application has not taken yet,
    oldest first; `hand_back` is told of each that it takes. `send` leads to the client;
    None ends its answer.
    """

    def __init__(self, send: Send, hand_back: Callable[[int], Awaitable[None]]) -> None:
        self.unread: deque[int] = deque()
        self.task: asyncio.Task[None] | None = None  # set when it is to be cancelled if the client leaves
        self._send = send
        self._hand_back = hand_back
        self._messages: asyncio.Queue[Any] = asyncio.Queue()  # bounded by the stream's window
        self._begun = False
        self._left = False

    @property
    def owes_bytes(self) -> bool:
        """Whether it is for the application to read on rather than for the client to send."""
        return bool(self.unread)

    async def answer(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application; one that raises before it answers becomes an opaque 500."""
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
        finally:
            if not self._begun and not self._left:
                await self._send_error(unknown_error())
            await self._send(None)
            self._send = _nowhere  # Hypercorn's stream, which knows this: no circle for the collector

    async def put(self, message: Any) -> None:
        """Hypercorn's end of the queue that `receive` reads."""
        self._messages.put_nowait(message)

    async def receive(self) -> Any:
        """The next message; once the client has left or has its answer, `http.disconnect` for ever."""
        if self._left:
            return dict(_DISCONNECT)
        message = await self._messages.get()
        if message["type"] == "http.disconnect":
            self._left = True
        elif message["more_body"] and self.unread:
            await self._hand_back(self.unread.popleft())
        return message

    async def send(self, message: Any) -> None:
        self._begun = self._begun or message["type"] == "http.response.start"
        await self._send(message)

    def abandon(self) -> None:
        """The client no longer wants the answer."""
        if self.task is not None:
            self.task.cancel()

    async def _send_error(self, error: MdsliteError) -> None:
        headers, body = error_reply(error)
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


async def _nowhere(_: Message | None) -> None:
    """Where nothing is sent any more."""


def error_reply(error: MdsliteError) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an answer that no application gave."""
    request_id = make_request_id()
    body = error_body(error, request_id)
    headers = [
        *error_headers(error),
        (b"content-length", b"%d" % len(body)),
        (b"mdslite-request-id", request_id.encode("ascii")),
    ]
    return headers, body
