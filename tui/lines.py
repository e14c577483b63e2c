"""Lines of a screen as values: a line is parts, a part a text and the role that says how it looks. Everything
that the dashboard draws is made of these, and only `ink` knows colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.cells import cell_len

from mdslite.tui.clean import clean

Part = tuple[str, str]
Line = list[Part]
Align = Literal["left", "right"]


def cells(text: str) -> int:
    """How many columns a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def line_width(line: Sequence[Part]) -> int:
    return sum(cells(text) for text, _ in line)


def plain(line: Sequence[Part]) -> str:
    return "".join(text for text, _ in line)


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns, its end replaced by … where it is too long."""
    if cells(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    kept, used = [], 0
    for letter in text:
        size = cells(letter)
        if used + size > width - 1:
            break
        kept.append(letter)
        used += size
    return "".join(kept) + "…"


def cut_middle(text: str, width: int) -> str:
    """The text in at most `width` columns, its middle replaced by …: names often differ at their end."""
    if cells(text) <= width:
        return text
    end = cut(text[::-1], (width - 1) // 2 + 1)[-2::-1]
    return cut(text, width - cells(end)) + end


def fit(value: object, width: int, align: Align = "left") -> str:
    """A cell of a table: exactly `width` columns of a cleaned value."""
    text = cut(clean(value), width)
    missing = " " * (width - cells(text))
    return missing + text if align == "right" else text + missing


def cut_line(line: Sequence[Part], width: int) -> Line:
    """The line in at most `width` columns."""
    found: Line = []
    left = width
    for text, role in line:
        size = cells(text)
        if size > left:
            if left:
                found.append((cut(text, left), role))
            return found
        found.append((text, role))
        left -= size
    return found


def pad(line: Sequence[Part], width: int, role: str = "") -> Line:
    """The line in exactly `width` columns."""
    found = cut_line(line, width)
    missing = width - line_width(found)
    if missing > 0:
        found.append((" " * missing, role))
    return found


def fill(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """Exactly `height` lines of exactly `width` columns."""
    found = [pad(line, width) for line in lines[:height]]
    found += [[(" " * width, "")] for _ in range(height - len(found))]
    return found


def spread(left: Sequence[Part], right: Sequence[Part], width: int) -> Line:
    """`left` at the left edge and `right` at the right one; where both do not fit, `left` is cut."""
    kept = cut_line(right, width)
    room = width - line_width(kept)
    return [*pad(cut_line(left, max(0, room - 1)), room), *kept]


def beside(left: Sequence[Line], right: Sequence[Line], *, width: int, gap: int = 0) -> list[Line]:
    """Two blocks side by side; `width` is the left one's."""
    height = max(len(left), len(right))
    none: Line = []
    return [
        [
            *pad(left[row] if row < len(left) else none, width + gap),
            *(right[row] if row < len(right) else none),
        ]
        for row in range(height)
    ]


def edge(
    left: Sequence[Part], right: Sequence[Part], width: int, *, corners: str = "╭╮", role: str = "frame"
) -> Line:
    """A horizontal border with words in it: `╭ left ──── right ─╮`."""
    first: Line = [(f"{corners[0]} ", role), *cut_line(left, width - 4), (" ", role)] if left else []
    first = first or [(corners[0], role)]
    last: Line = [(" ", role), *right, (f" ─{corners[1]}", role)] if right else [(f"─{corners[1]}", role)]
    rule = width - line_width(first) - line_width(last)
    if rule < 1 and right:
        return edge(left, [], width, corners=corners, role=role)
    return [*first, ("─" * rule, role), *last]


def sided(lines: Iterable[Line], width: int, *, role: str = "frame") -> list[Line]:
    """Lines between the sides of a box that is `width` columns wide."""
    return [[("│", role), *pad(line, width - 2), ("│", role)] for line in lines]


def bottom(width: int, *, role: str = "frame") -> Line:
    return [("╰" + "─" * (width - 2) + "╯", role)]
