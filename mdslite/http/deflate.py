"""Compressed replies, for the clients that wish for one."""

from __future__ import annotations

import zlib

LEAST_BYTES = 1024  # what is shorter travels in a packet or two anyway
INLINE_BYTES = 32 * 1024  # what is longer would hold the event loop for more than half a millisecond

_WINDOWS = {"gzip": 31, "deflate": 15}


def choose_coding(wish: bytes) -> str:
    """The coding of a reply to a request with this Accept-Encoding; empty for none.

    Libraries list all that they can read, whether it pays or not, and tensors hardly shrink. So only a client
    that names one coding alone is taken to wish for it.
    """
    name, _, weight = wish.decode("latin-1").strip().lower().partition(";")
    name = name.strip()
    return name if name in _WINDOWS and weight.strip() not in ("q=0", "q=0.0") else ""


def compress(body: bytes, coding: str) -> bytes:
    """Compress a body, quickly rather than well."""
    engine = zlib.compressobj(1, zlib.DEFLATED, _WINDOWS[coding])
    return engine.compress(body) + engine.flush()
