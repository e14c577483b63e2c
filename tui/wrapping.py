"""Text broken into lines."""

from __future__ import annotations

import textwrap

from rich.cells import chop_cells

from mdslite.tui.lines import cells


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at blanks where there are any."""
    width = max(8, width)
    if text.isascii():
        return textwrap.wrap(text, width, break_long_words=True, break_on_hyphens=False) or [""]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells(joined) <= width:
            lines[-1] = joined
        else:
            lines += chop_cells(word, width)
    return lines if lines[0] else lines[1:] or [""]
