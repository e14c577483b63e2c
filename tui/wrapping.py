"""Text broken into lines."""

from __future__ import annotations

import textwrap


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` letters, broken at blanks where there are any."""
    return textwrap.wrap(text, max(8, width), break_long_words=True, break_on_hyphens=False) or [""]
