"""What one HTTP/2 client may ask of this server: a meter that reads frame headers in both directions, counts
them against allowances and says what is overdue. Owns no socket, clock or task; knows nothing of what the
frames carry beyond their nine-byte heads (RFC 9113).

A meter stands before the HTTP/2 engine because the engine pays for each frame long before it could object:
it parses all that one read brought, and starts a task for each request in it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from mdslite.http.request import UNPACKED_BYTES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LAST_STREAM_ID = 2**31 - 1

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FRAME_SIZE_ERROR = 0x0, 0x1, 0x2, 0x6
REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0x7, 0x8, 0xB

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x2, 0x3, 0x4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x6, 0x7, 0x8, 0x9
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED = 0x4, 0x8

_HEAD_BYTES = 9
_TINY_BYTES = 128  # DATA frames below this carry less than they cost
_PADDING_MAX = 256


class Reason(enum.StrEnum):
    """Why a connection was cut, or for the last three maybe one stream of it. The values label a counter."""

    TOO_MANY_CONNECTIONS = "too_many_connections"
    RAPID_RESET = "rapid_reset"
    SETTINGS_FLOOD = "settings_flood"
    PING_FLOOD = "ping_flood"
    PRIORITY_FLOOD = "priority_flood"
    WINDOW_UPDATE_FLOOD = "window_update_flood"
    TINY_DATA_FLOOD = "tiny_data_flood"
    FRAME_FLOOD = "frame_flood"
    CONTINUATION_FLOOD = "continuation_flood"
    TOO_MANY_STREAMS = "too_many_streams"
    HEADERS_TOO_LARGE = "headers_too_large"
    FRAME_TOO_LARGE = "frame_too_large"
    PROTOCOL_ERROR = "protocol_error"
    SLOW_HEADERS = "slow_headers"
    SLOW_BODY = "slow_body"
    SLOW_READER = "slow_reader"
    BODY_TOO_LARGE = "body_too_large"


@dataclass(frozen=True, slots=True)
class Violation:
    """Why to cut a connection, and the HTTP/2 error code that its GOAWAY carries."""

    reason: Reason
    error_code: int = ENHANCE_YOUR_CALM


@dataclass(frozen=True, slots=True)
class Allowance:
    """At most `burst` at once, and `per_s` in the long run; `start` at once for one who has earned none."""

    burst: int
    per_s: float
    start: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one connection. Useful work (answers, full DATA frames) earns back what the frames that
    accompany it cost, so that the allowances bind only those who send little else."""

    max_streams: int = 128
    max_block_bytes: int = UNPACKED_BYTES
    max_continuations: int = 8
    max_frame_bytes: int = 16 * 1024
    max_body_bytes: int = 257 * 1024 * 1024
    stream_window_bytes: int = 1024 * 1024
    connection_window_bytes: int = 4 * 1024 * 1024

    header_timeout_s: float = 10.0  # from the first byte of a frame or header block to its last
    body_timeout_s: float = 30.0  # for a whole body, longer by its size over min_rate
    write_timeout_s: float = 30.0  # for what waits to be read by the client, likewise
    min_rate_bytes_per_s: int = 16 * 1024
    idle_timeout_s: float = 75.0
    patience_s: float = 2.0  # of a goodbye, for a moment without open requests
    linger_s: float = 1.0  # between the goodbye and the end of the socket

    resets: Allowance = Allowance(200, 50, start=16)
    settings: Allowance = Allowance(32, 1)
    pings: Allowance = Allowance(128, 10)
    priorities: Allowance = Allowance(256, 10)
    window_updates: Allowance = Allowance(1024, 100)
    tiny_data: Allowance = Allowance(256, 100)
    other_frames: Allowance = Allowance(256, 10)


@dataclass(slots=True)
class Stream:
    """One request and its answer as seen from the outside."""

    opened_at: float
    request_open: bool = True
    response_open: bool = True
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(slots=True)
class Bucket:
    """What is left of an allowance."""

    allowance: Allowance
    updated_at: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        start = self.allowance.start
        self.level = self.allowance.burst if start is None else start

    def take(self, now: float) -> bool:
        burst = self.allowance.burst
        self.level = min(burst, self.level + (now - self.updated_at) * self.allowance.per_s)
        self.updated_at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def give(self, amount: int) -> None:
        self.level = min(self.allowance.burst, self.level + amount)


class Meter:
    """Reads the bytes of one connection as they pass. Times are seconds of any one monotonic clock.

    `streams` holds what is open: a stream leaves when both its sides have ended or either side reset it.
    """

    def __init__(self, limits: Limits, *, now: float) -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.last_stream_id = 0
        self.answering = 0  # streams whose answer has not ended
        self.idle_since = now
        self.charges_resets = True  # of the server's own making too; off while it drains
        self.pongs = 0
        self.urgent = False  # what was received last holds more than drops of bodies

        self._opened_at = now
        self._seen_settings = False
        self._preface_seen = 0
        self._head = bytearray()
        self._payload_left = 0
        self._frame_at: float | None = None  # when a frame began that has not ended
        self._frame_is_data = False
        self._frame_is_drop = False  # a few bytes of a body, more of which follow
        self._block_id = 0  # the stream of an unfinished header block
        self._block_bytes = 0
        self._block_frames = 0
        self._block_at = now

        self._resets = Bucket(limits.resets, now)
        self._settings = Bucket(limits.settings, now)
        self._pings = Bucket(limits.pings, now)
        self._priorities = Bucket(limits.priorities, now)
        self._window_updates = Bucket(limits.window_updates, now)
        self._tiny_data = Bucket(limits.tiny_data, now)
        self._others = Bucket(limits.other_frames, now)
        self._simple = {
            _PRIORITY: (self._priorities, Reason.PRIORITY_FLOOD),
            _WINDOW_UPDATE: (self._window_updates, Reason.WINDOW_UPDATE_FLOOD),
            _PING: (self._pings, Reason.PING_FLOOD),
            _SETTINGS: (self._settings, Reason.SETTINGS_FLOOD),
        }

    def receive(self, data: bytes, *, now: float) -> Violation | None:
        """Count what the client sent. After a violation none of `data` may reach the engine."""
        position = self._skip_preface(data)
        self.urgent = position != 0
        if position < 0:
            return Violation(Reason.PROTOCOL_ERROR, PROTOCOL_ERROR)
        end = len(data)
        begun_here = False
        while position < end:
            if self._payload_left:
                self.urgent = self.urgent or not self._frame_is_drop
                step = min(self._payload_left, end - position)
                self._payload_left -= step
                position += step
                continue
            begun_here = begun_here or not self._head
            step = min(_HEAD_BYTES - len(self._head), end - position)
            self._head += data[position : position + step]
            position += step
            if len(self._head) < _HEAD_BYTES:
                break
            violation = self._count_received(now)
            if violation is not None:
                return violation
        if not self._head and not self._payload_left:
            self._frame_at = None
        elif begun_here:
            self._frame_at = now
        return None

    def sent(self, data: bytes, *, now: float) -> Violation | None:
        """Count what the server answered: `data` is whole frames.

        Resets that the client provoked are charged to it as if they were its own: the request behind
        each costs the same.
        """
        position, end = 0, len(data)
        violation = None
        while position < end:
            length, kind, flags, stream_id = _read_head(data, position)
            position += _HEAD_BYTES + length
            stream = self.streams.get(stream_id)
            if stream is None:
                continue
            if kind == _RST_STREAM:
                error_code = int.from_bytes(data[position - 4 : position], "big")
                self._drop(stream_id, now)
                if error_code != NO_ERROR and self.charges_resets and not self._resets.take(now):
                    violation = Violation(Reason.RAPID_RESET)
            elif kind in (_DATA, _HEADERS):
                stream.sent_bytes += length
                ends = bool(flags & _END_STREAM)
                if ends or length >= _TINY_BYTES:
                    self._earn(ends)
                if ends:
                    self._end_response(stream_id, stream, now)
        return violation

    def overdue(self, *, now: float) -> Violation | None:
        """What the client should have sent by now; slow bodies are their streams' affair."""
        limits = self.limits
        if not self._seen_settings and now - self._opened_at > limits.header_timeout_s:
            return Violation(Reason.SLOW_HEADERS)
        if self._block_id and now - self._block_at > limits.header_timeout_s:
            return Violation(Reason.SLOW_HEADERS)
        if self._frame_at is not None and now - self._frame_at > limits.header_timeout_s:
            return Violation(Reason.SLOW_BODY if self._frame_is_data else Reason.SLOW_HEADERS)
        return None

    def slow_bodies(self, *, now: float) -> list[int]:
        """Streams whose request should have ended by now."""
        limits = self.limits
        return [
            stream_id
            for stream_id, stream in self.streams.items()
            if stream.request_open
            and now - stream.opened_at
            > limits.body_timeout_s + stream.received_bytes / limits.min_rate_bytes_per_s
        ]

    def is_idle(self, *, now: float) -> bool:
        return not self.streams and now - self.idle_since > self.limits.idle_timeout_s

    def _skip_preface(self, data: bytes) -> int:
        """Where in `data` the frames start; -1 when it is no preface."""
        missing = len(PREFACE) - self._preface_seen
        if not missing:
            return 0
        expected = PREFACE[self._preface_seen : self._preface_seen + len(data)]
        if not data.startswith(expected):
            return -1
        self._preface_seen += len(expected)
        return len(expected)

    def _count_received(self, now: float) -> Violation | None:
        length, kind, flags, stream_id = _read_head(self._head, 0)
        self._head.clear()
        self._payload_left = length
        self._frame_is_data = kind == _DATA
        stream = self.streams.get(stream_id) if kind == _DATA and length < _TINY_BYTES else None
        self._frame_is_drop = stream is not None and stream.request_open and not flags & _END_STREAM
        self.urgent = self.urgent or not self._frame_is_drop
        if length > self.limits.max_frame_bytes:
            return Violation(Reason.FRAME_TOO_LARGE, FRAME_SIZE_ERROR)
        if not self._seen_settings:
            if kind != _SETTINGS or flags & _ACK:
                return Violation(Reason.PROTOCOL_ERROR, PROTOCOL_ERROR)
            self._seen_settings = True
        if kind == _DATA:
            return self._count_data(length, flags, stream_id, now)
        if kind == _HEADERS:
            return self._count_headers(length, flags, stream_id, now)
        if kind == _CONTINUATION:
            return self._count_continuation(length, flags)
        if kind == _RST_STREAM:
            self._drop(stream_id, now)
            return None if self._resets.take(now) else Violation(Reason.RAPID_RESET)
        if kind == _PING and flags & _ACK:
            self.pongs += 1
        bucket, reason = self._simple.get(kind, (self._others, Reason.FRAME_FLOOD))
        return None if bucket.take(now) else Violation(reason)

    def _count_data(self, length: int, flags: int, stream_id: int, now: float) -> Violation | None:
        stream = self.streams.get(stream_id)
        ends = flags & _END_STREAM
        if stream is not None:
            stream.received_bytes += length
            if ends:
                self._end_request(stream_id, stream, now)
        if length >= (_TINY_BYTES + _PADDING_MAX if flags & _PADDED else _TINY_BYTES):
            self._pings.give(1)
        elif not ends and not self._tiny_data.take(now):
            return Violation(Reason.TINY_DATA_FLOOD)
        return None

    def _count_headers(self, length: int, flags: int, stream_id: int, now: float) -> Violation | None:
        if not flags & _END_HEADERS:
            self._block_id, self._block_at = stream_id, now
        self._block_bytes, self._block_frames = length, 0
        stream = self.streams.get(stream_id)
        if stream is None and stream_id > self.last_stream_id:
            if len(self.streams) >= 2 * self.limits.max_streams:
                return Violation(Reason.TOO_MANY_STREAMS)
            self.last_stream_id = stream_id
            stream = self.streams[stream_id] = Stream(now)
            self.answering += 1
        if stream is not None and flags & _END_STREAM:
            self._end_request(stream_id, stream, now)
        return self._check_block()

    def _count_continuation(self, length: int, flags: int) -> Violation | None:
        if flags & _END_HEADERS:
            self._block_id = 0
        self._block_bytes += length
        self._block_frames += 1
        if self._block_frames > self.limits.max_continuations:
            return Violation(Reason.CONTINUATION_FLOOD)
        return self._check_block()

    def _check_block(self) -> Violation | None:
        # A compressed block is never longer than the list of headers that it stands for.
        if self._block_bytes > self.limits.max_block_bytes:
            return Violation(Reason.HEADERS_TOO_LARGE)
        return None

    def _earn(self, ends: bool) -> None:
        """Clients accompany what they read by WINDOW_UPDATE and PING frames, browsers also by priorities."""
        self._window_updates.give(2)
        self._pings.give(1)
        if ends:
            self._resets.give(1)
            self._others.give(1)
            self._priorities.give(1)
            self._tiny_data.give(4)

    def _end_request(self, stream_id: int, stream: Stream, now: float) -> None:
        stream.request_open = False
        if not stream.response_open:
            self._drop(stream_id, now)

    def _end_response(self, stream_id: int, stream: Stream, now: float) -> None:
        if stream.response_open:
            stream.response_open = False
            self.answering -= 1
        if not stream.request_open:
            self._drop(stream_id, now)

    def _drop(self, stream_id: int, now: float) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.answering -= stream.response_open
            self.idle_since = now


def goaway(last_stream_id: int, *, error_code: int = NO_ERROR) -> bytes:
    """A GOAWAY frame."""
    return struct.pack(">HBBBIII", 0, 8, _GOAWAY, 0, 0, last_stream_id, error_code)


def ping(payload: bytes) -> bytes:
    """A PING frame around eight bytes."""
    return struct.pack(">HBBBI8s", 0, 8, _PING, 0, 0, payload)


def _read_head(data: bytes | bytearray, position: int) -> tuple[int, int, int, int]:
    """Length, type, flags and stream of the frame whose nine bytes start there."""
    high, low, kind, flags, stream_id = struct.unpack_from(">BHBBI", data, position)
    return high << 16 | low, kind, flags, stream_id & LAST_STREAM_ID
