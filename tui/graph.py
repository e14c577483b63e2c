"""Values over time as a filled graph of several rows, to the eighth of one."""

from __future__ import annotations

from collections.abc import Sequence

from mdslite.tui.lines import Line

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def graph_lines(
    values: Sequence[float | None], rows: int, *, top: float | None = None, role: str = "accent"
) -> list[Line]:
    """`rows` lines of one column a value; what is not known stays blank, and what is above `top` is cut.
    Without one, the greatest value fills the graph."""
    highest = top or max((one for one in values if one is not None), default=0.0)
    eighths = [
        0 if one is None or highest <= 0 else max(1, round(min(1.0, max(0.0, one) / highest) * rows * 8))
        for one in values
    ]
    return [
        [("".join(_EIGHTHS[max(0, min(8, one - 8 * row))] for one in eighths), role)]
        for row in reversed(range(rows))
    ]


def resample(values: Sequence[float | None], count: int, width: int) -> list[float | None]:
    """`width` means of what would be `count` values if all were there; the newest are."""
    missing: list[float | None] = [None] * (count - len(values))
    whole = [*missing, *values]
    found: list[float | None] = []
    for at in range(width):
        start = at * count // width
        stop = max(start + 1, (at + 1) * count // width)
        known = [one for one in whole[start:stop] if one is not None]
        found.append(sum(known) / len(known) if known else None)
    return found
