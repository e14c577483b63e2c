"""Predictions as the door asks for them, and heads of replies over HTTP/1.1. Owns no connection; the common
reply to a prediction is put by the connection itself, in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from mdslite.http.request import Headers, Request
from mdslite.predict.call import Call

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
# Fields that frame a reply or belong to the connection: the door writes its own.
_OURS = frozenset({b"date", b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})


class DoorCall(Call):
    """A call of a connection's, which is answered with the others of its batch."""

    __slots__ = ()

    @classmethod
    def resolve_all(cls, jobs: Sequence[Call]) -> None:
        jobs[0].predictor.finish_all(jobs)


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
