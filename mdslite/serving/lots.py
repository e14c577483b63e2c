"""A random share of all requests, the same ones wherever it is asked: by a hash of their ids, so that a
primary and its shadows draw alike. The hash's key is this process's own; nobody outside can aim at it.
"""

from __future__ import annotations

_BITS = 24


def is_drawn(request_id: str, share: float) -> bool:
    """Is a request among the `share` (0 to 1) of all?"""
    return hash(request_id) & ((1 << _BITS) - 1) < share * (1 << _BITS)
