"""Runs the ASGI application for one HTTP/1.1 request of the door. Owns the exchange, not the connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from mdslite.http.connection import Connection, Request

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
        self._keep_alive = request.keep_alive
        self._chunked = False
        self._complete = False

    async def run(self) -> None:
        """Call the application; an answer that it did not finish ends the connection."""
        try:
            await self._app(self._scope(), self._receive, self._send)
        except asyncio.CancelledError:
            self._connection.abort()
            raise
        except Exception:
            logger.exception("the application failed on %r", self._request.target[:200])
        if not self._complete and not self._left.is_set():
            self._connection.abort()

    def disconnected(self) -> None:
        """The client left."""
        self._left.set()
        self.writable.set()

    def _scope(self) -> dict[str, Any]:
        path, _, query = self._request.target.partition(b"?")
        transport = self._connection.transport
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": self._request.version,
            "method": self._request.method.decode("latin-1"),
            "scheme": "https" if transport.get_extra_info("ssl_object") else "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._request.headers,
            "client": _address(transport.get_extra_info("peername")),
            "server": _address(transport.get_extra_info("sockname")),
        }

    async def _receive(self) -> dict[str, Any]:
        if not self._body_read:
            self._body_read = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
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
        elif self._chunked:
            self._connection.transport.write(_chunk(body) + (b"" if more else b"0\r\n\r\n"))
        elif body:
            self._connection.transport.write(body)
        if more:
            await self.writable.wait()
        else:
            self._complete = True
            self._connection.finish_exchange(keep_alive=self._keep_alive)

    def _write_first(self, body: bytes, more: bool) -> None:
        """The head, with the field that frames the body, and what there is of the body."""
        start, self._start = self._start, None
        headers = [(bytes(name).lower(), bytes(value)) for name, value in start["headers"]]
        length = next((value for name, value in headers if name == b"content-length"), None)
        if length is None and not more:
            length = b"%d" % len(body)
        if length is None and self._request.version == "1.0":
            self._keep_alive = False  # the end of the connection is the end of the body
        self._chunked = length is None and self._request.version == "1.1"
        head = self._connection.head(self._request, start["status"], headers, keep_alive=self._keep_alive)
        if length is not None:
            head += b"content-length: %b\r\n" % length
        elif self._chunked:
            head += b"transfer-encoding: chunked\r\n"
        if self._request.method == b"HEAD":
            body = b""
            self._chunked = False
        elif self._chunked:
            body = _chunk(body) + (b"" if more else b"0\r\n\r\n")
        self._connection.transport.write(head + b"\r\n" + body)


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def _address(name: Any) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
