"""HTTP/2's frames and gRPC's messages as bytes (RFC 9113 and "gRPC over HTTP/2"). Knows no connection."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0x0, 0x1, 0x2, 0x3, 0x4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0x5, 0x6, 0x7, 0x8, 0x9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x5, 0x6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x8, 0x9, 0xB

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x2, 0x3, 0x4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x5, 0x6

HEAD_BYTES = 9
PADDING_MAX = 256  # of a frame, with the byte that says how much it is
PREFIX_BYTES = 5  # before each message: whether it is compressed, and how long it is
WINDOW_MAX = 2**31 - 1

_HEAD = struct.Struct(">BHBBI")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_STRAY = re.compile(rb"[^\x20-\x7e]|%")
_HELD_BACK = re.compile(rb"[^\x20-\x7e]")

# ":status: 200" and the content type: how every answer begins. Indexed fields, and literals that no table
# keeps, so that the bytes are the same on each connection.
REPLY_HEAD = b"\x88\x0f\x10\x10application/grpc"
CODINGS = b"identity,deflate,gzip"


def read_head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Length, kind, flags and stream of the frame that begins there."""
    high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
    return high << 16 | low, kind, flags, stream_id & WINDOW_MAX


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values))


def window_update(stream_id: int, amount: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, amount.to_bytes(4))


def reset(stream_id: int, error_code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, error_code.to_bytes(4))


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table keeps."""
    return b"\0" + _text(name) + _text(value)


def fields(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Header fields; what may not stand in one is left out of it."""
    return b"".join(
        literal(name.lower().encode(), _HELD_BACK.sub(b"", value.encode("latin-1", "replace")))
        for name, value in pairs
    )


def status(code: int, message: str = "") -> bytes:
    """The fields that end an answer."""
    found = literal(b"grpc-status", b"%d" % code)
    return found + literal(b"grpc-message", _quote(message)) if message else found


def read_timeout(value: bytes) -> float:
    """Seconds of a `grpc-timeout`.

    :raises ValueError: it is none
    """
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise ValueError(value)
    return int(found[1]) * _UNITS[found[2]]


def _text(value: bytes) -> bytes:
    """A string literal, as it is."""
    size = len(value)
    if size < 0x7F:
        return bytes((size,)) + value
    found = bytearray((0x7F,))
    size -= 0x7F
    while size > 0x7F:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    found.append(size)
    return bytes(found) + value


def _quote(message: str) -> bytes:
    """As `grpc-message` wants it: percent-encoded UTF-8."""
    return _STRAY.sub(lambda found: b"%%%02X" % found[0][0], message.encode())
