"""The receiving half of an HTTP/1.1 connection: bytes to whole requests. Owns llhttp's parser and what is
being received; knows no reply, no deadline and no route.

llhttp (through httptools) runs in its strict mode. `Upgrade` headers are ignored, as RFC 9110 (7.8) allows.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Literal

import httptools

from mdslite.door.heads import KnownHead, learn_head
from mdslite.door.landing import Landing, whole_body
from mdslite.errors import InvalidRequest, MdsliteError, TooLarge
from mdslite.http.budget import COUNTED_BYTES, LEAST_BYTES, Claim, claim_body
from mdslite.http.paths import is_prediction
from mdslite.http.request import (
    HEAD_BYTES,
    HEADERS_MAX,
    Headers,
    Request,
    check_chunked,
    check_protocol,
    explain,
    is_long,
    long_head,
    without_upgrade,
)
from mdslite.predict.predictor import Predictor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ADMIN_BODY_BYTES = 4 * 1024 * 1024
LANDING_BYTES = 64 * 1024  # more than the parser is fed at a time
BLANK_BYTES = 1024  # of empty lines before a request
STRANGER_BODY_BYTES = 64 * 1024  # what is read, and thrown away, of who has no good token
_LINE_ENDS = b"\r\n"

# How far the message that is being received has come.
Phase = Literal["none", "head", "body"]


class Receiver(asyncio.Protocol):
    """Calls `take` with each request and, at most once, `refuse` with what kept one from being complete."""

    __slots__ = (
        "_blank_bytes",
        "_body",
        "_body_bytes",
        "_body_limit",
        "_claim",
        "_deaf",
        "_fields",
        "_first",
        "_head",
        "_headers",
        "_held_bytes",
        "_known",
        "_landing",
        "_latest",
        "_parser",
        "_phase",
        "_piece_bytes",
        "_predictor",
        "_received",
        "_stranger",
        "_target",
        "_told_bytes",
        "_upgrading",
    )

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor  # knows how large a body may be
        self._parser: Any = httptools.HttpRequestParser(self)
        self._first: bytes | None = b""  # bytes that may yet become HTTP/2's preface
        self._deaf = False  # what still arrives is not read as requests
        self._known: KnownHead | None = None  # of the last request that came in one piece
        self._latest: Request | None = None  # that was completed by what is being parsed
        self._blank_bytes = 0  # of line ends since the last request
        # The message that is being received:
        self._phase: Phase = "none"
        self._head = b""  # what its head was read in, with whatever else was
        self._target = b""
        self._received: Headers = []  # header fields: the head's, then maybe the trailer's
        self._headers: Headers = []
        self._fields: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._landing: Landing | None = None  # of a large body
        self._body_bytes = 0
        self._body_limit = 0
        self._claim: Claim | None = None  # of a large body whose length was not told
        self._stranger: MdsliteError | None = None  # why its sender is none to read much from
        self._held_bytes = -1  # received since the parser last had something to tell
        self._piece_bytes = 0  # what it is fed
        self._told_bytes = 0  # of the body, by then
        self._upgrading = False  # its head is about to be parsed again, see `_interrupted`

    # What a connection does with it

    def take(self, request: Request) -> None:
        """A request is complete."""
        raise NotImplementedError

    def take_again(self, known: KnownHead, body: bytes) -> None:
        """A request is complete, whose head was taken before and `passed`."""
        raise NotImplementedError

    def refuse(self, error: MdsliteError) -> None:
        """What is being received is no request, or not one to be read to its end; nothing more will be."""
        raise NotImplementedError

    def await_rest(self) -> None:
        """All that has arrived is parsed, and a message is incomplete."""
        raise NotImplementedError

    def hand_over(self, data: bytes) -> None:
        """The client speaks HTTP/2; `data` is all that it sent."""
        raise NotImplementedError

    def switch(self, protocol: asyncio.BaseProtocol) -> None:
        """Have the transport read for another protocol."""
        raise NotImplementedError

    # Bytes

    def data_received(self, data: bytes | memoryview) -> None:
        known = self._known
        if known is not None and self._phase == "none" and isinstance(data, bytes) and not self._deaf:
            body = known.body_of(data)
            if body is not None:
                self.take_again(known, body)
                return
        self._read(data)

    def _read(self, data: bytes | memoryview) -> None:
        if self._deaf:
            return
        if self._landing is not None:
            self._land(self._landing, data)
            return
        if self._first is not None:
            data = self._first + data
            if PREFACE.startswith(data[: len(PREFACE)]):
                self._first, self._phase = data, "head"
                if len(data) >= len(PREFACE):
                    self.hand_over(data)
                else:
                    self.await_rest()
                return
            self._first = None
        if len(data) > LANDING_BYTES:
            view = memoryview(data)
            for start in range(0, len(data), LANDING_BYTES):
                self._read(view[start : start + LANDING_BYTES])
            return
        self._piece_bytes = len(data)
        is_start = self._phase == "none"
        if is_start and data[0] in _LINE_ENDS and not self._may_begin_blank(data):
            return
        self._head = self._head + data if self._phase == "head" else bytes(data)
        if (stopped := self._feed(data)) is not None:
            self._interrupted(stopped, data)
        self._head = self._head if self._phase == "head" else b""
        latest, self._latest = self._latest, None
        if self._phase != "none" and not self._deaf:
            self._incomplete(len(data))
            if self._landing is not None and not self._deaf:
                self.switch(self._landing)
        elif latest is not None and latest.passed and is_start and isinstance(data, bytes):
            self._known = learn_head(data, latest, limit=min(self._body_limit, LANDING_BYTES))

    def _may_begin_blank(self, data: bytes | memoryview) -> bool:
        """Let empty lines pass before a request (RFC 9112, 2.2), as the parser does, but not without end."""
        self._blank_bytes += len(data) - len(bytes(data).lstrip(b"\r\n"))
        if self._blank_bytes > BLANK_BYTES:
            self._refuse(InvalidRequest(f"more than {BLANK_BYTES} bytes of empty lines before a request"))
            return False
        return True

    def _land(self, landing: Landing, data: bytes | memoryview) -> None:
        """What was read before the transport knew where to."""
        try:
            count = landing.put(data)
        except MdsliteError as exc:
            self.cannot_land(exc)
            return
        self.landed(count)
        if count < len(data):
            self.data_received(data[count:])

    def landed(self, size_bytes: int) -> None:
        """So many more bytes of a large body are where they belong."""
        landing = self._landing
        if landing is None or self._deaf:
            self.switch(self)
            return
        self._body_bytes += size_bytes
        if landing.missing_bytes:
            self.await_rest()
            return
        self.switch(self)
        parser, self._parser = self._parser, httptools.HttpRequestParser(self)
        self._complete(parser)

    def cannot_land(self, error: MdsliteError) -> None:
        """There is no memory for the rest of a large body."""
        if self._landing is not None:
            self._landing.drop()
            self._landing = None
        self.switch(self)
        if not self._deaf:
            self._refuse(error)

    def _incomplete(self, size_bytes: int) -> None:
        """Wait for the rest, and bound what the parser holds back: a field or a trailer that does not end."""
        if self._held_bytes < 0 or self._body_bytes != self._told_bytes:
            self._held_bytes = 0
            self._told_bytes = self._body_bytes
        else:
            self._held_bytes += size_bytes
        if self._held_bytes > HEAD_BYTES:
            self._refuse(long_head())
        else:
            self.await_rest()

    def _feed(self, data: bytes | memoryview) -> Exception | None:
        """Have the parser read; what stopped it. That is handled where no other is, to keep its own cause."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            return exc
        return None

    def _interrupted(self, exc: Exception, data: bytes | memoryview) -> None:
        """The parser stopped before the end of `data`."""
        while self._upgrading and isinstance(exc, httptools.HttpParserUpgrade):
            # An upgrade that is ignored: the same message again, without the wish.
            self._upgrading = False
            method, version = self._parser.get_method(), self._parser.get_http_version()
            data = without_upgrade(method, self._target, version, self._headers) + bytes(data[exc.args[0] :])
            self._parser = httptools.HttpRequestParser(self)
            if (following := self._feed(data)) is None:
                return
            exc = following
        if isinstance(exc, httptools.HttpParserCallbackError) and not isinstance(exc.__context__, _Refused):
            raise exc  # a mistake of ours
        if self._deaf:
            return
        if isinstance(exc, httptools.HttpParserError):
            self._refuse(explain(exc))
        else:
            self._deaf = True  # a CONNECT: its refusal may have to wait, but what follows is no HTTP

    def _refuse(self, error: MdsliteError) -> None:
        self._deaf = True
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        self.refuse(error)

    def known_request(self, error: MdsliteError) -> Request:
        """What is known of the message that is being received, as a request that ends with `error`."""
        now = perf_counter()
        if self._phase == "body":
            method = self._parser.get_method()
            return Request(method, self._target, "1.1", self._headers, self._fields, b"", False, now, error)
        return Request(b"", b"", "1.1", [], {}, b"", False, now, error)

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        self._target = b""
        self._received = []
        self._phase = "head"
        self._held_bytes = -1
        self._blank_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._received.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers = self._headers = self._received
        fields = self._fields = dict(headers)
        if b"upgrade" in fields and self._parser.should_upgrade():
            self._upgrading = True
            return
        self._phase = "body"
        self._body_bytes = self._body_limit = 0
        self._stranger = None
        try:
            check_protocol(self._head, self._parser.get_method(), self._target, headers)
            is_short = self._held_bytes < 0 and self._piece_bytes <= HEAD_BYTES  # as all that it came in
            self._held_bytes = -1
            if not (is_short and len(headers) <= HEADERS_MAX) and is_long(self._target, headers):
                raise long_head()
            length = fields.get(b"content-length")
            if length is not None or b"transfer-encoding" in fields:
                if is_prediction(self._target):
                    self._body_limit = self._predictor.reader.body_limit(self._target, fields)
                else:
                    self._body_limit = ADMIN_BODY_BYTES
                if self._predictor.access.required:
                    self._stranger = self._predictor.access.stranger(fields.get(b"authorization", b""))
                    if self._stranger is not None:
                        self._body_limit = STRANGER_BODY_BYTES
                if length is None:
                    self._received = []  # a trailer is read and dropped
                    check_chunked(headers, version=self._parser.get_http_version())
                elif int(length) > self._body_limit:
                    raise self._too_large()
                elif int(length) > LANDING_BYTES and is_prediction(self._target):
                    head_bytes = self._predictor.reader.head_bytes(fields)
                    self._landing = Landing(self, int(length), aligned_at=head_bytes)
        except MdsliteError as exc:
            self._refuse(exc)
            raise _Refused from exc

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._body_limit:
            self._refuse(self._too_large())
            raise _Refused
        if self._body_bytes > COUNTED_BYTES or self._landing is not None:
            self._hold_counted(body)
        elif not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def _hold_counted(self, body: bytes) -> None:
        """Take a piece of a body that counts, or has a place of its own."""
        try:
            if self._landing is not None:
                self._landing.put(body)
                return
            size_bytes = self._body_bytes if self._claim is None else len(body)
            if self._claim is None:
                self._claim = claim_body(self._body_bytes)
            if self._claim is not None:
                self._claim.grow(size_bytes)
        except MdsliteError as exc:
            if self._landing is not None:
                self._landing.drop()
            self._landing, self._body = None, b""
            self._refuse(exc)
            raise _Refused from exc
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self._body)
        self._body += body

    def on_message_complete(self) -> None:
        if not self._upgrading:
            self._latest = self._complete(self._parser)

    def _complete(self, parser: Any) -> Request:
        body: Any = self._body
        fields = self._fields
        if body.__class__ is not bytes or self._landing is not None:
            landing, self._landing = self._landing, None
            if landing is None and len(body) < LEAST_BYTES:
                body = bytes(body)
            else:
                is_tensor = self._predictor.reader.is_binary(self._target, fields)
                body = whole_body(landing, body, self._claim, is_tensor=is_tensor)
        keep_alive = parser.should_keep_alive()
        # Who stays without being asked speaks HTTP/1.1: to know that is ten times as quick as to ask.
        version = "1.1" if keep_alive and b"connection" not in fields else parser.get_http_version()
        request = Request(
            parser.get_method(),
            self._target,
            version,
            self._headers,
            fields,
            body,
            keep_alive,
            perf_counter(),
        )
        self._body, self._claim = b"", None
        self._phase = "none"
        self.take(request)
        return request

    def _too_large(self) -> MdsliteError:
        if self._stranger is not None:
            return self._stranger
        if is_prediction(self._target):
            return self._predictor.reader.too_large(self._target, self._fields)
        return TooLarge(f"the body is longer than {self._body_limit} bytes")


class _Refused(Exception):
    """Ends llhttp's run after a refusal; the answer is already on its way."""
