"""Runs the ASGI application for one HTTP/1.1 request of the door. Owns the exchange, not the connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from mdslite.door.replies import reply_head
from mdslite.errors import unknown_error
from mdslite.http.tls import tls_extension

if TYPE_CHECKING:
    from mdslite.door.connection import Connection
    from mdslite.http.request import Request

logger = logging.getLogger(__name__)


class Exchange:
    """One request whose body is complete, and its answer as the application sends it."""

    def __init__(self, connection: Connection, request: Request, app: Any) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self._connection = connection
        self._request = request
        self._app = app
        self._left = asyncio.Event()
        self._body_read = False
        self._start: Any = None
        self._begun = False  # something of the answer is written
        self._keep_alive = False
        self._bodiless = request.method == b"HEAD"
        self._chunked = False
        self._complete = False

    async def run(self) -> None:
        """Call the application; without an answer the client gets a 500, half of one ends the connection."""
        try:
            await self._app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except Exception:
            logger.exception("the application failed on %r", self._request.target[:200])
        if self._complete or self._left.is_set():
            return
        self._complete = True
        if self._begun:
            self._connection.abort()
        else:
            self._connection.answer_error(self._request, unknown_error())

    def disconnected(self) -> None:
        """The client left."""
        self._left.set()
        self.writable.set()

    def _scope(self) -> dict[str, Any]:
        path, _, query = self._request.target.partition(b"?")
        transport = self._connection.transport
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._request.version,
            "method": self._request.method.decode("latin-1"),
            "scheme": "https" if transport.get_extra_info("ssl_object") else "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._request.headers,
            "client": address(transport.get_extra_info("peername")),
            "server": address(transport.get_extra_info("sockname")),
            "extensions": tls_extension(transport.get_extra_info("peercert")),
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._body_read:
            self._body_read = True
            # Nobody else needs it any more, and it may be large.
            body, self._request.body = self._request.body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._left.is_set() or self._complete:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self._start is not None:
            self._write_first(body, more)
        else:
            self._write(self._frame(body, more))
        if more:
            await self.writable.wait()
        else:
            self._complete = True
            self._connection.finish(keep_alive=self._keep_alive)

    def _write_first(self, body: bytes, more: bool) -> None:
        """The head, with the field that frames the body, and what there is of the body."""
        start, self._start = self._start, None
        self._begun = True
        status = start["status"]
        headers = [(bytes(name).lower(), bytes(value)) for name, value in start["headers"]]
        length = next((value for name, value in headers if name == b"content-length"), None)
        self._bodiless = self._bodiless or status in (204, 304)
        if length is None and not more and not self._bodiless:
            length = b"%d" % len(body)
        self._chunked = length is None and self._request.version == "1.1" and not self._bodiless
        # Where neither frames the body, the end of the connection is its end.
        framed = length is not None or self._chunked or self._bodiless
        self._keep_alive = framed and self._connection.keeps_alive(self._request)
        date = self._connection.date
        head = reply_head(self._request, status, headers, date=date, keep_alive=self._keep_alive)
        if length is not None:
            head += b"content-length: %b\r\n" % length
        elif self._chunked:
            head += b"transfer-encoding: chunked\r\n"
        self._write(head + b"\r\n" + self._frame(body, more))

    def _frame(self, body: bytes, more: bool) -> bytes:
        """What goes over the wire for a piece of the body."""
        if self._bodiless:
            return b""
        if not self._chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk if more else chunk + b"0\r\n\r\n"

    def _write(self, data: bytes) -> None:
        if data:
            self._connection.transport.write(data)


def address(name: Any) -> tuple[str, int] | None:
    """Of one end of a connection, as ASGI has it; none of a socket that is a file."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
