"""Heads of requests that a connection has read before. A client that calls again sends the same bytes, but
for the length of its body: to compare them costs a tenth of parsing and checking them. Owns no socket and no
parser.
"""

from __future__ import annotations

from dataclasses import replace

from mdslite.http.request import Request

_HEAD_BYTES = 2048  # of the longest head that is worth its memory on every connection
_DIGITS = 5  # of the length of a body that comes in one piece with its head
_LENGTH = b"\r\ncontent-length:"
# Fields that ask for more than an answer, and those whose value never comes twice.
_UNLIKE = frozenset({b"expect", b"prefer", b"transfer-encoding", b"upgrade", b"x-request-id", b"traceparent"})


class KnownHead:
    """A head that was read and found proper; `request` is all that it says."""

    __slots__ = ("_after", "_before", "_limit", "_start", "request")

    def __init__(self, request: Request, before: bytes, after: bytes, *, limit: int) -> None:
        self.request = request  # without a body and its length
        self._before = before  # the digits of the body's length
        self._after = after
        self._limit = limit
        self._start = len(before)

    def body_of(self, data: bytes) -> bytes | None:
        """The body, where `data` is one whole request with this head; None where it is anything else."""
        start = self._start
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", start, start + _DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits, body = data[start:end], data[end + len(self._after) :]
        is_whole = digits.isdigit() and int(digits) == len(body) <= self._limit
        return body if is_whole else None

    def repeat(self, body: bytes, arrived_at: float) -> Request:
        """A request with this head."""
        return replace(self.request, body=body, arrived_at=arrived_at)


def learn_head(data: bytes, request: Request, *, limit: int) -> KnownHead | None:
    """The head of `request`, which ended with `data`, for bodies of at most `limit` bytes. None where it may
    not be remembered: `data` was more than that one request, or less, or its head is none to come again."""
    head_bytes = len(data) - len(request.body)
    stays = request.keep_alive and request.version == "1.1"
    if not stays or head_bytes > _HEAD_BYTES or not _UNLIKE.isdisjoint(request.fields):
        return None
    head = data[:head_bytes]
    at = head.lower().find(_LENGTH)
    if at < 0 or head.find(b"\r\n\r\n") != head_bytes - 4:
        return None
    end = head.find(b"\r", at + len(_LENGTH))
    value = head[at + len(_LENGTH) : end]
    digits = value.lstrip(b" ")
    if not digits.isdigit():
        return None
    fields = {name: field for name, field in request.fields.items() if name != b"content-length"}
    known = replace(request, fields=fields, headers=list(fields.items()), body=b"", arrived_at=0.0)
    return KnownHead(known, head[: end - len(digits)], head[end:], limit=limit)
