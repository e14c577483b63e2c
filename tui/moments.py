"""Times as the API tells them, in Unix seconds."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache


def unix(value: object) -> float:
    """A time in seconds or ISO 8601; 0 for what is neither."""
    if isinstance(value, int | float):
        return float(value)
    return _parsed(value) if isinstance(value, str) else 0.0


@lru_cache(maxsize=1024)
def _parsed(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
