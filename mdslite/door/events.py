"""The way out for an answer that comes in pieces, over a connection of HTTP/1.1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdslite.door.replies import reply_head

if TYPE_CHECKING:
    from mdslite.door.connection import Connection
    from mdslite.http.request import Headers, Request


class EventWriter:
    """Writes pieces to an HTTP/1.1 connection: in chunks, or to a 1.0 client until the connection's end."""

    def __init__(self, connection: Connection, request: Request, headers: Headers) -> None:
        self._connection = connection
        self._chunked = request.version == "1.1"
        self._keep_alive = self._chunked and connection.keeps_alive(request)
        head = reply_head(request, 200, headers, date=connection.date, keep_alive=self._keep_alive)
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
        self._connection.finish(keep_alive=self._keep_alive)
