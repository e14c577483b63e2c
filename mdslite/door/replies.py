"""Heads of replies over HTTP/1.1. Owns no connection; the common reply to a prediction is written by the
connection itself, at once.
"""

from __future__ import annotations

from http import HTTPStatus

from mdslite.http.request import Headers, Request

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
# Fields that frame a reply or belong to the connection: the door writes its own.
_OURS = frozenset({b"date", b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})


def reply_head(request: Request, status: int, headers: Headers, *, date: str, keep_alive: bool) -> bytes:
    """Status line and fields, without the one that frames the body; `date` is a whole field."""
    line = STATUS_LINES.get(status)
    lines = [b"HTTP/1.1 %d Unknown\r\n" % status if line is None else line.encode(), date.encode()]
    lines += [b"%b: %b\r\n" % (name, value) for name, value in headers if name not in _OURS]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    elif request.version == "1.0":
        lines.append(b"connection: keep-alive\r\n")
    return b"".join(lines)
