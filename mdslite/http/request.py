"""One HTTP/1.1 request as the door understood it, and what it must be to be served. Owns no socket.

llhttp refuses what breaks the framing; what it lets through and nobody should act on is refused in here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from mdslite.errors import HeadTooLong, InvalidRequest, MdsliteError, UnsupportedMedia, VersionNotSupported

# HTTP/2 compresses its heads: a longer one would hold the event loop for milliseconds while it is unpacked.
HEAD_BYTES = 16 * 1024
HEADERS_MAX = 100
HEAD_LIST_BYTES = HEAD_BYTES + 32 * HEADERS_MAX  # the same as RFC 9113 counts
# What is unpacked of a longer one, so as to refuse it alone: only who has read it can read what follows on
# its connection. One that is longer still ends that.
UNPACKED_BYTES = 2 * HEAD_BYTES
REFUSED = "mdslite.refused"  # among a scope's extensions: why what it asks is not to be done

NO_PATH = "expected a path as the request's target, such as /healthz"

Headers = list[tuple[bytes, bytes]]

_ONLY_ONCE = ((b"host", "Host"), (b"authorization", "Authorization"), (b"content-type", "Content-Type"))


@dataclass(slots=True)
class Request:
    """One parsed request, or (`error`) what kept it from being one. Header names are lower case."""

    method: bytes
    target: bytes
    version: str
    headers: Headers
    fields: dict[bytes, bytes]  # `headers` again, the last of each name
    body: bytes | memoryview  # a view where a large tensor landed
    keep_alive: bool
    arrived_at: float
    error: MdsliteError | None = None
    passed: bool = (
        False  # its head is proper, and all that there is to say of it: it goes to the predict function
    )


def check(request: Request) -> None:
    """Pass a request whose head is proper.

    :raises VersionNotSupported: HTTP/0.9, or HTTP/2 without being it
    :raises InvalidRequest: no host, a field that is repeated, or a target that is no path
    :raises UnsupportedMedia: a body is encoded several times over
    """
    if request.version not in ("1.1", "1.0"):
        raise VersionNotSupported(f"HTTP/{request.version} is not served: expected 1.0, 1.1 or 2")
    if len(request.fields) != len(request.headers):
        check_repeated(request.headers)
    if b"host" not in request.fields and request.version == "1.1":
        raise InvalidRequest("expected a Host header")
    target = request.target
    if not target.startswith(b"/"):
        raise InvalidRequest(NO_PATH)
    if b"%" in target and any(code in target.lower() for code in (b"%00", b"%0a", b"%0d")):
        raise InvalidRequest("the request's target holds a control character")


def check_protocol(head: bytes, method: bytes, target: bytes, headers: Headers) -> None:
    """Pass a request that speaks HTTP: llhttp takes RTSP's requests and ICE's for such, and does not tell.
    `head` is what was read of it, and maybe of those before it.

    :raises VersionNotSupported: it speaks one of those
    """
    if b" RTSP/" in head or b" ICE/" in head:
        # The name of the first header tells the line from another one that quotes it.
        following = re.escape(headers[0][0]) if headers else b""
        line = rb"%b +%b +(?:RTSP|ICE)/\d\.\d\r\n(?i:%b)" % (method, re.escape(target), following)
        if re.search(line, head):
            raise VersionNotSupported("RTSP and ICE are not served: expected HTTP/1.1 or 2")


def check_repeated(headers: Headers) -> None:
    """Pass fields of which a reader may take the first or the last, and find the same.

    :raises InvalidRequest: one of them does
    :raises UnsupportedMedia: a body is encoded several times over
    """
    names = [name for name, _ in headers]
    for name, shown in _ONLY_ONCE:
        if names.count(name) > 1:
            raise InvalidRequest(f"expected one {shown} header, got {names.count(name)}", hint="send it once")
    if names.count(b"content-encoding") > 1:
        raise UnsupportedMedia("the body is encoded several times over: expected once, by gzip or deflate")


def check_chunked(headers: Headers, *, version: str) -> None:
    """Pass a Transfer-Encoding that all servers on the way read alike: `chunked`, once, in HTTP/1.1.

    :raises InvalidRequest: it is anything else
    """
    encodings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if encodings != [b"chunked"] or version != "1.1":
        raise InvalidRequest(
            "transfer-encoding: expected chunked alone, in HTTP/1.1",
            hint="compress with content-encoding: gzip instead",
        )


def is_long(target: bytes, headers: Headers) -> bool:
    """Is a head longer than is read?"""
    if len(headers) > HEADERS_MAX:
        return True
    return len(target) + sum(len(name) + len(value) + 4 for name, value in headers) > HEAD_BYTES


def without_upgrade(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """A request's head again, without the field that asks for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, target, version.encode())]
    lines += [b"%b: %b" % field for field in headers if field[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def long_head() -> HeadTooLong:
    return HeadTooLong(
        f"the request's head is longer than {HEAD_BYTES} bytes or {HEADERS_MAX} fields",
        hint="what is long goes into the body; a browser's cookies can be deleted",
    )


def explain(exc: httptools.HttpParserError) -> MdsliteError:
    """What llhttp refused, in our words."""
    if "HTTP version" in str(exc):
        return VersionNotSupported("this HTTP version is not served: expected 1.0, 1.1 or 2")
    if isinstance(exc, httptools.HttpParserInvalidURLError):
        return InvalidRequest(NO_PATH)
    return InvalidRequest(f"malformed HTTP request: {exc}")
