"""Compressed request bodies, inflated within bounds."""

from __future__ import annotations

import zlib

from mdslite.errors import InvalidRequest, TooLarge, UnsupportedMedia, quoted

_HINT = "compress all of it at once, or send it as it is"


def decompress(body: bytes, encoding: bytes, *, limit: int) -> bytes:
    """Inflate a gzip or deflate body without ever holding more than `limit` bytes of it.

    :raises TooLarge: it is longer
    :raises InvalidRequest: it is corrupt, cut short, or more than one stream
    :raises UnsupportedMedia: another encoding
    """
    windows = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}
    window = windows.get(encoding)
    if window is None:
        raise UnsupportedMedia(
            f"content-encoding {quoted(encoding.decode('latin-1'))} is not served: expected gzip or deflate"
        )
    engine = zlib.decompressobj(window)
    try:
        plain = engine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise InvalidRequest(f"the body is no valid {encoding.decode('latin-1')} data", hint=_HINT) from exc
    if len(plain) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes when decompressed")
    if not engine.eof:
        raise InvalidRequest("the compressed body is cut short", hint=_HINT)
    if engine.unused_data:
        raise InvalidRequest("something follows the compressed body; expected one stream", hint=_HINT)
    return plain
